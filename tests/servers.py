"""Real servers for the tests, without Docker: started from local binaries on free ports, ended with the test run.

`provide` finds the session's server of a `Service`; `Server` is a private one, to be killed, paused and restarted.
Start servers from the main thread: they are told to end when the thread that started them does.
"""

import gc
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Final, NoReturn, Self
from urllib.parse import urlsplit

import pytest

STARTING: Final = 20.0
TRIES: Final = 3
LOG_TAIL: Final = 2000
USER: Final = ("nobody", "nogroup")


@dataclass(frozen=True, kw_only=True)
class Service:
    """A kind of server: how it is found, installed, started and greeted."""

    name: str
    binaries: Sequence[str]
    package: str
    image: str
    image_port: int
    url: str
    command: Callable[[str, int, Path], Sequence[str]]
    answers: Callable[[str, int], bool]

    @property
    def variable(self) -> str:
        """The environment variable with the URL of a server to be used."""
        return f"JOBQ_TEST_{self.name.upper()}_URL"

    @property
    def binary(self) -> str | None:
        return next(filter(None, map(shutil.which, self.binaries)), None)


def _redis_command(binary: str, port: int, directory: Path) -> list[str]:
    return [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(directory)]


def _redis_answers(host: str, port: int) -> bool:
    """Whether it speaks Redis; an error is an answer too, since a private server may ask for a password."""
    try:
        with socket.create_connection((host, port), timeout=2) as connection:
            connection.sendall(b"PING\r\n")
            reply = connection.recv(64)
    except OSError:
        return False
    return reply.startswith((b"+PONG", b"-NOAUTH", b"-NOPERM", b"-MASTERDOWN"))


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
SERVICES: Final = (REDIS,)


class ServerFailed(Exception):
    """A server did not start; the message has the end of its log."""


@dataclass
class Server:
    """A server of one's own, in a directory of its own. As a context manager it runs inside.

    Without a binary, the test that makes one is skipped, or fails if all brokers are required.
    """

    service: Service = REDIS
    arguments: Sequence[str] = ()
    port: int = 0
    process: subprocess.Popen[bytes] | None = None
    binary: str = field(init=False)
    directory: Path = field(init=False)

    def __post_init__(self) -> None:
        self.binary = needs_binary(self.service)
        self.directory = Path(tempfile.mkdtemp(prefix="jobq-test-"))

    @property
    def url(self) -> str:
        return self.service.url.format(host="127.0.0.1", port=self.port)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def start(self) -> None:
        """Start it, on the port it had before if it ran already, and wait until it answers."""
        fixed = self.port != 0
        for attempt in range(TRIES):
            self.port = self.port if fixed else free_port()
            self.process = self._spawn()
            if self._came_up():
                return
            self.kill()
            if attempt == TRIES - 1:
                raise ServerFailed(f"{self.service.name} did not start on port {self.port}:\n{self.log_tail()}")

    def kill(self) -> None:
        """Kill -9."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Ask it to end, and wait for it."""
        self._end(signal.SIGTERM)

    def pause(self) -> None:
        """SIGSTOP: connections stay open and nothing is answered."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    def log_tail(self) -> str:
        """The end of what it printed."""
        return (self.directory / "log").read_text(errors="replace")[-LOG_TAIL:]

    def write(self, name: str, text: str) -> Path:
        """A file in its directory that it may read and write, for ACLs or a configuration."""
        path = self.directory / name
        path.write_text(text)
        self._give_away(path)
        return path

    def _spawn(self) -> subprocess.Popen[bytes]:
        self._give_away(self.directory)
        command = [*_as_a_mortal(), *self.service.command(self.binary, self.port, self.directory), *self.arguments]
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.directory), "LC_ALL": "C.UTF-8"}
        with (self.directory / "log").open("ab") as log:
            return subprocess.Popen(
                command,
                cwd=self.directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _came_up(self) -> bool:
        end = time.monotonic() + STARTING
        while self.process is not None and self.process.poll() is None and time.monotonic() < end:
            if self.service.answers("127.0.0.1", self.port):
                # A stranger may have taken the port just before; then ours is about to exit.
                return self.process.poll() is None
            time.sleep(0.01)
        return False

    def _give_away(self, path: Path) -> None:
        if os.geteuid() == 0:
            shutil.chown(path, *USER)

    def _signal(self, number: int) -> None:
        assert self.process is not None, "it is not running"
        self.process.send_signal(number)

    def _end(self, number: int) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(number)
            self.process.wait()
            self.process = None


def _as_a_mortal() -> list[str]:
    """A prefix that gives up root's rights, and ends the server when the tests are killed."""
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        return []
    user, group = USER
    rights = ["--reuid", user, "--regid", group, "--clear-groups"] if os.geteuid() == 0 else []
    return [setpriv, "--pdeathsig", "TERM", *rights, "--"]


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(frozen=True)
class Found:
    """The server to be used, and why this one."""

    url: str
    why: str


