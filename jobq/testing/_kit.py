"""An app under test: a client and a worker on the memory broker, and a clock that only the test moves."""

import asyncio
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from jobq.app import App
from jobq.broker import Broker, Capability, DeadLetters
from jobq.client import Client, JobHandle
from jobq.codec import encode_job
from jobq.model import (
    Again,
    Answer,
    Beat,
    Cancelled,
    Claim,
    Dead,
    DeadJob,
    Done,
    Fate,
    Job,
    Orders,
    Outcome,
    Released,
    Stamp,
    Swept,
    Token,
    Turn,
    WorkerInfo,
)
from jobq.plugins import open_broker
from jobq.registry import Task
from jobq.testing._clock import FrozenHere, ManualClock
from jobq.testing._dead import NotedDeadLetters
from jobq.worker import Worker

__all__ = ["Enqueued", "JobState", "Jobs", "running"]

PATIENCE: Final = 0.1
TIMEOUT: Final = 5.0
_AGES: Final = 1e9
_SLICE: Final = 1.0
_EXIT_STEP: Final = 0.02


class JobState(StrEnum):
    """Where a job is."""

    READY = "ready"
    SCHEDULED = "scheduled"
    RUNNING = "running"
    DONE = "done"
    DEAD = "dead"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Enqueued:
    """A job that was stored, with its arguments as its task will get them."""

    job: Job
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    delay: float
    """Seconds from when it was enqueued until it is due."""


class Jobs:
    """What `running(app)` gives: the client to enqueue with, and the power over time.

    Time stands still by itself, so a job with a delay, and a retry, run only after `advance` or `drain`. Bodies run
    for real, concurrently, on the test's event loop (plain functions in threads).
    """

    def __init__(self, app: App, client: Client, worker: Worker, ledger: "_Ledger", clock: ManualClock) -> None:
        self.client = client
        """Enqueues jobs. Give it to the code under test."""
        self.worker = worker
        self.clock = clock
        """What client, broker and worker take for the time."""
        self._app = app
        self._ledger = ledger
        self._given_up: frozenset[str] = frozenset()

    async def run_until_idle(self, timeout: float = TIMEOUT) -> None:  # noqa: ASYNC109 - real seconds, for bodies
        """Return when nothing that is due is left to run, and nothing runs.

        Raises `TimeoutError`, naming what runs, if that takes longer than `timeout` seconds of real time.
        """
        if not await self._idle_within(timeout):
            what = ", ".join(self._ledger.names()) or "nothing"
            raise TimeoutError(f"not idle after {timeout:g} s; running or due: {what}")

    async def advance(self, seconds: float | timedelta) -> None:
        """Move the time on, and let everything happen that happens in it: delays, retries, timeouts, in their order.

        Before time moves, running bodies get a moment to end; one that waits for longer than that (0.1 s of real
        time) sees the time go by, up to its timeout.
        """
        delta = seconds.total_seconds() if isinstance(seconds, timedelta) else seconds
        end = self.clock.time() + delta
        await self._settle()
        while (left := end - self.clock.time()) > 0:
            due = self._ledger.next_due()
            pause = left if due is None else min(left, due - self.clock.time())
            if self._ledger.held:
                await self.clock.run(min(pause, _SLICE))
            else:
                self.clock.advance(pause)
            self._ledger.hint.set()
            await self._settle()

    async def drain(self, limit: int = 1000) -> None:
        """Advance from one due time to the next until no job is left: each has run, as often as it will, or is dead.

        Raises `TimeoutError` when that takes more than `limit` steps, as with a job that snoozes for ever.
        """
        for _ in range(limit):
            await self.run_until_idle()
            due = self._ledger.next_due()
            if due is None:
                return
            await self.advance(due - self.clock.time())
        raise TimeoutError(f"not done after {limit} steps; left: {', '.join(self._ledger.names())}")

    def enqueued(self, task: Task[..., Any] | None = None) -> list[Enqueued]:
        """What was enqueued so far (of `task`), in order, also from inside jobs; duplicates are left out."""
        jobs = [(job, delay) for job, delay in self._ledger.stored if task is None or job.task == task.name]
        return [Enqueued(job, *self._arguments(job), delay) for job, delay in jobs]

    @property
    def dead(self) -> list[DeadJob]:
        """The jobs that died, in order."""
        return list(self._ledger.dead)

    def state(self, job: JobHandle[Any] | str) -> JobState:
        """Where `job` (a handle or an id) is. Raises `KeyError` for one that was never enqueued here."""
        return self._ledger.state(job if isinstance(job, str) else job.id)

    def _arguments(self, job: Job) -> tuple[Sequence[Any], Mapping[str, Any]]:
        return self._app.registry.tasks[job.task].signature.decode(job.body)

    async def _settle(self) -> None:
        """Wait a moment for running bodies, but only once for the same ones."""
        if self._ledger.held and self._ledger.at_hand() == self._given_up:
            return
        idle = await self._idle_within(PATIENCE)
        self._given_up = frozenset() if idle else self._ledger.at_hand()

    async def _idle_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                while self._ledger.busy:
                    self._ledger.moved.clear()
                    await self._ledger.moved.wait()
        except TimeoutError:
            return not self._ledger.busy
        return True


