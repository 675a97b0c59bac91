"""Envelopes: a `Job` as JSON bytes, the same on every broker (docs/wire-format.md).

Public, because brokers need it. Arguments are another matter: they are the envelope's `body`, which is encoded and
decoded by the task that owns them, and by nobody in between.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Final, overload

import msgspec

from jobq.errors import DecodeError
from jobq.model import NO_TRAIL, Crash, DeadJob, Delivery, Job, Trail

__all__ = [
    "MAX_DEPTH",
    "MAX_ENVELOPE",
    "Deliveries",
    "check_limits",
    "decode_crashes",
    "decode_dead",
    "decode_delivery",
    "decode_job",
    "decode_trail",
    "encode_crashes",
    "encode_job",
    "encode_trail",
]

VERSION: Final = 1
MAX_ENVELOPE: Final = 1 << 20
"""The most bytes of an envelope that a worker reads; clients refuse much earlier."""
MAX_DEPTH: Final = 64

_job_encoder = msgspec.json.Encoder()
_job_decoder = msgspec.json.Decoder(Job)
_trail_decoder = msgspec.json.Decoder(Trail)
_crash_decoder = msgspec.json.Decoder(tuple[Crash, ...])
_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*+"?', re.DOTALL)
_NO_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")


def encode_job(job: Job) -> bytes:
    """The envelope of `job`."""
    return _job_encoder.encode(job)


def decode_job(envelope: bytes | memoryview) -> Job:
    """The job in `envelope`; its `body` stays undecoded. Raises `DecodeError` for what is no envelope."""
    if len(envelope) > MAX_ENVELOPE:
        raise DecodeError(f"the envelope has {len(envelope)} bytes, the limit is {MAX_ENVELOPE}")
    try:
        job = _job_decoder.decode(envelope)
    except (msgspec.MsgspecError, ValueError, RecursionError) as exc:  # ValueError: ints over the digit limit
        raise DecodeError(f"not an envelope: {exc}") from None
    if job.v != VERSION:
        raise DecodeError(f"the envelope has version {job.v}, this jobq reads version {VERSION}")
    return job


def decode_delivery(
    id: str,  # noqa: A002 - the field's name
    envelope: bytes | memoryview,
    *,
    epoch: int,
    queue: str,
    trail: bytes | None = None,
    crashes: bytes | None = None,
) -> Delivery:
    """A claimed job from what a broker stores; never raises: what cannot be read is marked as malformed."""
    try:
        job = decode_job(envelope)
        if job.id != id:
            raise DecodeError(f"the envelope stored as {id!r} says it is {job.id!r}")  # noqa: TRY301
        if job.queue != queue:  # a retry may have moved it; the envelope stays as it was
            job = msgspec.structs.replace(job, queue=queue)
        if trail is None and crashes is None:
            return Delivery(job, epoch)
        return Delivery(job, epoch, decode_trail(trail), decode_crashes(crashes))
    except DecodeError as exc:
        raw = Job(id=id, task="", queue=queue, body=msgspec.Raw(bytes(envelope)))
        return Delivery(raw, epoch, malformed=str(exc))


def decode_dead(
    id: str,  # noqa: A002 - the field's name
    envelope: bytes | memoryview,
    *,
    queue: str,
    trail: bytes | None = None,
    crashes: bytes | None = None,
    died: float | None = None,
    reason: str = "",
) -> DeadJob:
    """A dead job from what a broker stores; never raises: of what cannot be read, the rest is there."""
    delivery = decode_delivery(id, envelope, epoch=0, queue=queue)
    past, notes, malformed = NO_TRAIL, tuple[Crash, ...](), delivery.malformed
    try:
        past = decode_trail(trail)
        notes = decode_crashes(crashes)
    except DecodeError as exc:
        malformed = malformed or str(exc)
    return DeadJob(delivery.job, bytes(envelope), past, notes, died, reason, malformed)


class Deliveries(Sequence[Delivery]):
    """Claimed jobs that are decoded when somebody first looks at them, from any thread.

    There are `count`; `decode` makes them, and must not fail.
    """

    def __init__(self, count: int, decode: Callable[[], Sequence[Delivery]]) -> None:
        self._count = count
        self._decode: Callable[[], Sequence[Delivery]] | None = decode
        self._decoded: Sequence[Delivery] = ()

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Delivery]:
        return iter(self._all())

    @overload
    def __getitem__(self, index: int) -> Delivery: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Delivery]: ...
    def __getitem__(self, index: int | slice) -> Delivery | Sequence[Delivery]:
        return self._all()[index]

    def _all(self) -> Sequence[Delivery]:
        decode = self._decode
        if decode is not None:  # two threads at once may both decode, to the same end
            self._decoded = decode()
            self._decode = None
        return self._decoded


def encode_trail(trail: Trail) -> bytes:
    """JSON bytes of a trail."""
    return _job_encoder.encode(trail)


def decode_trail(data: bytes | None) -> Trail:
    """The trail in `data`, or an empty one for None. Raises `DecodeError`."""
    if data is None:
        return NO_TRAIL
    try:
        return _trail_decoder.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as exc:
        raise DecodeError(f"not a trail: {exc}") from None


def encode_crashes(crashes: tuple[Crash, ...]) -> bytes:
    """JSON bytes of crash notes: `[[epoch, at, worker], …]`."""
    return _job_encoder.encode(crashes)


def decode_crashes(data: bytes | None) -> tuple[Crash, ...]:
    """The crash notes in `data`, or none for None. Raises `DecodeError`."""
    if data is None:
        return ()
    try:
        return _crash_decoder.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as exc:
        raise DecodeError(f"not crash notes: {exc}") from None


def check_limits(body: bytes | memoryview) -> None:
    """Raise `DecodeError` for JSON nested deeper than `MAX_DEPTH`, before a parser has to recurse into it."""
    if len(body) <= MAX_DEPTH:
        return
    data = bytes(body)
    if data.count(b"[") + data.count(b"{") <= MAX_DEPTH:
        return
    depth = 0
    for byte in _STRINGS.sub(b"", data).translate(None, _NO_BRACKETS):
        depth += 1 if byte in b"[{" else -1
        if depth > MAX_DEPTH:
            raise DecodeError(f"nested deeper than {MAX_DEPTH}")
