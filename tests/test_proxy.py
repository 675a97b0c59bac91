"""The proxy does the damage that it promises."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.proxy import Proxy


class Echo:
    """A server that remembers what it was asked, and answers with the same line."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                self.asked.append(line)
                writer.write(line)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()


class Client:
    """One connection through the proxy."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def ask(self, line: bytes) -> bytes:
        self.writer.write(line)
        await self.writer.drain()
        return await self.reader.readline()


@pytest.fixture
async def echo() -> AsyncIterator[Echo]:
    echo = Echo()
    server = await asyncio.start_server(echo.serve, "127.0.0.1", 0)
    echo.port = server.sockets[0].getsockname()[1]
    yield echo
    server.close()


@pytest.fixture
async def proxy(echo: Echo) -> AsyncIterator[Proxy]:
    async with Proxy("127.0.0.1", echo.port) as proxy:
        yield proxy


@pytest.fixture
async def client(proxy: Proxy) -> AsyncIterator[Client]:
    client = await connect(proxy)
    yield client
    client.writer.transport.abort()


async def connect(proxy: Proxy) -> Client:
    return Client(*await asyncio.open_connection("127.0.0.1", proxy.port))


async def lost(client: Client) -> bool:
    """Whether the connection is reset or closed instead of answering."""
    try:
        return await client.ask(b"hello\n") == b""
    except ConnectionError:
        return True
    finally:
        client.writer.transport.abort()


async def test_it_forwards_both_ways(client: Client, proxy: Proxy) -> None:
    assert await client.ask(b"one\n") == b"one\n"
    assert await client.ask(b"two\n") == b"two\n"
    assert proxy.connections == 1


async def test_a_cut_resets_the_connections_and_new_ones_work(client: Client, proxy: Proxy) -> None:
    await client.ask(b"one\n")
    proxy.cut()
    with pytest.raises(ConnectionResetError):
        await client.reader.readline()
    again = await connect(proxy)
    assert await again.ask(b"two\n") == b"two\n"
    again.writer.transport.abort()


async def test_a_refusing_proxy_resets_new_connections_until_it_is_healed(proxy: Proxy) -> None:
    proxy.refuse()
    assert await lost(await connect(proxy))
    proxy.heal()
    client = await connect(proxy)
    assert await client.ask(b"two\n") == b"two\n"
    client.writer.transport.abort()


async def test_a_blackhole_lets_nothing_through_and_loses_nothing(client: Client, proxy: Proxy, echo: Echo) -> None:
    await client.ask(b"one\n")
    proxy.blackhole()
    answer = asyncio.create_task(client.ask(b"two\n"))
    await asyncio.wait([answer], timeout=0.05)
    assert echo.asked == [b"one\n"]
    assert not answer.done()
    proxy.heal()
    assert await answer == b"two\n"


async def test_a_lost_reply_loses_the_reply_but_not_the_request(client: Client, proxy: Proxy, echo: Echo) -> None:
    await client.ask(b"one\n")
    proxy.lose_replies(times=1)
    with pytest.raises(ConnectionResetError):
        await client.ask(b"two\n")
    assert proxy.lost == 1
    assert echo.asked == [b"one\n", b"two\n"]
    again = await connect(proxy)
    assert await again.ask(b"three\n") == b"three\n"
    again.writer.transport.abort()


async def test_other_connections_keep_their_replies(client: Client, proxy: Proxy) -> None:
    other = await connect(proxy)
    await other.ask(b"one\n")
    await client.ask(b"one\n")
    proxy.lose_replies(times=1)
    with pytest.raises(ConnectionResetError):
        await client.ask(b"two\n")
    assert await other.ask(b"three\n") == b"three\n"
    other.writer.transport.abort()


async def test_replies_are_lost_until_it_is_healed(proxy: Proxy, echo: Echo) -> None:
    proxy.lose_replies()
    for _ in range(3):
        assert await lost(await connect(proxy))
    proxy.heal()
    client = await connect(proxy)
    assert await client.ask(b"two\n") == b"two\n"
    client.writer.transport.abort()
    assert echo.asked == [b"hello\n"] * 3 + [b"two\n"]
    assert (proxy.lost, proxy.opened) == (3, 4)


async def test_only_one_in_so_many_replies_to_what_is_named_is_lost(client: Client, proxy: Proxy) -> None:
    proxy.lose_replies(b"now", every=2)
    for line in (b"now\n", b"later\n", b"later\n"):
        assert await client.ask(line) == line
    with pytest.raises(ConnectionResetError):
        await client.ask(b"now\n")
    assert proxy.lost == 1


async def test_a_delay_holds_up_requests_and_replies(client: Client, proxy: Proxy) -> None:
    proxy.delay(20)
    loop = asyncio.get_running_loop()
    start = loop.time()
    await client.ask(b"one\n")
    assert loop.time() - start >= 0.04
    proxy.heal()


async def test_what_is_sliced_arrives_whole(client: Client, proxy: Proxy) -> None:
    proxy.slice(1)
    assert await client.ask(b"x" * 500 + b"\n") == b"x" * 500 + b"\n"


async def test_a_client_that_leaves_is_forgotten(client: Client, proxy: Proxy) -> None:
    await client.ask(b"one\n")
    client.writer.close()
    async with asyncio.timeout(5):
        while proxy.connections:
            await asyncio.sleep(0)


async def test_without_a_server_connections_are_closed() -> None:
    async with Proxy("127.0.0.1", 1) as proxy:
        client = await connect(proxy)
        assert await lost(client)