@asynccontextmanager
async def running(app: App, **options: Any) -> AsyncGenerator[Jobs]:
    """A client and a worker of `app` for one test, on a memory broker and a clock of their own.

    ::

        async def test_a_welcome_is_sent_again_when_the_mail_server_is_down() -> None:
            async with jobq.testing.running(app) as jobs:
                await sign_up(jobs.client, "ann@example.org")      # the code under test enqueues
                await jobs.run_until_idle()                        # … and now it runs, and fails
                assert [e.args for e in jobs.enqueued(send_welcome)] == [("ann@example.org",)]
                await jobs.advance(3600)                           # an hour later
                assert outbox == ["ann@example.org"] and not jobs.dead

    Nothing is mocked: jobs are encoded, stored, claimed, decoded and run through middleware and lifespan as in
    production. The worker looks at every queue; `options` are those of `WorkerOptions`, e.g. `concurrency=1`.
    """
    clock = FrozenHere()
    ledger = _Ledger(open_broker("memory://", clock=clock), clock)
    # the test, and not a lease, is to say when time is up
    defaults: dict[str, Any] = {"lease": _AGES, "renew": _AGES / 4, "max_lag": _AGES, "grace": 0.0}
    async with ledger, Client(ledger, clock=clock) as client:
        worker = Worker(app, ledger, clock=clock, **{**defaults, **options})
        ledger.every_queue = "queues" not in options
        await worker.__aenter__()
        try:
            yield Jobs(app, client, worker, ledger, clock)
        finally:
            await _end(worker, clock)


async def _end(worker: Worker, clock: ManualClock) -> None:
    """Leave the worker, which waits on the clock for bodies that will not stop."""
    end = asyncio.create_task(worker.__aexit__(None, None, None))
    while not (await asyncio.wait([end], timeout=_EXIT_STEP))[0]:
        clock.advance(_EXIT_STEP)
    end.result()


