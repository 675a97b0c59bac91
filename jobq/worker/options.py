"""A worker's settings, checked when they are made."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from jobq._checks import check_flag, check_queue, check_seconds, check_whole
from jobq.errors import ConfigError
from jobq.model import DEFAULT_QUEUE
from jobq.registry import Registry

__all__ = ["QueueWeight", "WorkerOptions", "parse_queue", "queues_of"]

MAX_WEIGHT: Final = 1000


@dataclass(frozen=True, slots=True)
class QueueWeight:
    """A queue to work on; `weight` is its share of first looks, None for strict order."""

    name: str
    weight: int | None = None


def parse_queue(text: object) -> QueueWeight:
    """`mail` or `mail:5`. Raises `ConfigError`."""
    name, colon, weight = text.partition(":") if isinstance(text, str) else (text, "", "")
    if not colon:
        return QueueWeight(check_queue(name))
    if not (weight.isascii() and weight.isdigit() and 1 <= int(weight) <= MAX_WEIGHT):
        raise ConfigError(f"the weight in {text!r} is not a whole number from 1 to {MAX_WEIGHT}")
    return QueueWeight(check_queue(name), int(weight))


def queues_of(registry: Registry) -> tuple[str, ...]:
    """The queues that an app's tasks name, and the default one; in equal shares, since their order means nothing."""
    names = {DEFAULT_QUEUE}
    for task in registry.tasks.values():
        names |= {task.config.queue, task.config.retry_queue or task.config.queue}
    others = sorted(names - {DEFAULT_QUEUE})
    return tuple(f"{name}:1" for name in (DEFAULT_QUEUE, *others)) if others else (DEFAULT_QUEUE,)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """How a worker works. Times are seconds.

    `queues`: names, or `name:weight`. Without weights the first queue is emptied before the second is looked at; with
    weights each queue is looked at first in proportion to its weight. `concurrency`: jobs at once. `grace`: how long
    running jobs may go on after `stop()`. `burst`: stop when nothing is ready. `lease`: how long the broker lets this
    worker hold jobs without a sign of life, renewed every `renew`. `sweep`: between upkeep runs. `park_grace`: how
    long a job of an unknown task waits for a worker that knows it. `max_lag`: how long a job may block the event loop
    before it is named in the log.
    """

    queues: Sequence[str] = (DEFAULT_QUEUE,)
    concurrency: int = 100
    grace: float = 25.0
    burst: bool = False
    lease: float = 30.0
    renew: float = 10.0
    sweep: float = 5.0
    park_grace: float = 900.0
    max_lag: float = 0.5
    worker_id: str | None = None
    weights: tuple[QueueWeight, ...] = field(init=False)

    def __post_init__(self) -> None:
        if isinstance(self.queues, str):
            raise ConfigError(f"queues is {self.queues!r}; it is a list of names")
        weights = tuple(parse_queue(text) for text in self.queues)
        if len({weight.name for weight in weights}) != len(weights) or not weights:
            raise ConfigError(f"queues is {self.queues!r}; it names at least one queue, and none twice")
        object.__setattr__(self, "weights", weights)
        check_whole("concurrency", self.concurrency, 1)
        check_flag("burst", self.burst)
        for name in ("grace", "park_grace"):
            check_seconds(name, getattr(self, name), zero=True)
        for name in ("lease", "renew", "sweep", "max_lag"):
            check_seconds(name, getattr(self, name))
        if not self.renew < self.lease / 2:
            raise ConfigError(f"renew is {self.renew} and lease is {self.lease}; renew must be less than half of lease")
