"""The servers that the tests start, and where they come from."""

import gc
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType, TracebackType
from typing import ClassVar, Self

import pytest

from tests.servers import Found, Missing, Server, ServerFailed, begin, free_port, needs_binary, provide
from tests.services import EPMD, RABBITMQ, REDIS, SERVICES, Service

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 20.0

INSTALL = "-y -qq --no-install-recommends redis-server"
APT = """#!/bin/sh
echo "$*" >> {folder}/calls
case $1 in
    update) echo > {folder}/lists ;;
    install) [ -e {folder}/lists ] && command -p mv {folder}/redis-server {folder}/bin/redis-server ;;
esac
"""
SUDO = """#!/bin/sh
echo "sudo $*" >> {folder}/calls
shift
[ -e {folder}/trusted ] && case $1 in true) ;; *) exec "$@" ;; esac
"""
SERVER = """#!{python}
import socket, sys
with socket.create_server(("127.0.0.1", int(sys.argv[2]))) as server:
    while True:
        with server.accept()[0] as connection:
            connection.recv(64)
            connection.sendall(b"+PONG\\r\\n")
"""
KILLED = """
import signal
from tests.servers import Server
from tests.services import {service}
server = Server({service})
server.start()
server.pause()
print(*(it.directory for it in (server, server.companion) if it is not None), flush=True)
signal.pause()
"""
PATIENT = {RABBITMQ.name: pytest.mark.timeout(180)}
each_service = pytest.mark.parametrize(
    "service", [pytest.param(it, id=it.name, marks=PATIENT.get(it.name, ())) for it in SERVICES]
)


@pytest.fixture(autouse=True)
def _no_installing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JOBQ_TEST_INSTALL", raising=False)
    for service in SERVICES:
        monkeypatch.delenv(service.variable, raising=False)


@pytest.fixture
def _nothing_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a binary nor a Docker engine."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("DOCKER_HOST", "unix:///no/such/socket")


def chown(path: Path, user: str, group: str) -> None:
    assert path.exists(), f"{user} and {group} would get nothing"


@dataclass
class Debian:
    """A machine with nothing but an apt-get and a sudo, which are ours."""

    folder: Path

    def put(self, name: str, text: str) -> None:
        path = self.folder / name
        path.write_text(text.format(folder=self.folder, python=sys.executable))
        path.chmod(0o755)

    @property
    def calls(self) -> list[str]:
        """What was asked of it."""
        calls = self.folder / "calls"
        return calls.read_text().splitlines() if calls.exists() else []


@pytest.fixture
def debian(tmp_path: Path, _nothing_here: None, monkeypatch: pytest.MonkeyPatch) -> Debian:
    """It knows no packages yet, we are root there, and installing is allowed."""
    debian = Debian(tmp_path)
    (tmp_path / "bin").mkdir()
    debian.put("bin/apt-get", APT)
    debian.put("bin/sudo", SUDO)
    debian.put("redis-server", SERVER)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("JOBQ_TEST_INSTALL", "1")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "chown", chown)  # only root may
    return debian


def inhabitants(directory: Path) -> list[int]:
    """The processes that run in this directory, or in one below."""
    return [int(process.name) for process in Path("/proc").glob("[0-9]*") if runs_in(process, directory)]


def runs_in(process: Path, directory: Path) -> bool:
    try:
        return (process / "cwd").readlink().is_relative_to(directory)
    except OSError:  # it has ended, or is not ours to look into
        return False


@each_service
def test_a_server_that_was_killed_comes_back_on_its_port_and_in_its_directory(service: Service) -> None:
    with Server(service) as server:
        port, kept = server.port, server.write("kept", "text")
        server.kill()
        assert not service.answers("127.0.0.1", port)
        server.start()
        assert server.port == port
        assert service.answers("127.0.0.1", port)
        assert kept.read_text() == "text"
    assert not service.answers("127.0.0.1", port)
    assert not server.directory.exists()


@each_service
def test_a_paused_server_says_nothing_until_it_is_resumed_and_can_be_asked_to_end(service: Service) -> None:
    with Server(service) as server:
        process = server.process
        server.pause()
        assert not server.answers()
        server.resume()
        server.wait()
        assert server.process is process
        server.stop()
        assert not service.answers("127.0.0.1", server.port)


