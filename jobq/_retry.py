"""What follows a failure: pure decisions."""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

from jobq._checks import check_whole
from jobq.errors import FAR, ConfigError

__all__ = ["Exponential", "Retry"]

_MAX_EXPONENT = 64


@dataclass(frozen=True, slots=True)
class Exponential:
    """Backoff with full jitter: a random delay between 0 and `base * factor ** retry`, at most `cap` (seconds).

    Full jitter spreads a crowd of retries best (AWS Architecture Blog, "Exponential Backoff And Jitter", 2015).
    """

    base: float = 5.0
    factor: float = 2.0
    cap: float = 86_400.0

    def __call__(self, retry: int) -> float:
        """Seconds to wait before retry number `retry`, counted from 0."""
        return random.uniform(0, min(self.cap, self.base * self.factor ** min(retry, _MAX_EXPONENT)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """How often, when and after what a failed job runs again.

    `max_retries` are runs after the first; with the default backoff, 25 of them span about a week. `backoff` maps the
    retry's number, from 0, to seconds. A failure is retried if it is an instance of one of `on`, and of none of
    `never_on`.
    """

    max_retries: int = 25
    backoff: Callable[[int], float] = field(default_factory=Exponential)
    on: tuple[type[BaseException], ...] = (Exception,)
    never_on: tuple[type[BaseException], ...] = ()

    def __post_init__(self) -> None:
        check_whole("max_retries", self.max_retries, 0)
        if not callable(self.backoff):
            raise ConfigError(f"backoff is {self.backoff!r}; it is a function from the retry's number to seconds")
        for name in ("on", "never_on"):
            kinds: object = getattr(self, name)
            if not _are_exceptions(kinds):
                raise ConfigError(f"{name} is {kinds!r}; it is a tuple of exception classes")

    def delay_after(self, exc: BaseException, attempt: int) -> float | None:
        """Seconds until the job runs again after its `attempt`-th failed run, or None if it does not."""
        if attempt > self.max_retries or isinstance(exc, self.never_on) or not isinstance(exc, self.on):
            return None
        delay = float(self.backoff(attempt - 1))
        if not -math.inf < delay < math.inf:
            raise ConfigError(f"the backoff gave {delay} seconds for retry {attempt - 1}")
        return min(max(0.0, delay), FAR)


def _are_exceptions(kinds: object) -> bool:
    if not isinstance(kinds, tuple):
        return False
    return all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in cast("tuple[object, ...]", kinds))
