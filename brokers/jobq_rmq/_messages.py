"""Jobs as messages: the envelope is the body, and what changes from run to run is in the headers.

The headers of every message are made anew: `x-death`, copied from a delivery, would have the server drop a job that
passes a queue for the second time.
"""

import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from hashlib import sha256
from typing import Any, Final, cast
from uuid import uuid4

from msgspec import Struct, structs

from jobq.codec import decode_crashes, decode_dead, decode_delivery, encode_crashes, encode_job, encode_trail
from jobq.errors import DecodeError
from jobq.model import DEFAULT_PRIORITY, Crash, DeadJob, Delivery, Happening, Job, Trail, replayed
from jobq_rmq import _delay
from jobq_rmq._properties import Properties
from jobq_rmq._topology import Topology, band_of

_TRAIL: Final = "jobq-trail"
_CRASHES: Final = "jobq-crashes"
_ETA: Final = "jobq-eta"
_HELD: Final = "jobq-held"
"""Priority and queue of a job that is running."""
_WAIT: Final = "x-delay"
"""The plug-in's own: milliseconds, an integer."""


@dataclass(frozen=True, slots=True)
class Message:
    """What is to be published."""

    exchange: str
    key: str
    queue: str
    """The queue of jobs whose entities must be there before."""
    job: str
    body: bytes = field(repr=False)
    headers: dict[str, Any]
    levels: bool = False
    """Whether it goes through the ladder of delays."""
    mandatory: bool = True
    """Whether it is returned if there is no queue for it."""
    id: str = field(default_factory=lambda: uuid4().hex)
    """Of the message and not of the job: two publishes of one job must not be mixed up."""


class Stored(Struct, frozen=True, gc=False):
    """A job as it lies in a queue."""

    id: str
    queue: str
    priority: int
    body: bytes
    trail: bytes | None = None
    crashes: tuple[Crash, ...] = ()
    eta: float = 0.0
    held: bool = False
    """Whether somebody was running it when this message was made."""

    def delivery(self, epoch: int) -> Delivery:
        """The job for a worker. Never raises: what cannot be read is marked as malformed."""
        notes = encode_crashes(self.crashes) if self.crashes else None
        return decode_delivery(self.id, self.body, epoch=epoch, queue=self.queue, trail=self.trail, crashes=notes)


def stored(properties: Properties, body: bytes, queue: str, priority: int) -> Stored:
    """What came out of `queue`; nothing in it is trusted to have the right type."""
    job, headers = properties.correlation_id or properties.message_id or uuid4().hex, properties.headers
    if not headers:
        return Stored(job, queue, priority, body)
    trail, crashes = _bytes(headers.get(_TRAIL)), _crashes(headers.get(_CRASHES))
    return Stored(job, queue, priority, body, trail, crashes, _number(headers.get(_ETA)), _HELD in headers)


def stored_with_holder(properties: Properties, body: bytes) -> Stored:
    """What came out of a holder's queue."""
    priority, _, queue = str(properties.headers.get(_HELD, "")).partition(" ")
    return stored(properties, body, queue, int(priority) if re.fullmatch("[0-4]", priority) else DEFAULT_PRIORITY)


def new(topology: Topology, job: Job, delay: float) -> Message:
    """The first message of a job that is due in `delay` seconds."""
    destination = topology.destination(job.queue, band_of(job.priority, 0))
    return _delayed(topology, Message(topology.jobs, destination, job.queue, job.id, encode_job(job), {}), delay)


def again(topology: Topology, old: Stored, *, queue: str, trail: Trail | None, delay: float) -> Message:
    """The message of its next run."""
    destination = topology.destination(queue, band_of(old.priority, len(old.crashes)))
    message = Message(topology.jobs, destination, queue, old.id, old.body, _headers(old, trail))
    return _delayed(topology, message, delay)


def after_crash(topology: Topology, old: Stored, note: Crash) -> Message:
    """The message of a job that was lost with its worker."""
    charged = structs.replace(old, crashes=(*old.crashes, note))
    return again(topology, charged, queue=old.queue, trail=None, delay=0)


def copy(topology: Topology, old: Stored) -> Message:
    """The message of a job that is given back as it was."""
    return again(topology, old, queue=old.queue, trail=None, delay=0)