@each_service
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="without setpriv, servers outlive tests that are killed")
def test_nothing_is_left_of_a_server_even_a_paused_one_when_its_tests_are_killed(service: Service) -> None:
    needs_binary(service)
    program = [sys.executable, "-c", KILLED.format(service=service.name.upper())]
    with subprocess.Popen(program, cwd=ROOT, stdout=subprocess.PIPE, text=True) as tests:
        assert tests.stdout is not None
        directories = [*map(Path, tests.stdout.readline().split())]
        assert all(map(inhabitants, directories))
        tests.send_signal(signal.SIGKILL)
    end = time.monotonic() + PATIENCE
    while any(map(inhabitants, directories)):
        assert time.monotonic() < end, "a server outlived its tests"
        time.sleep(0.02)
    for directory in directories:
        shutil.rmtree(directory)


def test_a_server_whose_port_was_taken_meanwhile_is_started_on_another(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        taken = [stranger.getsockname()[1]]
        monkeypatch.setattr("tests.servers.free_port", lambda: taken.pop() if taken else free_port())
        with Server() as server:
            assert server.port != stranger.getsockname()[1]


def test_a_server_starts_while_others_do_until_it_is_waited_for() -> None:
    needs_binary(REDIS)
    asked = list[tuple[str, int]]()
    with begin(replace(REDIS, answers=answering_late(asked))) as finish:
        assert asked == []
        assert isinstance(finish(), Found)
        assert len(asked) == 3


def test_what_needs_a_companion_cannot_be_started_without() -> None:
    assert replace(RABBITMQ, companion=replace(EPMD, binaries=["no-such-program"])).binary is None


def test_a_server_takes_arguments_and_files() -> None:
    server = Server()
    acl = server.write("users.acl", "user default on >secret ~* &* +@all\n")
    server.arguments = ["--aclfile", str(acl), "--appendonly", "yes"]
    with server:
        assert REDIS.answers("127.0.0.1", server.port)
        assert any(server.directory.glob("appendonlydir*"))


def test_a_server_that_does_not_start_shows_its_log() -> None:
    server = Server(arguments=["--no-such-option", "1"])
    with pytest.raises(ServerFailed, match="no-such-option"):
        server.start()
    server.__exit__(None, None, None)


def test_a_binary_on_this_machine_is_started() -> None:
    needs_binary(REDIS)
    with provide(REDIS) as found:
        assert isinstance(found, Found)
        assert found.why.startswith("started")


def test_a_server_named_by_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with Server() as server:
        monkeypatch.setenv(REDIS.variable, server.url)
        with provide(REDIS) as found:
            assert found == Found(server.url, "named by JOBQ_TEST_REDIS_URL")


def test_a_rabbitmq_named_by_the_environment_is_used(rabbitmq_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBQ_TEST_RABBITMQ_URL", rabbitmq_url)
    with provide(RABBITMQ) as found:
        assert found == Found(rabbitmq_url, "named by JOBQ_TEST_RABBITMQ_URL")


@each_service
def test_a_server_that_is_named_and_not_there_is_a_failure(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(service.variable, service.url.format(host="127.0.0.1", port=free_port()))
    with provide(service) as found:
        assert isinstance(found, Missing)
        assert found.wanted


@pytest.mark.parametrize("required", ["", "1"])
@pytest.mark.usefixtures("_nothing_here")
def test_without_any_server_the_install_line_is_shown(monkeypatch: pytest.MonkeyPatch, required: str) -> None:
    monkeypatch.setenv("JOBQ_REQUIRE_ALL_BROKERS", required)
    with provide(REDIS) as found:
        assert isinstance(found, Missing)
        assert "apt-get install" in found.why
        assert found.wanted == bool(required)


@pytest.mark.usefixtures("_nothing_here")
def test_looking_for_docker_in_vain_leaves_no_socket_behind_that_would_fail_the_whole_run() -> None:
    with provide(REDIS) as found:
        assert isinstance(found, Missing)
    gc.collect()  # where warnings are errors


@pytest.mark.parametrize(("required", "outcome"), [("", pytest.skip.Exception), ("1", pytest.fail.Exception)])
@pytest.mark.usefixtures("_nothing_here")
def test_without_a_binary_a_test_with_servers_of_its_own_is_skipped_or_fails_where_all_are_required(
    monkeypatch: pytest.MonkeyPatch, required: str, outcome: type[BaseException]
) -> None:
    monkeypatch.setenv(REDIS.variable, "redis://elsewhere")  # which is not ours to kill
    monkeypatch.setenv("JOBQ_REQUIRE_ALL_BROKERS", required)
    outcomes = (pytest.skip.Exception, pytest.fail.Exception)  # the other one must not skip this test
    with pytest.raises(outcomes, match=r"no redis-server here.*apt-get install .* redis-server$") as caught:
        Server()
    assert caught.type is outcome


def test_a_missing_server_is_installed_with_apt_and_started(debian: Debian) -> None:
    (debian.folder / "lists").touch()
    with provide(REDIS) as found:
        assert isinstance(found, Found)
        assert found.why == f"started {debian.folder}/bin/redis-server"
        assert REDIS.answers("127.0.0.1", int(found.url.rpartition(":")[2].removesuffix("/0")))
    assert debian.calls == [f"install {INSTALL}"]


def test_a_machine_that_does_not_know_the_package_yet_reads_the_lists_first(debian: Debian) -> None:
    with provide(REDIS) as found:
        assert isinstance(found, Found)
    assert debian.calls == [f"install {INSTALL}", "update -qq", f"install {INSTALL}"]


def test_who_is_not_root_installs_with_sudo(debian: Debian, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    for name in ("lists", "trusted"):
        (debian.folder / name).touch()
    with provide(REDIS) as found:
        assert isinstance(found, Found)
    assert debian.calls == ["sudo -n true", f"sudo -n apt-get install {INSTALL}", f"install {INSTALL}"]


def test_nothing_is_installed_by_who_would_be_asked_for_a_password(
    debian: Debian, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with provide(REDIS) as found:
        assert isinstance(found, Missing)
    assert debian.calls == ["sudo -n true"]


@pytest.mark.parametrize("allowed", ["0", ""])
def test_nothing_is_installed_without_leave(debian: Debian, monkeypatch: pytest.MonkeyPatch, allowed: str) -> None:
    monkeypatch.setenv("JOBQ_TEST_INSTALL", allowed)
    with provide(REDIS) as found:
        assert isinstance(found, Missing)
    assert debian.calls == []


@dataclass
class Container:
    """Testcontainers' DockerContainer, as far as we use it."""

    image: str
    port: int = 0
    events: ClassVar[list[str]] = []

    def with_exposed_ports(self, port: int) -> Self:
        self.port = port
        return self

    def __enter__(self) -> Self:
        self.events.append(f"start {self.image}")
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.events.append(f"stop {self.image}")

    def get_container_host_ip(self) -> str:
        return "engine.example"

    def get_exposed_port(self, port: int) -> str:
        assert port == self.port
        return "40001"


@dataclass
class Engine:
    """The docker library's client: an engine that answers, or does not."""

    answers: bool = True
    timeouts: list[float] = field(default_factory=list[float])

    def from_env(self, *, timeout: float) -> Self:
        self.timeouts.append(timeout)
        return self

    def ping(self) -> None:
        if not self.answers:
            raise ConnectionError("no engine")


@pytest.fixture
def engine(_nothing_here: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """A Docker engine, and testcontainers installed."""
    library, engine = ModuleType("testcontainers.core.container"), Engine()
    vars(library).update(DockerContainer=Container)
    monkeypatch.setitem(sys.modules, "testcontainers.core.container", library)
    monkeypatch.setitem(sys.modules, "docker", engine)
    yield engine
    Container.events.clear()


def answering_late(asked: list[tuple[str, int]]) -> Callable[[str, int], bool]:
    """A server that needs a moment until it is there."""

    def answers(host: str, port: int) -> bool:
        asked.append((host, port))
        return len(asked) == 3

    return answers


@pytest.mark.usefixtures("engine")
def test_without_a_binary_a_container_is_started_and_waited_for_and_stopped_at_the_end() -> None:
    asked = list[tuple[str, int]]()
    with provide(replace(REDIS, answers=answering_late(asked))) as found:
        assert found == Found("redis://engine.example:40001/0", "a container of redis:7.2")
        assert asked == [("engine.example", 40001)] * 3
        assert Container.events == ["start redis:7.2"]
    assert Container.events == ["start redis:7.2", "stop redis:7.2"]


def test_a_docker_engine_that_does_not_answer_is_none(engine: Engine) -> None:
    engine.answers = False
    with provide(REDIS) as found:
        assert isinstance(found, Missing)
    assert engine.timeouts == [2]
    assert Container.events == []
