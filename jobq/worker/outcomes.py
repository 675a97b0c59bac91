"""From how a run ended to what is stored of it: pure functions."""

import logging
import traceback
from dataclasses import dataclass
from typing import Final

from jobq._retry import Exponential
from jobq.errors import Discard, RetryIn, Snooze
from jobq.model import Again, Cancelled, Dead, Delivery, Event, Failure, Happening, Trail, history_with
from jobq.registry import TaskOptions

__all__ = ["Scribe", "failure_of"]

_MESSAGE: Final = 2_000
_TRACEBACK: Final = 8_000
_DETAIL: Final = 200
_PARK_FIRST: Final = 1.0
_PARK_CAP: Final = 30.0

log = logging.getLogger("jobq.worker")


@dataclass(frozen=True, slots=True)
class Scribe:
    """Writes outcomes in the name of one worker. `now` is seconds since the epoch."""

    worker: str

    def after_error(
        self, delivery: Delivery, exc: BaseException, options: TaskOptions, now: float
    ) -> Again | Dead | Cancelled:
        """What follows when a body raised `exc`."""
        if isinstance(exc, Snooze):
            event = self._event(now, Happening.SNOOZED)
            old = delivery.trail
            return Again(
                *_token(delivery), _with(delivery, Trail(old.attempt, None, old.failure, old.history), event), exc.delay
            )
        if isinstance(exc, Discard):
            return self.cancelled(delivery, exc.reason, now)
        failure = failure_of(exc)
        trail = Trail(delivery.trail.attempt + 1, None, failure, delivery.trail.history)
        delay = _delay(exc, options, trail.attempt)
        if delay is None:
            return self._dead(delivery, trail, now, keep=options.keep_dead)
        event = self._event(now, Happening.RETRIED, str(failure))
        return Again(*_token(delivery), _with(delivery, trail, event), delay, options.retry_queue)

    def cancelled(self, delivery: Delivery, reason: str, now: float) -> Cancelled:
        """Somebody ordered it, or the body itself did."""
        event = self._event(now, Happening.CANCELLED, reason)
        return Cancelled(*_token(delivery), _with(delivery, delivery.trail, event))

    def buried(self, delivery: Delivery, exc: BaseException, now: float, *, keep: bool = True) -> Dead:
        """It cannot or must not run at all; no attempt is spent."""
        old = delivery.trail
        return self._dead(delivery, Trail(old.attempt, old.parked, failure_of(exc), old.history), now, keep=keep)

    def parked(self, delivery: Delivery, now: float) -> Again:
        """The task is unknown to this worker; another may know it, or this one after its next deploy."""
        old = delivery.trail
        if old.parked is not None:  # one line in the history is enough
            return Again(*_token(delivery), old, min(_PARK_CAP, max(_PARK_FIRST, now - old.parked)))
        event = self._event(now, Happening.PARKED, "unknown task")
        trail = _with(delivery, Trail(old.attempt, now, old.failure, old.history), event)
        return Again(*_token(delivery), trail, _PARK_FIRST)

    def _dead(self, delivery: Delivery, trail: Trail, now: float, *, keep: bool) -> Dead:
        event = self._event(now, Happening.DEAD, "" if trail.failure is None else str(trail.failure))
        return Dead(*_token(delivery), _with(delivery, trail, event), keep)

    def _event(self, now: float, what: Happening, detail: str = "") -> Event:
        return Event(round(now, 3), what, self.worker, _clean(detail, _DETAIL))


def _with(delivery: Delivery, trail: Trail, event: Event) -> Trail:
    """`trail` with one more event, and with the crashes that the broker noted since the last one."""
    history = history_with(trail.history, delivery.crashes, event)
    return Trail(trail.attempt, trail.parked, trail.failure, history)


def failure_of(exc: BaseException) -> Failure:
    """`exc` as text, cut to a sane length; the end of a traceback says most."""
    try:
        message = str(exc)
    except BaseException as broken:  # noqa: BLE001 - a user's __str__ may do anything
        message = f"<its __str__ raised {type(broken).__name__}>"
    try:
        lines = "".join(traceback.format_exception(exc))
    except BaseException as broken:  # noqa: BLE001
        lines = f"<formatting it raised {type(broken).__name__}>"
    return Failure(
        _clean(type(exc).__qualname__, _DETAIL), _clean(message, _MESSAGE), _clean(lines[-_TRACEBACK:], _TRACEBACK)
    )


def _token(delivery: Delivery) -> tuple[str, int]:
    return delivery.job.id, delivery.epoch


def _delay(exc: BaseException, options: TaskOptions, attempt: int) -> float | None:
    if isinstance(exc, RetryIn):
        return exc.delay if attempt <= options.retry.max_retries else None
    try:
        return options.retry.delay_after(exc, attempt)
    except BaseException:  # a user's backoff must not lose the job, not even by sys.exit()
        log.exception("the backoff %r failed; using the default one", options.retry.backoff)
        return Exponential()(attempt - 1)


def _clean(text: str, limit: int) -> str:
    """At most `limit` characters that JSON can store (no lone surrogates)."""
    return text[:limit].encode("utf-8", "replace").decode()
