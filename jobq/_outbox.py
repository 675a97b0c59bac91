"""Group commit for enqueues: whoever comes while one is under way shares the next.

One call of `Broker.enqueue` is in flight at a time, and each has a stamp, so that it can be repeated after a lost
reply without storing anything twice. No timer: an idle client sends a job at once, a busy one sends batches.
"""

import asyncio
import random
from collections import deque
from collections.abc import Sequence
from typing import Final

from jobq._ids import new_id
from jobq.broker import Broker
from jobq.clock import Clock
from jobq.errors import BrokerUnavailable, JobqError, OutcomeUnknown
from jobq.model import MAX_CHUNK, Answer, Job, Stamp

RETRY_BASE: Final = 0.05
RETRY_CAP: Final = 1.0


class _Entry:
    """Jobs that are stored together or not at all, and who waits for them."""

    __slots__ = ("answers", "deadline", "jobs")

    def __init__(self, jobs: Sequence[Job], answers: "asyncio.Future[Sequence[Answer]]", deadline: float) -> None:
        self.jobs = jobs
        self.answers = answers
        self.deadline = deadline


class Outbox:
    """Stores jobs through one broker. Used on one event loop."""

    def __init__(self, broker: Broker, clock: Clock, timeout: float) -> None:
        self._broker = broker
        self._clock = clock
        self._timeout = timeout
        self._pending: deque[_Entry] = deque()
        self._flusher: asyncio.Task[None] | None = None
        self._client = new_id()
        self._number = 0

    async def store(self, jobs: Sequence[Job]) -> Sequence[Answer]:
        """Return when the broker has all of `jobs` (at most `MAX_CHUNK`).

        Raises `BrokerUnavailable` (not stored) or `OutcomeUnknown` when it has not answered in time, `BrokerFull`,
        `BrokerRefused`. A caller that is cancelled no longer learns what became of its jobs.
        """
        loop = asyncio.get_running_loop()
        answers: asyncio.Future[Sequence[Answer]] = loop.create_future()
        self._pending.append(_Entry(jobs, answers, self._clock.monotonic() + self._timeout))
        if self._flusher is None:
            self._flusher = loop.create_task(self._flush(), name="jobq enqueue")
        return await answers

    async def close(self) -> None:
        """Wait until nothing is under way."""
        if self._flusher is not None:
            await asyncio.shield(self._flusher)

    async def _flush(self) -> None:
        try:
            while self._pending:
                await self._send(self._next_batch())
        finally:
            self._flusher = None

    def _next_batch(self) -> list[_Entry]:
        batch: list[_Entry] = []
        room = MAX_CHUNK
        while self._pending and (len(self._pending[0].jobs) <= room or not batch):
            entry = self._pending.popleft()
            if entry.answers.done():  # its caller was cancelled before anything was sent
                continue
            batch.append(entry)
            room -= len(entry.jobs)
        return batch

    async def _send(self, batch: list[_Entry]) -> None:
        if not batch:
            return
        jobs = batch[0].jobs if len(batch) == 1 else [job for entry in batch for job in entry.jobs]
        try:
            answers = await self._store(jobs, batch[0].deadline)
        except BrokerUnavailable as exc:
            _fail(batch, exc)
        except JobqError as exc:
            # the broker said no to the batch; whoever is at fault must not take strangers along
            if len(batch) == 1:
                _fail(batch, exc)
            else:
                for entry in batch:
                    await self._send([entry])
        except Exception as exc:  # noqa: BLE001 - a broker's bug: these callers are told, and others go on
            _fail(batch, exc)
        except BaseException as exc:  # the loop is ending: no caller may wait for ever
            _fail([*batch, *self._pending], exc)
            self._pending.clear()
            raise
        else:
            _answer(batch, answers)

    async def _store(self, jobs: Sequence[Job], deadline: float) -> Sequence[Answer]:
        self._number += 1
        stamp = Stamp(self._client, self._number)
        unknown: OutcomeUnknown | None = None
        delay = RETRY_BASE
        while True:
            try:
                return await self._broker.enqueue(jobs, stamp)
            except BrokerUnavailable as exc:
                if isinstance(exc, OutcomeUnknown):
                    unknown = exc
                pause = random.uniform(0, delay)
                if self._clock.monotonic() + pause >= deadline:
                    raise unknown or exc from None
                delay = min(RETRY_CAP, delay * 2)
                await self._clock.sleep(pause)


def _answer(batch: list[_Entry], answers: Sequence[Answer]) -> None:
    start = 0
    for entry in batch:
        end = start + len(entry.jobs)
        if not entry.answers.done():
            entry.answers.set_result(answers[start:end])
        start = end


def _fail(batch: list[_Entry], exc: BaseException) -> None:
    for entry in batch:
        if not entry.answers.done():
            entry.answers.set_exception(exc)
