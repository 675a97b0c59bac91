"""One connection to the server, with one command at a time on it.

redis-py makes the connection, with TLS, a login, a Sentinel or whatever there is; then its bytes come straight here.
Its streams and its client, made for everything, cost several times what a command itself does.
"""

import asyncio
from typing import Any, Final, Protocol, cast

import hiredis
from redis._parsers import BaseParser
from redis.exceptions import ConnectionError as Disconnected
from redis.exceptions import InvalidResponse

Reply = Any
_CLOSED: Final = "the server closed the connection"
_MORE: Final = object()
_parse_error: Final = cast("Any", BaseParser).parse_error


class Connection(Protocol):
    """The part of redis-py's connection that is used."""

    async def connect(self) -> None: ...
    async def disconnect(self, nowait: bool = False) -> None: ...  # noqa: FBT001, FBT002 - redis-py's signature


class Wire(asyncio.Protocol):
    """A connection that is connected, taken over from redis-py."""

    def __init__(self, connection: Connection) -> None:
        self._loop = asyncio.get_running_loop()
        self._connection = connection
        self._transport: asyncio.Transport = cast("Any", connection)._writer.transport  # noqa: SLF001 - nothing public has it
        self._streams = self._transport.get_protocol()
        self._parser = hiredis.Reader(protocolError=InvalidResponse, replyError=_parse_error, notEnoughData=_MORE)
        self._reply: asyncio.Future[Reply] | None = None
        self._lost: Exception | None = None
        self._transport.set_protocol(self)

    @property
    def clean(self) -> bool:
        """Whether a command can be sent: it is open, and nothing came that nobody asked for."""
        return self._lost is None

    async def exchange(self, command: bytes, seconds: float) -> Reply:
        """The reply to a packed command. Raises what redis-py would raise, and `TimeoutError`; then it is closed.

        An error reply is raised as `ResponseError`, and the connection stays open. A caller that is cancelled has to
        close it, since nobody reads the reply.
        """
        if self._lost is not None:
            raise self._lost
        reply = self._reply = self._loop.create_future()
        timer = self._loop.call_later(seconds, self._fail, TimeoutError())
        try:
            self._transport.write(command)
            value = await reply
        finally:
            timer.cancel()
            self._reply = None
        if isinstance(value, Exception):
            raise value
        return value

    async def aclose(self) -> None:
        """End it now, whatever is on its way."""
        self._fail(Disconnected("closed"))
        await self._connection.disconnect(nowait=True)

    def data_received(self, data: bytes) -> None:
        self._parser.feed(data)
        try:
            value = self._parser.gets()
        except InvalidResponse as exc:
            self._fail(exc)
            return
        if value is _MORE:
            return
        if self._reply is None or self._reply.done() or self._parser.has_data():
            # whatever it is, the next command must not take it for its own reply
            self._fail(InvalidResponse("the server said something that nobody asked for"))
        else:
            self._reply.set_result(value)

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(exc or Disconnected(_CLOSED))
        self._streams.connection_lost(exc)

    def _fail(self, exc: Exception) -> None:
        if self._lost is not None:
            return
        self._lost = exc
        self._transport.abort()
        if self._reply is not None and not self._reply.done():
            self._reply.set_exception(exc)
