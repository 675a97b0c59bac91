"""What there has to be on the server: exchanges, queues and bindings, as data.

Arguments cannot be changed once a queue is there, so there are only those that correctness needs; limits on length or
age belong into an operator's policies.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final, Literal

from pamqp.common import FieldValue

from jobq.model import DEFAULT_PRIORITY, SUSPECT_AFTER
from jobq_rmq import _delay

Kind = Literal["quorum", "classic"]
Band = Literal["high", "normal", "low", "suspects"]
Delays = Literal["ttl", "plugin"]
"""What waits: the ladder of queues, or the exchange of the plug-in, and the ladder only where that cannot."""
Arguments = dict[str, FieldValue]

BANDS: Final[tuple[Band, ...]] = ("high", "normal", "low", "suspects")
"""Priorities 4 and 3, 2, 1 and 0; each has a queue of its own, for RabbitMQ's own priorities differ by version.

Suspects have one, too: a process is sent one of them at a time, so that a killer takes no others along.
"""
_MOST_DELIVERIES: Final = 1000
"""A backstop: what was given back so often, by whomever, without ever ending, is dead-lettered."""
_HANDED_OVER: Final = 10_000
"""Milliseconds in which a process takes what it has published to itself; what it held for longer goes home at once."""
_ABANDONED: Final = 86_400_000
"""Milliseconds after which the queue of a process that died is deleted; it is long empty then."""
_NO_LIMIT: Final = (1 << 31) - 1
"""-1 means that to RabbitMQ 4 only: RabbitMQ 3 takes it for a number that is always passed, and drops what is given
back. With any limit it gives back to where it was, and without one to the end."""
_LONGEST_NAME: Final = 160
"""Bytes; a delay and a prefix have to fit beside it into a routing key, which has 255."""
DELAYED: Final = "x-delayed-message"
"""The type of the plug-in's exchanges."""


@dataclass(frozen=True)
class Exchange:
    """An exchange; durable."""

    name: str
    type: Literal["direct", "topic", "fanout", "x-delayed-message"]
    arguments: Arguments = field(default_factory=dict[str, FieldValue])


@dataclass(frozen=True)
class Queue:
    """A queue; durable."""

    name: str
    arguments: Arguments


@dataclass(frozen=True)
class Binding:
    """Messages of `source` with a routing key that fits go to `target`."""

    source: str
    target: str
    key: str = ""
    to_exchange: bool = False


Entity = Exchange | Queue | Binding


def band_of(priority: int, crashes: int) -> Band:
    """The band of jobs with this priority that were lost so often with a worker."""
    if crashes >= SUSPECT_AFTER:
        return "suspects"
    if priority == DEFAULT_PRIORITY:
        return "normal"
    return "high" if priority > DEFAULT_PRIORITY else "low"


