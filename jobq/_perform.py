"""Turning calls of tasks into stored jobs, wherever they are stored."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any, Final, Generic, ParamSpec, TypeVar

from msgspec import Raw, Struct

from jobq._checks import check_job, check_whole, seconds
from jobq._group_commit import CHUNK_BYTES
from jobq._ids import new_id
from jobq.clock import Clock
from jobq.codec import MAX_ENVELOPE
from jobq.errors import BrokerError, ConfigError, JobqError, NotAllStored, NotATask, OutcomeUnknown
from jobq.middleware import chain
from jobq.model import MAX_CHUNK, Answer, Fate, Job
from jobq.registry import Call, Registry, Task

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

_MOST_PAYLOAD: Final = MAX_ENVELOPE - (64 << 10)
"""Leaves room in the envelope for what is not arguments."""
_UNTIL_SENT: Final = 3
"""Rounds of the event loop after which a call that was begun is on its way."""


class JobHandle(Struct, Generic[R_co], frozen=True, eq=False, gc=False):
    """A job that was enqueued."""

    id: str
    """The live job's id; of the earlier one when this is a duplicate."""
    task: str
    fate: Fate | None
    """What became of it; None when an enqueue middleware kept it from being stored."""

    def __repr__(self) -> str:
        return f"<job {self.id} of {self.task}{'' if self.fate is None else f', {self.fate.value}'}>"


