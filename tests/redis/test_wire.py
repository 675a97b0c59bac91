"""One connection: a reply belongs to the command before it, or to nobody."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from redis.asyncio.connection import Connection
from redis.exceptions import InvalidResponse, RedisError, ResponseError

from jobq_redis._wire import Wire

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def wire_to(answer: Answer) -> AsyncGenerator[Wire, None]:
    """A connection to a server that does what `answer` does with it."""
    ended = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            await answer(reader, writer)
            await reader.read(100)
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        ended.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port: int = server.sockets[0].getsockname()[1]
    connection: Any = Connection(host="127.0.0.1", port=port, driver_info=None, protocol=2)
    await connection.connect()
    wire = Wire(connection)
    try:
        yield wire
    finally:
        await wire.aclose()
        await ended.wait()
        server.close()
        await server.wait_closed()


def says(*pieces: bytes) -> Answer:
    """Answers each command with the next piece; at the end, hangs up."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            if not await reader.read(100):
                break
            writer.write(piece)
            await writer.drain()

    return answer


async def test_a_reply_may_come_in_pieces() -> None:
    parts = (b"*2\r\n$3\r", b"\nabc\r\n:", b"7\r\n")

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        for part in parts:
            writer.write(part)
            await writer.drain()

    async with wire_to(answer) as wire:
        assert await wire.exchange(b"X\r\n", 5) == [b"abc", 7]
        assert wire.clean


async def test_an_error_reply_leaves_the_connection_usable() -> None:
    async with wire_to(says(b"-ERR no\r\n", b":1\r\n")) as wire:
        with pytest.raises(ResponseError, match="no"):
            await wire.exchange(b"X\r\n", 5)
        assert wire.clean
        assert await wire.exchange(b"X\r\n", 5) == 1


async def test_a_reply_too_many_ends_the_connection() -> None:
    async with wire_to(says(b":1\r\n:2\r\n")) as wire:
        with pytest.raises(InvalidResponse, match="nobody asked for"):
            await wire.exchange(b"X\r\n", 5)
        assert not wire.clean
        with pytest.raises(InvalidResponse):
            await wire.exchange(b"X\r\n", 5)


async def test_a_reply_between_commands_ends_the_connection() -> None:
    told = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b":1\r\n")
        await told.wait()
        writer.write(b":2\r\n")

    async with wire_to(answer) as wire:
        assert await wire.exchange(b"X\r\n", 5) == 1
        told.set()
        async with asyncio.timeout(10):
            while wire.clean:
                await asyncio.sleep(0.001)


@pytest.mark.parametrize("noise", [b"HTTP/1.1 400 Bad Request\r\n", b"\x00\xff\r\n"])
async def test_what_is_no_reply_ends_the_connection(noise: bytes) -> None:
    async with wire_to(says(noise)) as wire:
        with pytest.raises(InvalidResponse):
            await wire.exchange(b"X\r\n", 5)
        assert not wire.clean


async def test_a_server_that_hangs_up_is_noticed_between_commands_and_within_one() -> None:
    async with wire_to(says()) as wire:
        with pytest.raises(RedisError):
            await wire.exchange(b"X\r\n", 5)
        assert not wire.clean
    async with wire_to(says(b":1\r\n")) as wire:
        await wire.exchange(b"X\r\n", 5)
        with pytest.raises(RedisError):
            await wire.exchange(b"X\r\n", 5)


async def test_silence_ends_with_the_time() -> None:
    async with wire_to(says(b"")) as wire:
        with pytest.raises(TimeoutError):
            await wire.exchange(b"X\r\n", 0.05)
        assert not wire.clean


async def test_nobody_takes_the_reply_of_a_caller_that_was_cancelled() -> None:
    go = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        go.set()

    async with wire_to(answer) as wire:
        task = asyncio.ensure_future(wire.exchange(b"X\r\n", 5))
        await go.wait()
        task.cancel()
        await asyncio.wait([task])
        await wire.aclose()
        assert not wire.clean