@dataclass(frozen=True)
class Topology:
    """The names and arguments of one namespace."""

    prefix: str
    kind: Kind
    delays: Delays = "ttl"

    @property
    def jobs(self) -> str:
        """Where jobs are published that are to be run now; the key is `destination(…)`."""
        return f"{self.prefix}.jobs"

    @property
    def dead_letters(self) -> str:
        """Where dead jobs are published; the key is `grave(…)`."""
        return f"{self.prefix}.dlx"

    @property
    def unroutable(self) -> str:
        """Where everything goes whose queue is no longer there."""
        return f"{self.prefix}.unroutable"

    def destination(self, queue: str, band: Band) -> str:
        """The routing key of a queue."""
        return f"{band}.{_name(queue)}"

    def ready(self, queue: str, band: Band) -> str:
        """The queue of jobs that are to be run."""
        return f"{self.prefix}.{self.destination(queue, band)}"

    def dead(self, queue: str) -> str:
        """The queue of dead jobs."""
        return f"{self.prefix}.dead.{_name(queue)}"

    def grave(self, queue: str) -> str:
        """The routing key of the queue of dead jobs."""
        return _name(queue)

    @property
    def holds(self) -> str:
        """Where a process publishes long jobs to itself; the key is `home(…)`."""
        return f"{self.prefix}.held"

    def held(self, holder: str) -> str:
        """The queue of what a process holds for long."""
        return f"{self.holds}.{holder}"

    def home(self, holder: str, queue: str, band: Band) -> str:
        """The routing key that goes to a process, and if that is gone, to a queue of jobs."""
        return _delay.home(holder, self.destination(queue, band))

    def level(self, level: int) -> str:
        """The exchange and the queue of a level; -1 is the exchange below the last one."""
        return f"{self.prefix}.delay.{self.kind}.v1.{f'{level:02}' if level >= 0 else 'out'}"

    @property
    def delayed(self) -> str:
        """The exchange of the plug-in."""
        return f"{self.prefix}.delayed.{self.kind}"

    def base(self) -> Sequence[Entity]:
        """What everybody needs."""
        entities: list[Entity] = [
            Exchange(self.unroutable, "fanout"),
            Queue(self.unroutable, self._typed()),
            Binding(self.unroutable, self.unroutable),
            Exchange(self.jobs, "direct"),
            Exchange(self.dead_letters, "direct", {"alternate-exchange": self.unroutable}),
            Exchange(self.level(-1), "topic", {"alternate-exchange": self.unroutable}),
        ]
        return entities if self.delays == "ttl" else [*entities, *self._plugin()]

    def ladder(self) -> Sequence[Entity]:
        """What delays need, from the bottom to the top."""
        return [entity for level in range(_delay.LEVELS) for entity in self._level(level)]

    def of_queue(self, queue: str) -> Sequence[Entity]:
        """What one queue of jobs needs.

        A binding is the last: RabbitMQ 3.10 may forget what it declared last when it is killed within milliseconds,
        and with a queue it forgets what was confirmed in it. Bindings are made again by whoever connects next.
        """
        dead = self.dead(queue)
        graves = self._typed() | self._unlimited()  # or RabbitMQ 4 drops what was looked at for the twentieth time
        entities: list[Entity] = [Queue(dead, graves), Binding(self.dead_letters, dead, self.grave(queue))]
        for band in BANDS:
            name, key = self.ready(queue, band), self.destination(queue, band)
            entities += [
                Queue(name, self._typed() | self._ready_arguments(queue)),
                Binding(self.jobs, name, key),
                Binding(self.level(-1), name, _delay.arrival(key)),
            ]
        return entities

    def of_holder(self, holder: str) -> Sequence[Entity]:
        """What a process needs that holds jobs for long."""
        name = self.held(holder)
        home: Arguments = {"x-dead-letter-exchange": self.level(-1), "x-message-ttl": _HANDED_OVER}
        abandoned: Arguments = {"x-expires": _ABANDONED}
        return (
            Exchange(self.holds, "topic"),
            Queue(name, self._typed() | home | self._at_least_once() | self._unlimited() | abandoned),
            Binding(self.holds, name, f"{holder}.#"),
        )

    def _plugin(self) -> Sequence[Entity]:
        """Its messages end where the ladder does: what has no queue there is parked.

        Bound to the queues it would drop that, and with an alternate exchange of its own it would not delay at all.
        """
        return (
            Exchange(self.delayed, DELAYED, {"x-delayed-type": "fanout"}),
            Binding(self.delayed, self.level(-1), to_exchange=True),
        )

    def _level(self, level: int) -> Sequence[Entity]:
        name, below = self.level(level), self.level(level - 1)
        waiting: Arguments = {"x-dead-letter-exchange": below, "x-message-ttl": _delay.milliseconds(level)}
        return (
            Exchange(name, "topic"),
            Queue(name, self._typed() | waiting | self._at_least_once() | self._unlimited()),
            Binding(name, name, _delay.through(level)),
            Binding(name, below, _delay.past(level), to_exchange=True),
        )

    def _typed(self) -> Arguments:
        balanced: Arguments = {"x-queue-leader-locator": "balanced"} if self.kind == "quorum" else {}
        return {"x-queue-type": self.kind} | balanced  # named even if it is the default, which hosts may change

    def _ready_arguments(self, queue: str) -> Arguments:
        dead: Arguments = {"x-dead-letter-exchange": self.dead_letters, "x-dead-letter-routing-key": self.grave(queue)}
        limit: Arguments = {"x-delivery-limit": _MOST_DELIVERIES} if self.kind == "quorum" else {}
        return dead | self._at_least_once() | limit

    def _at_least_once(self) -> Arguments:
        if self.kind == "classic":
            return {}
        return {"x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"}

    def _unlimited(self) -> Arguments:
        return {"x-delivery-limit": _NO_LIMIT} if self.kind == "quorum" else {}


def _name(queue: str) -> str:
    """A queue of jobs in RabbitMQ's names: itself, if it is one that jobq accepts."""
    plain = re.sub(rb"[^A-Za-z0-9_.-]", lambda odd: b":%02x" % odd[0][0], queue.encode()).decode()
    if len(plain) <= _LONGEST_NAME:
        return plain
    digest = sha256(queue.encode()).hexdigest()
    return f"{plain[: _LONGEST_NAME - len(digest) - 1]}:{digest}"