def handed_over(topology: Topology, old: Stored, holder: str) -> Message:
    """The message of a job that is running, to the process that runs it."""
    key = topology.home(holder, old.queue, band_of(old.priority, len(old.crashes)))
    headers = _headers(old, None) | {_HELD: f"{old.priority} {old.queue}"}
    return Message(topology.holds, key, old.queue, old.id, old.body, headers)


def dead(topology: Topology, old: Stored, trail: Trail) -> Message:
    """The message of a job that will not run again."""
    grave = topology.grave(old.queue)
    return Message(topology.dead_letters, grave, old.queue, old.id, old.body, _headers(old, trail))


def dead_job(properties: Properties, body: bytes, queue: str) -> DeadJob:
    """What came out of the queue of the dead of `queue`. A message of others without an id is called by its content."""
    headers = properties.headers
    job = properties.correlation_id or properties.message_id or sha256(body).hexdigest()[:32]
    trail, crashes = _bytes(headers.get(_TRAIL)), _bytes(headers.get(_CRASHES))
    reason, at = _given_up(headers)
    dead = decode_dead(job, body, queue=queue, trail=trail, crashes=crashes, died=at, reason=reason)
    events = [event.at for event in dead.trail.history if event.what is Happening.DEAD]
    return dead if reason or not events else structs.replace(dead, died=events[-1])


def back(topology: Topology, dead: DeadJob) -> Message:
    """The message of a dead job that is to run again."""
    destination = topology.destination(dead.queue, band_of(dead.job.priority, 0))
    headers = {_TRAIL: encode_trail(replayed(dead, time.time())).decode()}
    return Message(topology.jobs, destination, dead.queue, dead.id, dead.envelope, headers)


def _given_up(headers: Mapping[str, Any]) -> tuple[str, float | None]:
    """Why and when the server dead-lettered it last, if it did: what it says first."""
    deaths = headers.get("x-death")
    last = cast("list[object]", deaths)[0] if isinstance(deaths, list) and deaths else None
    if not isinstance(last, dict):
        return "", None
    said = cast("dict[str, object]", last)
    reason, at = said.get("reason"), said.get("time")
    return reason if isinstance(reason, str) else "", at.timestamp() if isinstance(at, datetime) else None


def _delayed(topology: Topology, message: Message, delay: float) -> Message:
    """The same message, by way of the plug-in or of the ladder."""
    if delay <= 0:
        return message
    due = replace(message, headers=message.headers | {_ETA: repr(time.time() + delay)})
    wait = _delay.by_plugin(delay) if topology.delays == "plugin" else None
    return _by_ladder(topology, due, delay) if wait is None else _by_plugin(topology, due, wait)


def _by_ladder(topology: Topology, message: Message, delay: float) -> Message:
    units = _delay.ticks(delay)
    exchange = topology.level(_delay.top_level(units))
    return replace(message, exchange=exchange, key=_delay.key(units, message.key), levels=True)


def _by_plugin(topology: Topology, message: Message, wait: int) -> Message:
    """The plug-in returns what is mandatory, although it keeps it. The key is that of what has passed the ladder."""
    return replace(
        message,
        exchange=topology.delayed,
        key=_delay.key(0, message.key),
        headers=message.headers | {_WAIT: wait},
        mandatory=False,
    )


def _headers(old: Stored, trail: Trail | None) -> dict[str, Any]:
    headers: dict[str, Any] = {}
    text = encode_trail(trail) if trail is not None else old.trail
    if text is not None:
        headers[_TRAIL] = text.decode(errors="replace")
    if old.crashes:
        headers[_CRASHES] = encode_crashes(old.crashes).decode()
    return headers


def _bytes(value: object) -> bytes | None:
    return value.encode() if isinstance(value, str) else None


def _number(value: object) -> float:
    try:
        number = float(value) if isinstance(value, str) else 0.0
    except ValueError:
        return 0.0
    return number if math.isfinite(number) else 0.0


def _crashes(value: object) -> tuple[Crash, ...]:
    try:
        return decode_crashes(_bytes(value))
    except DecodeError:
        return ()
