"""The bytes of a connection: messages are taken out as they arrive, and everything else is the client library's.

The library awaits each part of each frame, makes objects of all that it has, and passes them through a queue: that is
two thirds of all that receiving a job costs.
"""

import asyncio
import struct
from collections.abc import Callable
from typing import Any, Final, Protocol

from aiormq import Connection
from aiormq.connection import TransportFactory
from yarl import URL

from jobq_rmq import _frames
from jobq_rmq._frames import BODY, HEAD, HEADER, HEARTBEAT, METHOD

OnMessage = Callable[["Raw"], None]

_DELIVER: Final = struct.pack(">HH", 60, 60)
_BLOCKED: Final = struct.pack(">HH", 10, 60)
_UNBLOCKED: Final = struct.pack(">HH", 10, 61)
_GET_OK: Final = struct.pack(">HH", 60, 71)
_GET_EMPTY: Final = struct.pack(">HH", 60, 72)
_TAG: Final = struct.Struct(">Q?")
_SIZES: Final = struct.Struct(">HHQ")
_PULSE: Final = 5.0
"""Seconds after which the library is told that the server lives, if all that came was taken from it."""
_LARGEST: Final = 1 << 24
"""Bytes of a frame; nobody negotiates more, so this is none."""
_FULL: Final = 1 << 20
"""Bytes that wait for the network, from which on whoever writes more waits, too."""


class Raw:
    """A message as it arrived, and what is known of it."""

    __slots__ = ("missing", "parts", "properties", "redelivered", "tag")

    def __init__(self, tag: int, *, redelivered: bool) -> None:
        self.tag = tag
        self.redelivered = redelivered
        self.properties = b""
        """From their flags on."""
        self.parts: list[bytes] = []
        self.missing = 0

    @property
    def body(self) -> bytes:
        """The whole of it."""
        return self.parts[0] if len(self.parts) == 1 else b"".join(self.parts)


class Taker(Protocol):
    """Takes what is for us out of what arrives for a channel."""

    def take(self, kind: int, payload: bytes) -> bool:
        """Whether this frame was."""
        ...


class Intake:
    """Puts the messages of one channel together and calls `on_message` for each, which must raise nothing."""

    def __init__(self, on_message: OnMessage) -> None:
        self._on_message = on_message
        self._message: Raw | None = None

    def take(self, kind: int, payload: bytes) -> bool:
        """Whether this frame was part of a message."""
        if kind == METHOD:
            if not payload.startswith(_DELIVER):
                return False
            place = 5 + payload[4]
            tag = int.from_bytes(payload[place : place + 8], "big")
            self._message = Raw(tag, redelivered=payload[place + 8] == 1)
            return True
        message = self._message
        if message is None:
            return False
        if kind == HEADER:
            (_, _, message.missing) = _SIZES.unpack_from(payload)
            message.properties = payload[_SIZES.size :]
        elif kind == BODY:
            message.parts.append(payload)
            message.missing -= len(payload)
        if message.missing <= 0:
            self._message = None
            self._on_message(message)
        return True


class Answers(Intake):
    """The same for messages that were asked for one by one; `on_none` is called for each question without an answer."""

    def __init__(self, on_message: OnMessage, on_none: Callable[[], None]) -> None:
        super().__init__(on_message)
        self._on_none = on_none

    def take(self, kind: int, payload: bytes) -> bool:
        """Whether this frame was part of an answer."""
        if kind == METHOD and payload.startswith(_GET_OK):
            tag, redelivered = _TAG.unpack_from(payload, len(_GET_OK))
            self._message = Raw(tag, redelivered=redelivered)
            return True
        if kind == METHOD and payload.startswith(_GET_EMPTY):
            self._on_none()
            return True
        return super().take(kind, payload)


class _Alarms:
    """Whether the server has said that it takes no publishes; the library hears of it, too."""

    def __init__(self) -> None:
        self.raised = False

    def take(self, kind: int, payload: bytes) -> bool:
        if kind == METHOD and payload.startswith((_BLOCKED, _UNBLOCKED)):
            self.raised = payload.startswith(_BLOCKED)
        return False


class Wire(asyncio.StreamReaderProtocol):
    """A connection's end. What comes for a channel in `intakes` goes there, if it is part of a message."""

    def __init__(self, reader: asyncio.StreamReader, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(reader, loop=loop)
        self._alarms = _Alarms()
        self.intakes: dict[int, Taker] = {0: self._alarms}
        self._now = loop.time
        self.writer: asyncio.StreamWriter
        self._transport: asyncio.Transport | None = None
        self._rest = b""
        self._foreign = False
        """Whether this is no AMQP, so that the library has to say what is wrong."""
        self._passed = 0.0

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Part with the messages, and pass the rest on, a whole frame at a time."""
        data = self._rest + data if self._rest else data
        passed, start, place, size = list[bytes](), 0, 0, len(data)
        while place + HEAD.size <= size and not self._foreign:
            kind, channel, length = HEAD.unpack_from(data, place)
            end = place + HEAD.size + length
            if kind > HEARTBEAT or length > _LARGEST:
                self._foreign = True
                break
            if end >= size:
                break
            intake = self.intakes.get(channel)
            if intake is not None and intake.take(kind, data[place + HEAD.size : end]):
                passed.append(data[start:place])
                start = end + 1
            place = end + 1
        if self._foreign:
            place = size
        self._rest = data[place:]
        self._pass_on(b"".join([*passed, data[start:place]]), taken=bool(passed))

    def _pass_on(self, data: bytes, *, taken: bool) -> None:
        now = self._now()
        if taken and not data and now - self._passed > _PULSE:
            data = _frames.heartbeat()
        if data:
            self._passed = now
            super().data_received(data)

    @property
    def takes_publishes(self) -> bool:
        """Whether a publish would be on its way at once."""
        transport = self._transport
        return transport is not None and not self._alarms.raised and transport.get_write_buffer_size() < _FULL

    async def room(self) -> None:
        """Return when not too much waits for the network. Raises `ConnectionError` if it is lost."""
        await self.writer.drain()

    def write(self, frames: bytes) -> None:
        """Write whole frames of a channel that is open; no moment may pass between finding that out and this call.

        On a channel that is closed, they would cost the whole connection.
        """
        transport = self._transport
        if transport is not None and not transport.is_closing():
            transport.write(frames)


class _Wires(TransportFactory):
    """Makes connections that are `wire`s, for the client library."""

    wire: Wire

    async def create(self, url: URL, **kwargs: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        loop = asyncio.get_running_loop()
        context = await kwargs["ssl_context_provider"].get_context() if url.scheme == "amqps" else None
        reader = asyncio.StreamReader(loop=loop)
        transport, self.wire = await loop.create_connection(
            lambda: Wire(reader, loop), url.host or "", url.port or 0, ssl=context
        )
        self.wire.writer = asyncio.StreamWriter(transport, self.wire, reader, loop)
        return reader, self.wire.writer


class Line(Connection):
    """The client library's connection, on a wire of ours."""

    def __init__(self, url: str, name: str) -> None:
        self._wires = _Wires()
        super().__init__(url, transport_factory=self._wires, client_properties={"connection_name": name})

    @property
    def wire(self) -> Wire:
        """What it is on, once it is connected."""
        return self._wires.wire