class _Ledger:
    """A broker that lets everything through, and writes down where each job is."""

    def __init__(self, broker: Broker, clock: ManualClock) -> None:
        self._broker = broker
        self._clock = clock
        self.every_queue = True
        self.moved = asyncio.Event()
        """Set whenever a job moves."""
        self.hint = asyncio.Event()
        """Ends a `wait`: there may be work."""
        self.stored: list[tuple[Job, float]] = []
        self.dead: list[DeadJob] = []
        self.held: set[str] = set()
        self._jobs: dict[str, Job] = {}
        self._due: dict[str, float] = {}
        self._ends: dict[str, JobState] = {}
        self._queues: dict[str, None] = {}

    @property
    def url(self) -> str:
        return self._broker.url

    @property
    def capabilities(self) -> Capability:
        return self._broker.capabilities

    @property
    def ahead(self) -> int:
        return self._broker.ahead

    @property
    def dead_letters(self) -> DeadLetters | None:
        inner = self._broker.dead_letters
        return None if inner is None else NotedDeadLetters(inner, self._rise)

    @property
    def transactions(self) -> None:
        return None

    @property
    def schema(self) -> None:
        return None

    def twin(self) -> Broker | None:
        return self._broker.twin()

    async def __aenter__(self) -> Self:
        await self._broker.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None, /
    ) -> None:
        await self._broker.__aexit__(kind, exc, tb)

    async def enqueue(self, jobs: Sequence[Job], stamp: Stamp) -> Sequence[Answer]:
        answers = await self._broker.enqueue(jobs, stamp)
        now = self._clock.time()
        for job, answer in zip(jobs, answers, strict=True):
            if answer.fate is Fate.STORED:
                self._enter(job, now)
        self._stir()
        return answers

    async def turn(self, outcomes: Sequence[Outcome], claim: Claim) -> Turn:
        if self.every_queue and claim.queues:
            names = dict.fromkeys([*claim.queues, *self._queues])
            claim = msgspec.structs.replace(claim, queues=list(names))
        turn = await self._broker.turn(outcomes, claim)
        for outcome in outcomes:
            if Token(outcome.id, outcome.epoch) not in turn.refused:
                self._settle(outcome)
        for delivery in turn.deliveries:
            self.held.add(delivery.job.id)
            self._due.pop(delivery.job.id, None)
        if outcomes or turn.deliveries:
            self._stir()
        return turn

    async def wait(self, queues: Sequence[str], timeout: float) -> None:  # noqa: ARG002, ASYNC109 - the protocol's words
        await self._clock.wait(self.hint, timeout)
        self.hint.clear()

    async def heartbeat(self, worker: WorkerInfo, beats: Sequence[Beat], lease: float, resume: int = 0) -> Orders:
        return await self._broker.heartbeat(worker, beats, lease, resume)

    async def sweep(self, host: str, limit: int, dead: Sequence[str] = ()) -> Swept:
        return await self._broker.sweep(host, limit, dead)

    @property
    def busy(self) -> bool:
        return bool(self.held) or self.ready()

    def ready(self) -> bool:
        now = self._clock.time()
        return any(due <= now for due in self._due.values())

    def at_hand(self) -> frozenset[str]:
        """What runs or could."""
        now = self._clock.time()
        return frozenset(self.held) | {job_id for job_id, due in self._due.items() if due <= now}

    def next_due(self) -> float | None:
        """When the next job that is not due yet will be."""
        now = self._clock.time()
        return min((due for due in self._due.values() if due > now), default=None)

    def names(self) -> list[str]:
        return [f"job {job_id} of {self._jobs[job_id].task}" for job_id in sorted(self.held | self._due.keys())]

    def state(self, job_id: str) -> JobState:
        if job_id in self.held:
            return JobState.RUNNING
        if (due := self._due.get(job_id)) is not None:
            return JobState.READY if due <= self._clock.time() else JobState.SCHEDULED
        return self._ends[job_id]

    def _enter(self, job: Job, now: float) -> None:
        due = job.due if job.due is not None else now + (job.delay or 0.0)
        self.stored.append((job, max(0.0, due - now)))
        self._jobs[job.id] = job
        self._queues[job.queue] = None
        self._due[job.id] = max(now, due)

    def _settle(self, outcome: Outcome) -> None:
        self.held.discard(outcome.id)
        job = self._jobs[outcome.id]
        match outcome:
            case Again(delay=delay, queue=queue):
                self._due[outcome.id] = self._clock.time() + delay
                self._queues[queue or job.queue] = None
            case Released(delay=delay):
                self._due[outcome.id] = self._clock.time() + delay
            case Dead(trail=trail):
                self._ends[outcome.id] = JobState.DEAD
                self.dead.append(DeadJob(job, encode_job(job), trail, died=self._clock.time()))
            case Done():
                self._ends[outcome.id] = JobState.DONE
            case Cancelled():
                self._ends[outcome.id] = JobState.CANCELLED

    def _rise(self, jobs: Collection[DeadJob]) -> None:
        """These were dead, and are ready."""
        now = self._clock.time()
        for dead in jobs:
            self._due[dead.id] = now
            self._queues[dead.queue] = None
        self._stir()

    def _stir(self) -> None:
        self.hint.set()
        self.moved.set()
