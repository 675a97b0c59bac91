"""A TCP proxy that loses things, for tests of what happens then."""

import asyncio
import socket
import struct
from types import TracebackType
from typing import Final, Self

BUFFER: Final = 1 << 16
_RESET: Final = struct.pack("ii", 1, 0)


class _Link:
    """One connection through the proxy."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.client = client
        self.server = server

    def reset(self) -> None:
        """End both sides at once, with a RST: what was not yet delivered is lost."""
        for writer in (self.client, self.server):
            connection: socket.socket = writer.get_extra_info("socket")
            if connection.fileno() >= 0:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort()


class Proxy:
    """Forwards to `host:port` from a free port of its own, `port`, and does damage on demand.

    Faults hold for present and future connections until `heal`; `cut` happens once.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._links: dict[_Link, asyncio.Task[None]] = {}
        self._server: asyncio.Server | None = None
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._refusing = False
        self._seconds = 0.0
        self._size = BUFFER
        self._lose: bytes | None = None
        self._every = 1
        self._times: int | None = None
        self.port = 0
        self.opened = 0
        """How many connections there have been."""
        self.lost = 0
        """How many replies were lost."""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        tasks = [*self._links.values()]
        self.cut()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def connections(self) -> int:
        """How many connections there are."""
        return len(self._links)

    def cut(self) -> None:
        """Reset every connection that there is."""
        for link in [*self._links]:
            link.reset()

    def refuse(self) -> None:
        """Reset every connection, and each new one as soon as it comes."""
        self._refusing = True
        self.cut()

    def blackhole(self) -> None:
        """Keep connections open, accept new ones, and let nothing through in either direction."""
        self._flowing.clear()

    def delay(self, milliseconds: float) -> None:
        """Hold up whatever comes, in both directions, by so much."""
        self._seconds = milliseconds / 1000

    def slice(self, size: int) -> None:
        """Forward at most `size` bytes at once."""
        self._size = size

    def lose_replies(self, to: bytes = b"", *, every: int = 1, times: int | None = None) -> None:
        """Let requests through, and lose the replies to those that contain `to`, with their connections.

        Of a connection's requests, the reply to one in `every` is lost; at most `times` are, or any number.
        """
        self._lose, self._every, self._times = to, every, times

    def heal(self) -> None:
        """Undo all of it. What a blackhole held up arrives now."""
        self._refusing, self._lose = False, None
        self._seconds, self._size = 0.0, BUFFER
        self._flowing.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            server_reader, server_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        self.opened += 1
        link = _Link(writer, server_writer)
        task = asyncio.current_task()
        assert task is not None
        self._links[link] = task
        try:
            if not self._refusing:
                await self._link(link, reader, server_reader)
        finally:
            del self._links[link]
            link.reset()

    async def _link(self, link: _Link, client: asyncio.StreamReader, server: asyncio.StreamReader) -> None:
        """Both directions, until one of them ends."""
        asked = asyncio.Event()
        ways = [
            asyncio.create_task(self._requests(client, link, asked)),
            asyncio.create_task(self._replies(server, link, asked)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _requests(self, reader: asyncio.StreamReader, link: _Link, asked: asyncio.Event) -> None:
        count = 0
        while data := await reader.read(BUFFER):
            if self._lose is not None and self._lose in data:
                count += 1
                if count % self._every == 0:
                    asked.set()
            await self._forward(data, link.server)

    async def _replies(self, reader: asyncio.StreamReader, link: _Link, asked: asyncio.Event) -> None:
        """A reply is lost only on a connection that asked after `lose_replies` was called."""
        while data := await reader.read(BUFFER):
            if self._lose is not None and asked.is_set():
                self._count_loss()
                link.reset()
                return
            await self._forward(data, link.client)

    def _count_loss(self) -> None:
        self.lost += 1
        if self._times is not None:
            self._times -= 1
            if self._times == 0:
                self._lose = None

    async def _forward(self, data: bytes, writer: asyncio.StreamWriter) -> None:
        if self._seconds:
            await asyncio.sleep(self._seconds)
        for start in range(0, len(data), self._size):
            await self._flowing.wait()
            writer.write(data[start : start + self._size])
            await writer.drain()
            if self._size < BUFFER:
                await asyncio.sleep(0)