@dataclass(frozen=True)
class Missing:
    """There is no server. If `wanted`, tests that need it fail instead of being skipped."""

    why: str
    wanted: bool


@contextmanager
def provide(service: Service) -> Generator[Found | Missing]:
    """The session's server, in this order: named by a variable, installed here, installed now, in Docker."""
    url = os.environ.get(service.variable)
    if url:
        yield _named(service, url)
    elif service.binary or _install(service):
        with Server(service) as server:
            yield Found(server.url, f"started {service.binary}")
    else:
        with _in_docker(service) as found:
            why = f"no {service.name} here; {install_line(service)}, or set {service.variable}"
            yield found or Missing(why, wanted=all_required())


def needs_binary(service: Service) -> str:
    """The binary, for servers of a test's own; skips the test if there is none, or fails it if there has to be."""
    binary = service.binary
    if binary is None:
        why = f"no {service.binaries[0]} here, and this test starts servers of its own; {install_line(service)}"
        go_without(why, wanted=all_required())
    return binary


def all_required() -> bool:
    """Whether a missing server is a failure, as in CI."""
    return bool(os.environ.get("JOBQ_REQUIRE_ALL_BROKERS"))


def go_without(why: str, *, wanted: bool) -> NoReturn:
    """Skip the test, or fail it if what is missing is wanted."""
    if wanted:
        pytest.fail(why)
    pytest.skip(why)


def install_line(service: Service) -> str:
    """What to type."""
    return f"apt-get install -y --no-install-recommends {service.package}"


def _named(service: Service, url: str) -> Found | Missing:
    parts = urlsplit(url)
    plain = parts.scheme == urlsplit(service.url).scheme  # the probes speak no TLS
    if plain and not service.answers(parts.hostname or "localhost", parts.port or service.image_port):
        return Missing(f"{service.variable} is set, but no {service.name} answers there", wanted=True)
    return Found(url, f"named by {service.variable}")


def _install(service: Service) -> bool:
    """Install its package if that is allowed and possible."""
    if os.environ.get("JOBQ_TEST_INSTALL") != "1" or not shutil.which("apt-get"):
        return False
    root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    if root and (not shutil.which("sudo") or subprocess.run(["sudo", "-n", "true"], check=False).returncode):
        return False
    install = [*root, "apt-get", "install", "-y", "-qq", "--no-install-recommends", service.package]
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    if subprocess.run(install, env=quiet, check=False, stdout=subprocess.DEVNULL).returncode:
        subprocess.run([*root, "apt-get", "update", "-qq"], env=quiet, check=False)
        subprocess.run(install, env=quiet, check=False, stdout=subprocess.DEVNULL)
    return service.binary is not None


def _docker_answers() -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            import_module("testcontainers.core.container")
            import_module("docker").from_env(timeout=2).ping()
        except Exception:  # no library, no engine, no rights: there are many ways to have no Docker
            answers = False
        else:
            answers = True
        gc.collect()  # the library drops the socket that it could not connect: later that would be an error
    return answers


@contextmanager
def _in_docker(service: Service) -> Generator[Found | None]:
    """A container, if a Docker engine answers."""
    if not _docker_answers():
        yield None
        return
    from testcontainers.core.container import DockerContainer  # noqa: PLC0415 - optional, and slow to import

    with DockerContainer(service.image).with_exposed_ports(service.image_port) as container:
        host, port = container.get_container_host_ip(), int(container.get_exposed_port(service.image_port))
        end = time.monotonic() + STARTING
        while not service.answers(host, port) and time.monotonic() < end:
            time.sleep(0.05)
        yield Found(service.url.format(host=host, port=port), f"a container of {service.image}")
