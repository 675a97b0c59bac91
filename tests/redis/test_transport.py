"""TLS and Unix sockets."""

import asyncio
import shutil
import subprocess
from collections.abc import Callable, Iterator

import pytest

from jobq import Client
from jobq.errors import BrokerUnavailable
from jobq_redis import RedisBroker
from tests.redis.tools import Tools, drain, put
from tests.servers import Server, free_port

Start = Callable[..., Server]


async def test_a_unix_socket(start: Start, tools: Tools) -> None:
    server = start("--unixsocket", "redis.sock", "--unixsocketperm", "777")
    server.directory.chmod(0o755)
    broker = await tools.broker(f"unix://{server.directory}/redis.sock?db=2&namespace=n")
    await put(broker, "a")
    await broker.wait(["default"], 10)
    assert await drain(broker) == ["a"]
    with pytest.raises(BrokerUnavailable, match="no such file"):
        async with RedisBroker("unix:///no/such/socket"):
            pass


@pytest.fixture
def secure() -> Server:
    """A server, not started, whose TLS port is the last argument, with a certificate for localhost."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs openssl to make a certificate")
    server = Server()
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    files = ["-keyout", str(server.directory / "key"), "-out", str(server.directory / "cert")]
    made = subprocess.run(
        [*command, *files, "-addext", "subjectAltName=DNS:localhost"], capture_output=True, check=True
    )
    assert made.returncode == 0
    for name in ("key", "cert"):
        server.write(name, (server.directory / name).read_text())
    server.arguments = ("--tls-key-file", "key", "--tls-cert-file", "cert", "--tls-ca-cert-file", "cert")
    server.arguments += ("--tls-auth-clients", "no", "--tls-port", str(free_port()))
    return server


async def test_tls(secure: Server, tools: Tools) -> None:
    with secure:
        url = f"rediss://localhost:{secure.arguments[-1]}"
        async with RedisBroker(f"{url}?ssl_ca_certs={secure.directory}/cert") as broker:
            await put(broker, "a")
            await broker.wait(["default"], 10)
            assert await drain(broker) == ["a"]
        with pytest.raises(BrokerUnavailable, match=r"(?i)certificate"):
            async with RedisBroker(url):
                pass
        async with RedisBroker(f"{url}?ssl_cert_reqs=none&ssl_check_hostname=false"):
            pass


async def test_a_wait_may_last_longer_than_the_reply_to_a_command_may(url: str, tools: Tools) -> None:
    broker = await tools.broker(f"{url}&socket_timeout=0.5")
    waiting = asyncio.ensure_future(broker.wait(["default"], 20))
    await asyncio.wait([waiting], timeout=3)
    assert not waiting.done()
    await put(broker, "a")
    await waiting
    assert await drain(broker) == ["a"]


@pytest.fixture
def silenced(start: Start) -> Iterator[Client]:
    """A client, not entered, of a server that accepts connections and says nothing."""
    server = start()
    server.pause()
    yield Client(f"redis://127.0.0.1:{server.port}/0", timeout=0.3)
    server.resume()


async def test_a_client_of_a_silent_server_gives_up_within_its_timeout(silenced: Client) -> None:
    began = asyncio.get_running_loop().time()
    with pytest.raises(BrokerUnavailable, match=r"/0 could not be opened within 0.3 s: it is away"):
        await silenced.__aenter__()
    assert asyncio.get_running_loop().time() - began < 2
