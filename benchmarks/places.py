"""Where a measurement's jobs are: a server or file of its own, that nothing else has used."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.processes import Failed, Processes, wait_for

__all__ = ["Place", "place"]

_TICKS = os.sysconf("SC_CLK_TCK")
_RABBITMQ_SERVER: Final = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
"""The one on the PATH may be a wrapper that changes the user and logs elsewhere."""
_RABBITMQ: Final = """
listeners.tcp.1 = 127.0.0.1:{port}
loopback_users = none
log.console = true
log.file = false
"""


@dataclass(frozen=True)
class Place:
    """An empty broker."""

    url: str
    server: int | None = None
    """The server's process id."""

    def server_cpu(self) -> float:
        """CPU seconds that the server and its children have used; 0 if there is none."""
        if self.server is None:
            return 0.0
        children = Path(f"/proc/{self.server}/task/{self.server}/children").read_text().split()
        running = sum(sum(_times(int(child))[:2]) for child in children)
        return (sum(_times(self.server)) + running) / _TICKS


def _times(pid: int) -> list[int]:
    """Clock ticks of a process: its own, user and system, and those of the children that it has seen end."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return [0, 0, 0, 0]
    return [int(field) for field in fields[11:15]]


@contextmanager
def place(broker: str, directory: Path, processes: Processes) -> Generator[Place]:
    """A fresh one; `processes` ends its server."""
    match broker:
        case "redis":
            yield _redis(directory, processes)
        case "rmq":
            yield _rabbitmq(directory, processes, "quorum")
        case "rmq-classic":
            yield _rabbitmq(directory, processes, "classic")
        case "postgres":
            with _postgres(processes) as server:
                yield server
        case "sqlite":
            yield Place(f"sqlite:///{directory}/jobs.db")
        case _:
            yield Place("memory://")


def _redis(directory: Path, processes: Processes) -> Place:
    binary = shutil.which("redis-server") or shutil.which("valkey-server")
    if binary is None:
        raise Failed("there is no redis-server; install it (Debian: apt-get install redis-server)")
    port = _free_port()
    command = [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    server = processes.start([*command, "--dir", str(directory)])
    wait_for(lambda: _answers(port), 10, "redis-server")
    return Place(f"redis://127.0.0.1:{port}/0", server.pid)


@contextmanager
def _postgres(processes: Processes) -> Generator[Place]:
    """A server with its own defaults, which makes what it commits durable."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    binary = str(found[-1]) if found else shutil.which("postgres")
    if binary is None:
        raise Failed("there is no postgres; install it (Debian: apt-get install postgresql)")
    directory = Path(tempfile.mkdtemp(prefix="jobq-bench-", dir="/var/tmp"))  # on disk, and where anybody may go
    data, port = directory / "data", _free_port()
    try:
        mortal = _given_to_a_mortal(directory)
        init = [*mortal, str(Path(binary).with_name("initdb")), "-D", str(data), "-U", "jobq", "--auth=trust"]
        subprocess.run([*init, "--no-locale", "-E", "UTF8"], check=True, stdout=subprocess.DEVNULL, cwd=directory)
        options = [
            "-D",
            str(data),
            "-p",
            str(port),
            "-c",
            "listen_addresses=127.0.0.1",
            "-c",
            "unix_socket_directories=",
        ]
        server = processes.start([*mortal, binary, *options])
        user = b"user\0jobq\0database\0postgres\0\0"
        hello = (8 + len(user)).to_bytes(4, "big") + (3 << 16).to_bytes(4, "big") + user
        wait_for(lambda: _answers(port, hello, b"R"), 20, "postgres")
        yield Place(f"postgresql://jobq@127.0.0.1:{port}/postgres", server.pid)
        processes.stop(server)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _given_to_a_mortal(directory: Path) -> list[str]:
    """What to put before a command that refuses to be run by root."""
    if os.geteuid() != 0:
        return []
    shutil.chown(directory, "nobody", "nogroup")
    return ["setpriv", "--reuid", "nobody", "--regid", "nogroup", "--clear-groups", "--"]


def _rabbitmq(directory: Path, processes: Processes, kind: str) -> Place:
    """A node with all that it needs in `directory`, and a port mapper of its own beside it."""
    mapper = shutil.which("epmd")
    if mapper is None or not _RABBITMQ_SERVER.exists():
        raise Failed("there is no rabbitmq-server; install it (Debian: apt-get install rabbitmq-server)")
    port, names, peers = (_free_port() for _ in range(3))
    directory.chmod(0o755)
    (directory / "rabbitmq.conf").write_text(_RABBITMQ.format(port=port))
    (directory / "plugins").write_text("[].")
    (directory / "env.conf").touch()
    processes.start([mapper, "-port", str(names), "-address", "127.0.0.1"])
    wait_for(lambda: _listens(names), 10, "epmd")  # else the node starts one that nobody ends
    processes.start([str(_RABBITMQ_SERVER)], _rabbitmq_environment(directory, names, peers))
    wait_for(lambda: _answers(port, b"AMQP\0\0\x09\x01", b"\x01"), 60, "rabbitmq-server")
    pid = int((directory / "pid").read_text())
    return Place(f"amqp://guest:guest@127.0.0.1:{port}/?type={kind}", pid)


def _rabbitmq_environment(directory: Path, names: int, peers: int) -> dict[str, str]:
    return {
        "HOME": str(directory),
        "ERL_EPMD_PORT": str(names),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODENAME": "bench@localhost",
        "RABBITMQ_DIST_PORT": str(peers),
        "RABBITMQ_CONFIG_FILE": str(directory / "rabbitmq.conf"),
        "RABBITMQ_CONF_ENV_FILE": str(directory / "env.conf"),
        "RABBITMQ_MNESIA_BASE": str(directory / "mnesia"),
        "RABBITMQ_LOG_BASE": str(directory / "logs"),
        "RABBITMQ_LOGS": "-",
        "RABBITMQ_PID_FILE": str(directory / "pid"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "plugins"),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
    }


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def _answers(port: int, greeting: bytes = b"PING\r\n", answer: bytes = b"+PONG") -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(greeting)
            return connection.recv(16).startswith(answer)
    except OSError:
        return False