class Performer(ABC):
    """What enqueues; `max_payload` (bytes) is the limit for the encoded arguments of one job."""

    def __init__(self, clock: Clock, max_payload: int) -> None:
        check_whole("max_payload", max_payload, 1)
        if max_payload > _MOST_PAYLOAD:
            raise ConfigError(f"max_payload is {max_payload}; workers read no more than {_MOST_PAYLOAD:,} bytes")
        self._clock = clock
        self._max_payload = max_payload

    @abstractmethod
    async def _store(self, jobs: Sequence[Job], *, fresh: bool = False) -> Sequence[Answer]:
        """Return when all of `jobs` (at most `MAX_CHUNK`) are stored; their ids may be `fresh` (see `Stamp`)."""

    @abstractmethod
    def _check_open(self) -> None:
        """Raise `ConfigError` if nothing can be stored yet, or any more."""

    async def perform_async(self, task: Task[P, R], /, *args: P.args, **kwargs: P.kwargs) -> JobHandle[R]:
        """Enqueue a call of `task` to be run as soon as a worker is free.

        Raises `TypeError` for arguments that do not fit or cannot be stored, `BrokerUnavailable` when the broker
        cannot be reached in time (`OutcomeUnknown` if it may have stored the job nevertheless), `BrokerFull`.
        """
        return await self._perform(task, self._body(task, args, kwargs))

    async def perform_in(
        self, delay: float | timedelta, task: Task[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> JobHandle[R]:
        """Enqueue a call to be run after `delay` (seconds or timedelta) on the broker's clock; 0 or less means now."""
        wait = seconds(delay)
        return await self._perform(task, self._body(task, args, kwargs), delay=wait)

    async def perform_at(self, at: datetime, task: Task[P, R], /, *args: P.args, **kwargs: P.kwargs) -> JobHandle[R]:
        """Enqueue a call to be run at `at`, an aware datetime; in the past means now."""
        due = _timestamp(at)
        return await self._perform(task, self._body(task, args, kwargs), due=due)

    async def perform_many(self, calls: Iterable[Call[R]]) -> list[JobHandle[R]]:
        """Enqueue many calls (`task.call(…)`), in chunks of at most 1,000 that are each stored whole or not at all.

        With enqueue middleware each job goes through it, and is stored or not, by itself. Raises `NotAllStored`, which
        lists the ids that are stored, not stored, and unknown, and goes by what was stored and not by what a middleware
        says: a job that it kept back is not stored, one that was stored before it raised is. If each job failed and
        none was stored, a middleware's own error is raised as it is.
        """
        asked: Sequence[Call[Any]] = list(calls)
        for call in asked:
            if not isinstance(call, Call):
                raise NotATask(f"{call!r} is no call of a task; perform_many takes task.call(…), …")
        sizes = [len(memoryview(call.body)) for call in asked]
        if max(sizes, default=0) > self._max_payload:
            for call, size in zip(asked, sizes, strict=True):
                call.task.signature.check_size(size, self._max_payload)
        self._check_open()
        tasks = {call.task for call in asked}
        if any(task.registry.enqueue_middlewares for task in tasks):
            return await self._many_through(asked)
        return await self._many(asked, sizes, fresh=all(task.overrides.id is None for task in tasks))

    def _jobs(self, calls: Iterable[Call[Any]]) -> list[Job]:
        return [self._job(call.task, call.body) for call in calls]

    def _body(self, task: Task[P, R], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Raw:
        if not isinstance(task, Task):
            raise NotATask(f"{task!r} is no task, so no worker would know it; decorate the function with @app.task")
        return task.signature.encode(args, kwargs, self._max_payload)

    def _job(self, task: Task[..., Any], body: Raw, *, delay: float | None = None, due: float | None = None) -> Job:
        config, overrides = task.config, task.overrides
        return Job(
            id=overrides.id or new_id(),
            task=task.name,
            queue=overrides.queue or config.queue,
            priority=config.priority if overrides.priority is None else overrides.priority,
            created=self._clock.time(),
            delay=delay,
            due=due,
            headers=overrides.headers and dict(overrides.headers),  # a middleware may write into it
            body=body,
        )

    async def _perform(
        self, task: Task[..., R], body: Raw, *, delay: float | None = None, due: float | None = None
    ) -> JobHandle[R]:
        self._check_open()
        job = self._job(task, body, delay=delay, due=due)
        if task.registry.enqueue_middlewares:
            passage = _Passage(job, fresh=task.overrides.id is None)
            await self._through(passage, task.registry)
            return passage.handle
        (answer,) = await self._store((job,), fresh=task.overrides.id is None)
        return JobHandle(answer.id, job.task, answer.fate)

    async def _through(self, passage: "_Passage", registry: Registry) -> None:
        """Store a job inside the app's enqueue middlewares. What they raise is raised, whatever was stored."""

        async def store(passed: Job) -> object:
            check_job(passed)
            self._check_body(passed, passage.job, registry)
            fresh = passage.fresh and passed.id == passage.job.id and not passage.doubts
            passage.doubts += 1
            try:
                (passage.answer,) = await self._store((passed,), fresh=fresh)
            except OutcomeUnknown:
                raise
            except JobqError:
                passage.doubts -= 1
                raise
            return passage.answer

        await chain(registry.enqueue_middlewares, store)(passage.job)

    def _check_body(self, passed: Job, job: Job, registry: Registry) -> None:
        """Raise unless the task of `passed` takes its body, which may be another than the checked one of `job`."""
        task = registry.tasks.get(passed.task)
        if task is None:
            raise NotATask(f"an enqueue middleware made the task {passed.task!r}, which its app does not have")
        if (passed.task, passed.body) != (job.task, job.body):
            task.signature.check_body(passed.body, self._max_payload)

    async def _many(self, calls: Sequence[Call[Any]], sizes: Sequence[int], *, fresh: bool) -> list[JobHandle[Any]]:
        handles: list[JobHandle[Any]] = []
        jobs: list[Job] = []
        before: list[Job] = []
        answers: Sequence[Answer] = ()
        chunks = [calls[start:end] for start, end in pairwise(_bounds(sizes))]
        for chunk, following in pairwise((*chunks, ())):
            jobs = jobs or self._jobs(chunk)
            storing = asyncio.ensure_future(self._store(jobs, fresh=fresh))
            try:
                for _ in range(_UNTIL_SENT):
                    await asyncio.sleep(0)
                handles += _handles(before, answers)  # while the broker is at work, as what follows
                coming = self._jobs(following)
                answers = await storing
            except BrokerError as exc:
                first, last = len(handles), len(handles) + len(jobs)
                ids = [handle.id for handle in handles] + [job.id for job in jobs + self._jobs(calls[last:])]
                middle = last if isinstance(exc, OutcomeUnknown) else first
                raise NotAllStored(ids[:first], ids[middle:], ids[first:middle]) from exc
            finally:
                storing.cancel()  # no more than a formality, unless this call itself was cancelled
            before, jobs = jobs, coming
        return handles + _handles(before, answers)

    async def _many_through(self, calls: Sequence[Call[Any]]) -> list[JobHandle[Any]]:
        jobs = zip(calls, self._jobs(calls), strict=True)
        passages = [_Passage(job, fresh=call.task.overrides.id is None) for call, job in jobs]
        errors: list[BaseException] = []
        for start in range(0, len(calls), MAX_CHUNK):  # so that each has the whole timeout
            chunk = slice(start, start + MAX_CHUNK)
            registries = (call.task.registry for call in calls[chunk])
            runs = (self._through(*run) for run in zip(passages[chunk], registries, strict=True))
            results = await asyncio.gather(*runs, return_exceptions=True)
            errors += [result for result in results if result is not None]
            if any(isinstance(error, BrokerError) for error in errors):
                break
        if errors:
            raise _why(errors, passages)
        return [passage.handle for passage in passages]


class _Passage:
    """A job on its way through the enqueue middlewares, and what became of it, whatever they say."""

    __slots__ = ("answer", "doubts", "fresh", "job")

    def __init__(self, job: Job, *, fresh: bool) -> None:
        self.job = job
        self.fresh = fresh
        self.answer: Answer | None = None
        self.doubts = 0
        """How often it was to be stored without anybody hearing that it was not."""

    @property
    def handle(self) -> JobHandle[Any]:
        if self.answer is None:
            return JobHandle(self.job.id, self.job.task, None)
        return JobHandle(self.answer.id, self.job.task, self.answer.fate)


def _why(errors: list[BaseException], passages: list[_Passage]) -> BaseException:
    """The error of a `perform_many` with enqueue middleware."""
    stored = [one.job.id for one in passages if one.answer is not None]
    unknown = [one.job.id for one in passages if one.answer is None and one.doubts]
    not_stored = [one.job.id for one in passages if one.answer is None and not one.doubts]
    stranger = next((error for error in errors if not isinstance(error, JobqError)), None)
    if stranger is not None and len(errors) == len(not_stored) == len(passages):
        return stranger
    error = NotAllStored(stored, not_stored, unknown)
    error.__cause__ = errors[0]
    return error


def _handles(jobs: Sequence[Job], answers: Sequence[Answer]) -> list[JobHandle[Any]]:
    return [JobHandle(answer.id, job.task, answer.fate) for answer, job in zip(answers, jobs, strict=True)]


def _bounds(sizes: Sequence[int]) -> list[int]:
    """Where chunks of at most `MAX_CHUNK` calls and about `CHUNK_BYTES` bytes begin, and where the last one ends."""
    if sum(sizes) <= CHUNK_BYTES:
        return [*range(0, len(sizes), MAX_CHUNK), len(sizes)]
    bounds, size = [0], 0
    for index, weight in enumerate(sizes):
        size += weight
        if index - bounds[-1] >= MAX_CHUNK or (size > CHUNK_BYTES and index > bounds[-1]):
            bounds.append(index)
            size = weight
    return [*bounds, len(sizes)]


def _timestamp(at: datetime) -> float:
    if not isinstance(at, datetime):
        raise TypeError(f"the time is {at!r}; it is an aware datetime, and comes first")
    if at.tzinfo is None or at.utcoffset() is None:
        raise ValueError(f"{at!r} has no time zone, so it names no moment; e.g. datetime(2027, 1, 1, tzinfo=UTC)")
    return at.timestamp()
