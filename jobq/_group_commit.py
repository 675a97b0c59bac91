"""Group commit for enqueues: whoever comes while one is under way shares the next.

One call of `Broker.enqueue` is in flight at a time, and each has a stamp, so that it can be repeated after a lost
reply without storing anything twice. Nothing waits to be sent: an idle client sends a job at once, a busy one sends
batches. One timer for all, set about once in a timeout, fails whoever has waited for so long.
"""

import asyncio
import math
import random
from collections import deque
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import chain
from typing import Final

from jobq._ids import new_id
from jobq.broker import Broker
from jobq.clock import Clock
from jobq.errors import BrokerUnavailable, JobqError, OutcomeUnknown
from jobq.model import MAX_CHUNK, Answer, Job, Stamp

CHUNK_BYTES: Final = 8 << 20
"""About as many bytes go into one call."""
RETRY_BASE: Final = 0.05
RETRY_CAP: Final = 1.0
_TRIES: Final = 4
"""How often each call is tried in its timeout, at the least."""
_ROUNDING: Final = 1e-6
"""Seconds by which sums of times may be wrong: without it, a timer could be set again and again for the same moment."""


def size_of(jobs: Iterable[Job]) -> int:
    """The bytes of their bodies, which are nearly all there is of a large job."""
    size = 0
    for job in jobs:  # twice as fast as `sum` for the usual one job
        size += len(memoryview(job.body))
    return size


class _Entry:
    """Jobs that are stored together or not at all, and who waits for them."""

    __slots__ = ("alone", "answers", "deadline", "fresh", "jobs")

    def __init__(
        self, jobs: Sequence[Job], answers: "asyncio.Future[Sequence[Answer]]", deadline: float, *, fresh: bool
    ) -> None:
        self.jobs = jobs
        self.fresh = fresh
        self.answers = answers
        self.deadline = deadline
        self.alone = False
        """Whether the broker has refused it together with others."""

    def fail(self, exc: BaseException) -> None:
        if not self.answers.done():
            self.answers.set_exception(exc)


