"""The kinds of servers that tests use: how each is found, installed, configured, started and greeted."""

import shutil
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a server is to run."""

    binary: str
    directory: Path
    port: int
    spare: int
    """Another port that is free, for what only servers of its kind connect to."""
    companion: int
    """The port of its companion, if it has one."""


def _nothing(place: Place) -> Mapping[str, str]:
    return {}


@dataclass(frozen=True, kw_only=True)
class Service:
    """A kind of server."""

    name: str
    binaries: Sequence[str]
    package: str
    url: str
    command: Callable[[Place], Sequence[str]]
    answers: Callable[[str, int], bool]
    image: str = ""
    image_port: int = 0
    environment: Callable[[Place], Mapping[str, str]] = _nothing
    files: Callable[[Place], Mapping[str, str]] = _nothing
    """What is in its directory before it starts: names and texts."""
    companion: "Service | None" = None
    """What each server of this kind needs to have running beside it."""
    starting: float = 20.0
    """Seconds that a start may take."""
    ending: signal.Signals = signal.SIGTERM
    """Asks it to end."""

    @property
    def variable(self) -> str:
        """The environment variable with the URL of a server to be used."""
        return f"JOBQ_TEST_{self.name.upper()}_URL"

    @property
    def binary(self) -> str | None:
        """Its path, if it can be started here."""
        if self.companion is not None and self.companion.binary is None:
            return None
        return next(filter(None, map(shutil.which, self.binaries)), None)


def _reply(host: str, port: int, greeting: bytes) -> bytes:
    """What is said first, by who is greeted; nothing, if there is nobody."""
    try:
        with socket.create_connection((host, port), timeout=2) as connection:
            connection.sendall(greeting)
            return connection.recv(64)
    except OSError:
        return b""


def _redis_command(place: Place) -> list[str]:
    where = ["--port", str(place.port), "--bind", "127.0.0.1", "--dir", str(place.directory)]
    return [place.binary, *where, "--save", ""]


def _redis_answers(host: str, port: int) -> bool:
    """Whether it speaks Redis; an error is an answer too, since a private server may ask for a password."""
    return _reply(host, port, b"PING\r\n").startswith((b"+PONG", b"-NOAUTH", b"-NOPERM", b"-MASTERDOWN"))


REDIS: Final = Service(
    name="redis",
    binaries=("redis-server", "valkey-server"),
    package="redis-server",
    image="redis:7.2",
    image_port=6379,
    url="redis://{host}:{port}/0",
    command=_redis_command,
    answers=_redis_answers,
)


def _epmd_command(place: Place) -> list[str]:
    return [place.binary, "-port", str(place.port), "-address", "127.0.0.1"]


def _epmd_answers(host: str, port: int) -> bool:
    """Whether it lists its nodes: the list begins with its own port."""
    return _reply(host, port, b"\x00\x01n").startswith(port.to_bytes(4, "big"))


EPMD: Final = Service(
    name="epmd",
    binaries=("epmd",),
    package="erlang-base",
    url="epmd://{host}:{port}",
    command=_epmd_command,
    answers=_epmd_answers,
)
"""Where Erlang's nodes find one another. Without one of its own, a node would use that of the machine, or leave one."""


RABBITMQ_CONF: Final = """
listeners.tcp.1 = 127.0.0.1:{port}
loopback_users = none
log.console = true
log.file = false
disk_free_limit.absolute = 1MB
"""
LOCAL_ONLY: Final = "-kernel inet_dist_use_interface {127,0,0,1}"


def _rabbitmq_command(place: Place) -> list[str]:
    return [place.binary]


def rabbitmq_node(port: int) -> str:
    """The name of the node whose AMQP port this is."""
    return f"jobq{port}@localhost"


