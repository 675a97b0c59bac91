"""Reading the properties of a message: only those that jobq writes, and nothing that somebody else wrote can fail."""

import struct
from typing import Any, Final

from msgspec import Struct
from pamqp import decode

_LONG: Final = struct.Struct(">I")
_CONTENT_TYPE, _ENCODING, _HEADERS, _MODE, _PRIORITY, _CORRELATION, _REPLY_TO, _EXPIRATION, _MESSAGE = (
    1 << bit for bit in range(15, 6, -1)
)


class Properties(Struct, frozen=True, gc=False):
    """What a message says of itself; empty, what it does not say or what cannot be read."""

    message_id: str = ""
    correlation_id: str = ""
    headers: dict[str, Any] = {}


_NONE: Final = Properties()


def read(data: bytes) -> Properties:
    """The properties in a content header, from its flags on (AMQP 0-9-1, 4.2.6.1)."""
    try:
        return _read(data)
    except Exception:  # noqa: BLE001 - a server passes on what any client wrote
        return _NONE


def _read(data: bytes) -> Properties:
    flags, place = int.from_bytes(data[:2], "big"), 2
    headers: dict[str, Any] = {}
    correlation = message = ""
    if flags & _CONTENT_TYPE:
        place += 1 + data[place]
    if flags & _ENCODING:
        place += 1 + data[place]
    if flags & _HEADERS:
        (size,) = _LONG.unpack_from(data, place)
        _, headers = decode.field_table(data[place:])
        place += _LONG.size + size
    if flags & _MODE:
        place += 1
    if flags & _PRIORITY:
        place += 1
    if flags & _CORRELATION:
        end = place + 1 + data[place]
        correlation = data[place + 1 : end].decode()
        place = end
    if flags & _REPLY_TO:
        place += 1 + data[place]
    if flags & _EXPIRATION:
        place += 1 + data[place]
    if flags & _MESSAGE:
        message = data[place + 1 : place + 1 + data[place]].decode()
    return Properties(message, correlation, headers)
