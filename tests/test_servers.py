"""The servers that the tests start."""

import pytest

from tests.servers import REDIS, Found, Missing, Server, ServerFailed, free_port, install_line, provide

needs_redis = pytest.mark.skipif(REDIS.binary is None, reason=install_line(REDIS))


@pytest.fixture(autouse=True)
def _no_installing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JOBQ_TEST_INSTALL", raising=False)
    monkeypatch.delenv(REDIS.variable, raising=False)


@needs_redis
def test_a_server_that_was_killed_comes_back_on_its_port_and_in_its_directory() -> None:
    with Server() as server:
        port, kept = server.port, server.write("kept", "text")
        server.kill()
        assert not REDIS.answers("127.0.0.1", port)
        server.start()
        assert server.port == port
        assert REDIS.answers("127.0.0.1", port)
        assert kept.read_text() == "text"
    assert not REDIS.answers("127.0.0.1", port)
    assert not server.directory.exists()


@needs_redis
def test_a_server_takes_arguments_and_files() -> None:
    server = Server()
    acl = server.write("users.acl", "user default on >secret ~* &* +@all\n")
    server.arguments = ["--aclfile", str(acl), "--appendonly", "yes"]
    with server:
        assert REDIS.answers("127.0.0.1", server.port)
        assert any(server.directory.glob("appendonlydir*"))


@needs_redis
def test_a_server_that_does_not_start_shows_its_log() -> None:
    server = Server(arguments=["--no-such-option", "1"])
    with pytest.raises(ServerFailed, match="no-such-option"):
        server.start()
    server.__exit__(None, None, None)


@needs_redis
def test_a_binary_on_this_machine_is_started() -> None:
    with provide(REDIS) as found:
        assert isinstance(found, Found)
        assert found.why.startswith("started")


@needs_redis
def test_a_server_named_by_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with Server() as server:
        monkeypatch.setenv(REDIS.variable, server.url)
        with provide(REDIS) as found:
            assert found == Found(server.url, "named by JOBQ_TEST_REDIS_URL")


def test_a_server_that_is_named_and_not_there_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(REDIS.variable, f"redis://127.0.0.1:{free_port()}/0")
    with provide(REDIS) as found:
        assert isinstance(found, Missing)
        assert found.wanted


@pytest.mark.parametrize("required", ["", "1"])
def test_without_any_server_the_install_line_is_shown(monkeypatch: pytest.MonkeyPatch, required: str) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{free_port()}")
    monkeypatch.setenv("JOBQ_REQUIRE_ALL_BROKERS", required)
    with provide(REDIS) as found:
        assert isinstance(found, Missing)
        assert "apt-get install" in found.why
        assert found.wanted == bool(required)