class GroupCommit:
    """Stores jobs through one broker. Used on one event loop."""

    def __init__(self, broker: Broker, clock: Clock, timeout: float) -> None:
        self._broker = broker
        self._clock = clock
        self._timeout = timeout
        self._pending: deque[_Entry] = deque()
        """Certainly not stored. Here as in `_sent`, who came first is first, and has the earliest deadline."""
        self._sent: Sequence[_Entry] = ()
        """Sent, and the broker has not said what became of them."""
        self._trouble: BrokerUnavailable | None = None
        """Why what was tried last was not stored; `OutcomeUnknown` is about what is in `_sent`."""
        self._pause = RETRY_BASE
        self._flusher: asyncio.Task[None] | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._client = new_id()
        self._number = 0

    async def store(self, jobs: Sequence[Job], *, fresh: bool = False) -> Sequence[Answer]:
        """Return when the broker has all of `jobs` (at most `MAX_CHUNK`), whose ids may be `fresh` (see `Stamp`).

        Raises `BrokerUnavailable` (not stored) or `OutcomeUnknown` when it has not answered after the timeout, and not
        before; `BrokerFull`, `BrokerRefused`. A caller that is cancelled no longer learns what became of its jobs.
        """
        loop = asyncio.get_running_loop()
        answers: asyncio.Future[Sequence[Answer]] = loop.create_future()
        self._pending.append(_Entry(jobs, answers, self._clock.monotonic() + self._timeout, fresh=fresh))
        if self._watcher is None or self._watcher.done():  # first, so that it goes to sleep before all is done
            self._watcher = loop.create_task(self._watch(), name="jobq enqueue timeout")
        if self._flusher is None or self._flusher.done():
            self._flusher = loop.create_task(self._flush(), name="jobq enqueue")
        return await answers

    def hurry(self, seconds: float) -> None:
        """From now on nobody waits longer than `seconds`, be it for what is under way already."""
        self._timeout = min(self._timeout, seconds)
        latest = self._clock.monotonic() + self._timeout
        for entry in chain(self._sent, self._pending):
            entry.deadline = min(entry.deadline, latest)
        if self._watcher is not None and not self._watcher.done():
            self._watcher.cancel()
            self._watcher = asyncio.create_task(self._watch(), name="jobq enqueue timeout")

    async def close(self) -> None:
        """Return when nothing is left that could be stored before its deadline; nobody waits any more then."""
        while self._flusher is not None and not self._flusher.done() and (left := self._time_left()) > _ROUNDING:
            ended = asyncio.Event()
            self._flusher.add_done_callback(partial(_set, ended))
            await self._clock.wait(ended, left)
        self._expire(self._clock.monotonic())
        # a verb is not cancelled midway: when the broker comes back from it, the flusher ends by itself
        tasks = [self._watcher, None if self._sent else self._flusher]
        ending = [task for task in tasks if task is not None and task.cancel()]
        await asyncio.gather(*ending, return_exceptions=True)

    def _time_left(self) -> float:
        """Seconds in which something may still be stored; what was sent may be, even if its caller was cancelled."""
        waiting = [entry for entry in self._pending if not entry.answers.done()]
        return max((entry.deadline for entry in (*self._sent, *waiting)), default=0.0) - self._clock.monotonic()

    async def _watch(self) -> None:
        """Fail each call at its deadline; ends when there is none left."""
        while (deadline := self._next_deadline()) is not None:
            await self._clock.sleep(deadline - self._clock.monotonic())
            self._expire(self._clock.monotonic())

    def _next_deadline(self) -> float | None:
        waiting = (entry.deadline for entry in chain(self._sent, self._pending) if not entry.answers.done())
        return next(waiting, None)

    def _expire(self, now: float) -> None:
        now += _ROUNDING
        for entry in self._sent:
            if entry.deadline <= now:
                entry.fail(self._unknown())
        while self._pending and self._pending[0].deadline <= now:
            self._pending.popleft().fail(self._not_sent())

    def _unknown(self) -> OutcomeUnknown:
        if isinstance(self._trouble, OutcomeUnknown):
            return self._trouble
        return OutcomeUnknown(f"{self._broker.url} has not answered in time; it may have stored this or not")

    def _not_sent(self) -> BrokerUnavailable:
        if self._trouble is None or isinstance(self._trouble, OutcomeUnknown):
            return BrokerUnavailable(
                f"{self._broker.url} is slow or silent: this stood in line for too long and was not sent"
            )
        return self._trouble

    async def _flush(self) -> None:
        try:
            while batch := self._next_batch():
                await self._send(batch)
        except BaseException:  # the loop is ending: no caller may wait for ever
            self._expire(math.inf)
            raise
        finally:
            self._sent, self._trouble, self._pause = (), None, RETRY_BASE

    def _next_batch(self) -> list[_Entry]:
        """The first ones in line, as many as may share a call."""
        batch: list[_Entry] = []
        pending, jobs, size = self._pending, 0, 0
        while pending:
            entry = pending[0]
            if entry.answers.done():  # its caller was cancelled before anything was sent
                pending.popleft()
                continue
            jobs += len(entry.jobs)
            if batch or len(pending) > 1:  # else there is nothing to share a call with
                size += size_of(entry.jobs)
            if batch and (entry.alone or jobs > MAX_CHUNK or size > CHUNK_BYTES):
                break
            batch.append(pending.popleft())
            if entry.alone:
                break
        return batch

    async def _send(self, batch: list[_Entry]) -> None:
        self._sent = batch
        try:
            answers = await self._store(batch)
        except OutcomeUnknown as exc:
            _fail(batch, exc)
        except BrokerUnavailable:
            self._put_back(batch)
            await self._rest()
            return
        except JobqError as exc:
            self._refused(batch, exc)
        except Exception as exc:  # noqa: BLE001 - a broker's bug: these callers are told, and others go on
            _fail(batch, exc)
        else:
            _answer(batch, answers)
        self._sent, self._trouble, self._pause = (), None, RETRY_BASE

    async def _store(self, batch: list[_Entry]) -> Sequence[Answer]:
        """The broker's answers. After a lost reply it is asked again, until the last deadline in the batch.

        Raises `BrokerUnavailable` if certainly nothing was stored, and `OutcomeUnknown`.
        """
        jobs = batch[0].jobs if len(batch) == 1 else [job for entry in batch for job in entry.jobs]
        self._number += 1
        stamp = Stamp(self._client, self._number, all(entry.fresh for entry in batch))
        unknown: OutcomeUnknown | None = None
        while unknown is None or batch[-1].deadline > self._clock.monotonic() + _ROUNDING:
            try:
                return await self._broker.enqueue(jobs, stamp)
            except OutcomeUnknown as exc:
                unknown = self._trouble = exc
            except BrokerUnavailable as exc:
                if unknown is None:
                    self._trouble = exc
                    raise
            except JobqError as exc:
                if unknown is not None:  # this one was refused; of the one before, nobody knows
                    raise unknown from exc
                raise
            await self._rest()
        raise unknown

    async def _rest(self) -> None:
        """Back off, but so that each call is tried several times in its timeout."""
        pause = random.uniform(0, min(self._pause, self._timeout / _TRIES))
        self._pause = min(RETRY_CAP, self._pause * 2)
        await self._clock.sleep(pause)

    def _refused(self, batch: list[_Entry], exc: JobqError) -> None:
        """Try each alone: whoever is at fault must not take strangers along."""
        if len(batch) == 1:
            _fail(batch, exc)
            return
        for entry in batch:
            entry.alone = True
        self._put_back(batch)

    def _put_back(self, batch: list[_Entry]) -> None:
        self._sent = ()
        self._pending.extendleft(reversed(batch))


def _answer(batch: list[_Entry], answers: Sequence[Answer]) -> None:
    start = 0
    for entry in batch:
        end = start + len(entry.jobs)
        if not entry.answers.done():
            entry.answers.set_result(answers[start:end])
        start = end


def _set(event: asyncio.Event, _: object) -> None:
    event.set()


def _fail(batch: list[_Entry], exc: BaseException) -> None:
    for entry in batch:
        entry.fail(exc)