def _rabbitmq_environment(place: Place) -> dict[str, str]:
    """Everything in its directory, nothing of the machine's own RabbitMQ; for `rabbitmqctl`, too."""
    inside = {
        "RABBITMQ_ADVANCED_CONFIG_FILE": "advanced.config",
        "RABBITMQ_CONFIG_FILE": "rabbitmq.conf",
        "RABBITMQ_CONFIG_FILES": "conf.d",
        "RABBITMQ_CONF_ENV_FILE": "rabbitmq-env.conf",
        "RABBITMQ_ENABLED_PLUGINS_FILE": "enabled_plugins",
        "RABBITMQ_LOG_BASE": "logs",
        "RABBITMQ_MNESIA_BASE": "mnesia",
    }
    return {
        **{name: str(place.directory / file) for name, file in inside.items()},
        "ERL_CRASH_DUMP_SECONDS": "0",
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "ERL_EPMD_PORT": str(place.companion),
        "RABBITMQ_CTL_DIST_PORT_MIN": "0",  # any, instead of one of eleven for the whole machine
        "RABBITMQ_CTL_ERL_ARGS": LOCAL_ONLY,
        "RABBITMQ_DIST_PORT": str(place.spare),
        "RABBITMQ_LOGS": "-",
        "RABBITMQ_NODENAME": rabbitmq_node(place.port),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"+S 2:2 {LOCAL_ONLY}",
        "RUNNING_UNDER_SYSTEMD": "true",  # its shell script becomes the server, which signals then reach
    }


def _rabbitmq_files(place: Place) -> dict[str, str]:
    return {"rabbitmq.conf": RABBITMQ_CONF.format(port=place.port), "enabled_plugins": "[]."}


def _rabbitmq_answers(host: str, port: int) -> bool:
    """Whether it opens an AMQP connection."""
    return _reply(host, port, b"AMQP\x00\x00\x09\x01").startswith(b"\x01")


RABBITMQ: Final = Service(
    name="rabbitmq",
    # Debian's one in the PATH is a wrapper that becomes another user and writes to /var.
    binaries=("/usr/lib/rabbitmq/bin/rabbitmq-server", "rabbitmq-server"),
    package="rabbitmq-server",
    image="rabbitmq:4",
    image_port=5672,
    url="amqp://guest:guest@{host}:{port}/",
    command=_rabbitmq_command,
    answers=_rabbitmq_answers,
    environment=_rabbitmq_environment,
    files=_rabbitmq_files,
    companion=EPMD,
    starting=45.0,
)


def _postgres_command(place: Place) -> list[str]:
    """Initialise the directory once, then become the server."""
    data, tools = place.directory / "data", Path(place.binary).parent
    init = f"{tools}/initdb -D {data} -U jobq --auth=trust --no-sync --no-locale -E UTF8"
    start = f"exec {place.binary} -D {data} -p {place.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories="
    careless = "-c fsync=off -c full_page_writes=off -c max_connections=200"
    script = f'test -e {data} || {init} || exit 1; {start} {careless} "$@"'
    return ["/bin/sh", "-c", script, "postgres"]  # behind which come the server's own arguments


def _postgres_answers(host: str, port: int) -> bool:
    """Whether it takes connections: one that is still recovering says so to who tries."""
    user = b"user\0jobq\0database\0postgres\0\0"
    hello = (8 + len(user)).to_bytes(4, "big") + (3 << 16).to_bytes(4, "big") + user
    return _reply(host, port, hello).startswith(b"R")


POSTGRES: Final = Service(
    name="postgres",
    binaries=(*(f"/usr/lib/postgresql/{version}/bin/postgres" for version in range(19, 11, -1)), "postgres"),
    package="postgresql",
    image="postgres:16",
    image_port=5432,
    url="postgresql://jobq@{host}:{port}/postgres",
    command=_postgres_command,
    answers=_postgres_answers,
    ending=signal.SIGINT,  # SIGTERM waits for its clients
)
PGBOUNCER_INI: Final = """
[databases]
* = host=127.0.0.1 port={companion} user=jobq
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 5
max_client_conn = 500
"""


def _pgbouncer_files(place: Place) -> dict[str, str]:
    return {"pgbouncer.ini": PGBOUNCER_INI.format(companion=place.companion, port=place.port)}


PGBOUNCER: Final = Service(
    name="pgbouncer",
    binaries=("/usr/sbin/pgbouncer", "pgbouncer"),
    package="pgbouncer",
    url="postgresql://jobq@{host}:{port}/postgres",
    command=lambda place: [place.binary, str(place.directory / "pgbouncer.ini")],
    answers=_postgres_answers,
    files=_pgbouncer_files,
    companion=POSTGRES,
    ending=signal.SIGINT,
)
"""A pooler that gives each transaction whichever connection is free."""
SERVICES: Final = (REDIS, RABBITMQ, POSTGRES, PGBOUNCER)
