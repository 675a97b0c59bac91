"""What is written for each job, as bytes: publishes and acknowledgements (AMQP 0-9-1, 2.3.5, 4.2)."""

import struct
from functools import lru_cache
from typing import Final

from pamqp import encode

from jobq_rmq._messages import Message

METHOD, HEADER, BODY, HEARTBEAT = 1, 2, 3, 8
"""The kinds of frames that there are."""
END: Final = 0xCE
"""The last byte of each."""
HEAD: Final = struct.Struct(">BHI")
_END: Final = bytes((END,))
_METHOD: Final = struct.Struct(">HHH")
_SETTLE: Final = struct.Struct(">BHIHHQBB")
_CONTENT: Final = struct.Struct(">HHQH")
_SAYS: Final = 1 << 15 | 1 << 12 | 1 << 10 | 1 << 7
"""That there are a content type, a delivery mode, a correlation id and a message id."""
_HAS_HEADERS: Final = 1 << 13
_JSON: Final = b"\x10application/json"
_PERSISTENT: Final = b"\x02"
_REQUEUE: Final = 2


def heartbeat() -> bytes:
    """A sign of life."""
    return HEAD.pack(HEARTBEAT, 0, 0) + _END


def ack(channel: int, tag: int, *, multiple: bool) -> bytes:
    """That this delivery, or all up to it, is done with."""
    return _SETTLE.pack(METHOD, channel, 13, 60, 80, tag, multiple, END)


def nack(channel: int, tag: int, *, requeue: bool) -> bytes:
    """That this delivery goes back, or else where its queue's dead letters go."""
    return _SETTLE.pack(METHOD, channel, 13, 60, 120, tag, _REQUEUE if requeue else 0, END)


def get(channel: int, queue: str) -> bytes:
    """A question for one message of a queue."""
    name = _short(queue)
    return HEAD.pack(METHOD, channel, 7 + len(name)) + _METHOD.pack(60, 70, 0) + name + b"\x00" + _END


def publish(channel: int, message: Message, largest: int) -> bytes:
    """A message, in frames with at most `largest` bytes of the body. Raises `struct.error` for too long a name."""
    body, content = message.body, properties(message)
    parts = [
        _method(channel, message.exchange, message.key, mandatory=message.mandatory),
        HEAD.pack(HEADER, channel, 12 + len(content)),
        _CONTENT.pack(60, 0, len(body), int.from_bytes(content[:2], "big")),
        content[2:],
        _END,
    ]
    for start in range(0, len(body), largest):
        part = body[start : start + largest]
        parts += (HEAD.pack(BODY, channel, len(part)), part, _END)
    return b"".join(parts)


def properties(message: Message) -> bytes:
    """A content header, from its flags on."""
    flags, table = (_SAYS | _HAS_HEADERS, encode.field_table(message.headers)) if message.headers else (_SAYS, b"")
    job, own = _short(message.job), _short(message.id)
    return b"".join((flags.to_bytes(2, "big"), _JSON, table, _PERSISTENT, job, own))


@lru_cache(maxsize=1024)
def _method(channel: int, exchange: str, key: str, *, mandatory: bool) -> bytes:
    """The publish itself. What is mandatory is returned if there is no queue for it."""
    payload = b"".join((_METHOD.pack(60, 40, 0), _short(exchange), _short(key), bytes((mandatory,))))
    return HEAD.pack(METHOD, channel, len(payload)) + payload + _END


def _short(text: str) -> bytes:
    data = text.encode()
    return struct.pack("B", len(data)) + data
