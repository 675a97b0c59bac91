"""Every exception of jobq.

::

    JobqError
    ├── ConfigError(ValueError)           an option, a name or a URL that cannot be right
    │   ├── UnknownBroker                 no installed broker has this name or URL scheme
    │   ├── MissingExtra(ImportError)     the broker is known, its client library is not installed
    │   └── AppNotFound                   the `module:app` string leads nowhere
    ├── NotATask(TypeError)               something that is no registered task was enqueued
    ├── EncodeError(TypeError)            arguments that cannot be stored; nothing was
    │   └── PayloadTooLarge
    ├── DecodeError(ValueError)           a stored job that cannot be read
    ├── BrokerError                       the broker said no
    │   ├── BrokerUnavailable(ConnectionError)   it cannot be reached; nothing was stored
    │   │   └── OutcomeUnknown            the reply was lost: stored or not, nobody here knows
    │   ├── BrokerFull                    it has no room left (memory, disk); nothing was stored
    │   ├── BrokerRefused                 it reached a decision against us: rights, version, setting
    │   └── NotAllStored                  several jobs, and not all of them are known to be stored
    ├── Unsupported(NotImplementedError)  this broker cannot; the message says what can
    ├── LeaseLost                         another worker may have the job; nothing of this run was stored
    ├── NoCurrentJob(RuntimeError)        `current()` outside a job
    ├── JobTimeout(TimeoutError)          a job, or its transaction, ran longer than it may
    ├── JobAborted                        a body ended itself with SystemExit, or cancelled itself
    ├── JobPoisonous                      a job was held by several workers when they died
    └── TaskUnknown                       no worker knew the job's task for too long

    Verdict                               not errors: what a task raises to decide its own end
    ├── RetryIn                           run me again later; spends an attempt
    ├── Snooze                            run me again later; spends none
    └── Discard                           stop; the reason is kept as the job's end
"""

import math
from collections.abc import Sequence
from datetime import timedelta
from typing import Final

FAR: Final = 1e11
"""Seconds; more than 3,000 years: whoever passes that has mixed up units."""


class JobqError(Exception):
    """Root of every error that jobq raises."""


class ConfigError(JobqError, ValueError):
    """An option, a name or a URL that cannot be right."""


class UnknownBroker(ConfigError):
    """No installed broker has this name or URL scheme."""


class MissingExtra(ConfigError, ImportError):
    """The broker is known, but the library it needs is not installed."""


class AppNotFound(ConfigError):
    """A `module:app` string that leads nowhere."""


class NotATask(JobqError, TypeError):
    """Something that is no registered task was enqueued."""


class EncodeError(JobqError, TypeError):
    """The arguments cannot be stored. Nothing was."""


class PayloadTooLarge(EncodeError):
    """The arguments are larger than the limit. Nothing was stored."""


class DecodeError(JobqError, ValueError):
    """A stored job cannot be read, or its arguments do not fit its task."""


class BrokerError(JobqError):
    """The broker did not do what was asked."""


class BrokerUnavailable(BrokerError, ConnectionError):
    """The broker cannot be reached; what was asked did not happen."""


class OutcomeUnknown(BrokerUnavailable):
    """The reply was lost: what was asked may have happened. Repeating it is safe."""


class BrokerFull(BrokerError):
    """The broker has no room left. Nothing was stored."""


class BrokerRefused(BrokerError):
    """The broker answered, and the answer is no: rights, version or a setting."""


class NotAllStored(BrokerError):
    """Several jobs were enqueued and not all of them are known to be stored, or an enqueue middleware raised later.

    `stored`, `not_stored` and `unknown` hold job ids; together they are all the jobs of the call.
    The cause (`__cause__`) is what stopped it.
    """

    def __init__(self, stored: Sequence[str], not_stored: Sequence[str], unknown: Sequence[str]) -> None:
        self.stored = tuple(stored)
        self.not_stored = tuple(not_stored)
        self.unknown = tuple(unknown)
        super().__init__(
            f"{len(self.stored)} jobs stored, {len(self.not_stored)} not stored, {len(self.unknown)} unknown; "
            "the ids are in .stored, .not_stored and .unknown"
        )


class Unsupported(JobqError, NotImplementedError):
    """The broker cannot do that."""


class LeaseLost(JobqError):
    """This run no longer has its job, which another worker may run: what was to be stored with it was rolled back."""


class NoCurrentJob(JobqError, RuntimeError):
    """`jobq.current()` was called outside a job."""


class JobTimeout(JobqError, TimeoutError):
    """A job ran longer than its task allows, or its transaction was open for longer than the broker allows."""


class JobAborted(JobqError):
    """A body ended itself with SystemExit, or cancelled itself."""


class JobPoisonous(JobqError):
    """A job was held by several workers when they died."""


class TaskUnknown(JobqError):
    """No worker knew the job's task for too long."""


class Verdict(Exception):  # a decision, not an error
    """What a task raises to decide its own end."""


class RetryIn(Verdict):
    """Run this job again after `delay` (seconds or timedelta); it spends an attempt."""

    def __init__(self, delay: float | timedelta) -> None:
        self.delay = _seconds(delay)
        super().__init__(self.delay)


class Snooze(Verdict):
    """Run this job again after `delay` (seconds or timedelta); it spends no attempt."""

    def __init__(self, delay: float | timedelta) -> None:
        self.delay = _seconds(delay)
        super().__init__(self.delay)


class Discard(Verdict):
    """Stop here: the job ends as cancelled, with this reason."""

    def __init__(self, reason: str = "") -> None:
        self.reason = str(reason)
        super().__init__(reason)


def _seconds(delay: float | timedelta) -> float:
    seconds = delay.total_seconds() if isinstance(delay, timedelta) else float(delay)
    if not -math.inf < seconds <= FAR:
        raise ValueError(f"the delay is {delay!r}; it must be a finite number of seconds")
    return max(0.0, seconds)
