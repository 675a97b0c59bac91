"""Real servers for the tests, without Docker: started from local binaries on free ports, ended with the test run.

`provide` finds the session's server of a service; `Server` is a private one, to be killed, paused and restarted.
Start servers from the main thread: they are told to end when the thread that started them does.
"""

import gc
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Final, NoReturn, Self
from urllib.parse import urlsplit

import pytest

from tests.services import REDIS, Place, Service

TRIES: Final = 3
PATIENCE: Final = 30.0
LOG_TAIL: Final = 2000
USER: Final = ("nobody", "nogroup")
_PORTS: Final = range(10_240, 32_768)


class ServerFailed(Exception):
    """A server did not start; the message has the end of its log."""


class ProgramFailed(Exception):
    """A program that was run beside a server; the message has what it printed."""


@dataclass
class Server:
    """A server of one's own, in a directory of its own. As a context manager it runs inside.

    Without a binary, the test that makes one is skipped, or fails if all brokers are required.
    """

    service: Service = REDIS
    arguments: Sequence[str] = ()
    port: int = 0
    companion: "Server | None" = None
    """What it needs beside it, if its service says so: its own, unless one is given that it shares."""
    process: subprocess.Popen[bytes] | None = None
    binary: str = field(init=False)
    directory: Path = field(init=False)
    _settled: bool = field(init=False)

    def __post_init__(self) -> None:
        self.binary = needs_binary(self.service)
        self.directory = Path(tempfile.mkdtemp(prefix="jobq-test-"))
        self._settled = self.port != 0
        if self.service.companion is not None and self.companion is None:
            self.companion = Server(self.service.companion)

    @property
    def url(self) -> str:
        return self.service.url.format(host="127.0.0.1", port=self.port)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Kill it and its companion, and remove its directory."""
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)
        if self.companion is not None:
            self.companion.close()

    def start(self) -> None:
        """Start it, on the port it had before if it ran already, and wait until it answers."""
        self.launch()
        self.wait()

    def launch(self) -> None:
        """Begin to start it. `wait` has to follow, or the test's own waiting for `answers`."""
        if self.companion is not None and self.companion.process is None:
            self.companion.start()
        if not self._settled:
            self.port = free_port()
        self.process = self._spawn()

    def wait(self) -> None:
        """Wait until it answers; if it ends instead, start it again, on another port unless it has one already."""
        for attempt in range(TRIES):
            if attempt:
                self.launch()
            if self._came_up():
                self._settled = True
                return
            self.kill()
        raise ServerFailed(f"{self.service.name} did not start on port {self.port}:\n{self.log_tail()}")

    def answers(self) -> bool:
        """Whether it runs and answers."""
        # A stranger may have taken the port just before; then ours is about to exit.
        return self._runs() and self.service.answers("127.0.0.1", self.port) and self._runs()

    def kill(self) -> None:
        """Kill -9."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Ask it to end, and wait for it."""
        self._end(self.service.ending)

    def pause(self) -> None:
        """SIGSTOP: connections stay open and nothing is answered."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    def run(self, *command: str) -> str:
        """What this program prints, run as the server is: by its user, with its directory and environment."""
        try:
            return subprocess.run(
                [*_as_a_mortal(), *command],
                cwd=self.directory,
                env=self._environment(self._place()),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=True,
                text=True,
                timeout=PATIENCE,
            ).stdout
        except subprocess.CalledProcessError as failed:
            raise ProgramFailed(f"{command} ended with {failed.returncode}: {failed.stdout}{failed.stderr}") from None

    def log_tail(self) -> str:
        """The end of what it printed."""
        return (self.directory / "log").read_text(errors="replace")[-LOG_TAIL:]

    def write(self, name: str, text: str) -> Path:
        """A file in its directory that only it may read and write, for ACLs or a configuration."""
        path = self.directory / name
        path.write_text(text)
        path.chmod(0o600)
        self._give_away(path)
        return path

    def _spawn(self) -> subprocess.Popen[bytes]:
        self._give_away(self.directory)
        place = self._place()
        for name, text in self.service.files(place).items():
            self.write(name, text)
        with (self.directory / "log").open("ab") as log:
            return subprocess.Popen(
                [*_as_a_mortal(), *self.service.command(place), *self.arguments],
                cwd=self.directory,
                env=self._environment(place),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _place(self) -> Place:
        companion = self.companion.port if self.companion is not None else 0
        return Place(
            binary=self.binary, directory=self.directory, port=self.port, spare=free_port(), companion=companion
        )

    def _environment(self, place: Place) -> dict[str, str]:
        usual = {"PATH": os.environ["PATH"], "HOME": str(self.directory), "LC_ALL": "C.UTF-8"}
        return {**usual, **self.service.environment(place)}

    def _came_up(self) -> bool:
        end = time.monotonic() + self.service.starting
        while self._runs() and time.monotonic() < end:
            if self.answers():
                return True
            time.sleep(0.01)
        return False

    def _runs(self) -> bool:
        return self.process is not None and self.process.poll() is None

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
    """A prefix that gives up root's rights, and kills the server, also a paused one, when the tests are killed."""
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        return []
    user, group = USER
    rights = ["--reuid", user, "--regid", group, "--clear-groups"] if os.geteuid() == 0 else []
    return [setpriv, "--pdeathsig", "KILL", *rights, "--"]


def free_port() -> int:
    """A port that was free a moment ago, and is none that systems give to whoever asks for any.

    So nobody has taken it when its server is killed and comes back.
    """
    while True:
        port = _PORTS[secrets.randbelow(len(_PORTS))]  # `random` begins anew with each test
        with suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
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
    with begin(service) as finish:
        yield finish()


@contextmanager
def begin(service: Service) -> Generator[Callable[[], Found | Missing]]:
    """What `provide` does, without the waiting, which is left to the function: several servers start at once."""
    url = os.environ.get(service.variable)
    if url:
        yield partial(_named, service, url)
    elif service.binary or _install(service):
        with closing(Server(service)) as server:
            server.launch()
            yield partial(_started, server)
    else:
        with _in_docker(service) as found:
            why = f"no {service.name} here; {install_line(service)}, or set {service.variable}"
            outcome = found or Missing(why, wanted=all_required())
            yield lambda: outcome


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


def _started(server: Server) -> Found:
    server.wait()
    return Found(server.url, f"started {server.binary}")


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
        end = time.monotonic() + service.starting
        while not service.answers(host, port) and time.monotonic() < end:
            time.sleep(0.05)
        yield Found(service.url.format(host=host, port=port), f"a container of {service.image}")
