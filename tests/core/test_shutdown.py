"""The end of a worker: nothing lost, nothing doubled, no attempt spent, and in time."""

# ruff: noqa: PT012 - what starts in the outer block is to outlive the inner one

import asyncio
import contextlib
import random
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

import msgspec
import pytest

import jobq
from jobq import App, Client, Job, Retry, testing
from jobq.model import Released, Stamp
from jobq.testing import JobState
from jobq.worker import Worker
from jobq_memory import MemoryBroker
from tests.core.bench import Faults, Faulty, state_of, until

T = TypeVar("T")


@pytest.fixture
async def broker() -> AsyncIterator[Faulty]:
    async with MemoryBroker() as memory:
        yield Faulty(memory)


@pytest.fixture
async def client(broker: Faulty) -> AsyncIterator[Client]:
    async with Client(broker) as client:
        yield client


def memory_of(broker: Faulty) -> MemoryBroker:
    assert isinstance(broker._broker, MemoryBroker)
    return broker._broker


async def test_running_jobs_finish_within_the_grace(broker: Faulty, client: Client) -> None:
    app, ran, started = App(), list[str](), asyncio.Event()

    @app.task
    async def work() -> None:
        started.set()
        await asyncio.sleep(0.1)
        ran.append("done")

    async with Worker(app, broker, grace=10):
        await client.perform_async(work)
        await started.wait()
    assert ran == ["done"]
    assert state_of(memory_of(broker)).jobs == {}


async def test_what_was_claimed_and_not_started_goes_back_at_once(broker: Faulty, client: Client) -> None:
    app, go, started = App(), asyncio.Event(), list[int]()

    @app.task
    async def work(n: int) -> None:
        started.append(n)
        await go.wait()

    @app.task
    async def quick() -> None: ...

    async with Worker(app, broker, concurrency=2, grace=10) as worker:
        await client.perform_many([quick.call() for _ in range(3000)])  # so that it claims ahead
        await client.perform_many([work.call(n) for n in range(50)])
        await until(lambda: len(started) == 2)
        worker.stop()
        asyncio.get_running_loop().call_later(0.1, go.set)
    assert len(started) == 2
    state = state_of(memory_of(broker))
    assert len(state.jobs) == 48
    assert all(entry.epoch is None and entry.trail.attempt == 0 for entry in state.jobs.values())
    assert state.leases == {}


async def test_after_the_grace_bodies_are_cancelled_and_released_with_no_attempt_spent(
    broker: Faulty, client: Client
) -> None:
    app, log, started = App(), list[str](), asyncio.Event()

    @app.task(retry=Retry(max_retries=0), on_dead=lambda _job, _exc: log.append("handler"))
    async def work() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.01)
            log.append("cleaned up")

    begun = 0.0
    async with Worker(app, broker, grace=0.1):
        handle = await client.perform_async(work)
        await started.wait()
        begun = time.monotonic()
    assert time.monotonic() - begun < 1
    assert log == ["cleaned up"]
    entry = state_of(memory_of(broker)).jobs[handle.id]
    assert (entry.epoch, entry.trail.attempt, entry.due, entry.crashes) == (None, 0, None, ())
    assert state_of(memory_of(broker)).dead == {}


async def test_a_body_that_answers_cancellation_with_an_error_is_released_too(broker: Faulty, client: Client) -> None:
    app, started = App(), asyncio.Event()

    @app.task(retry=Retry(max_retries=0))
    async def work() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ConnectionError("my connection broke") from None

    async with Worker(app, broker, grace=0):
        handle = await client.perform_async(work)
        await started.wait()
    assert state_of(memory_of(broker)).jobs[handle.id].trail.attempt == 0


async def test_a_body_that_ends_well_when_cancelled_is_done(broker: Faulty, client: Client) -> None:
    app, started = App(), asyncio.Event()

    @app.task
    async def work() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return

    async with Worker(app, broker, grace=0):
        await client.perform_async(work)
        await started.wait()
    assert state_of(memory_of(broker)).jobs == {}


async def unreadable(broker: Faulty, task: str) -> None:
    await broker.enqueue([Job(id="raw", task=task, body=msgspec.Raw(b"bad"))], Stamp("test", 1))


@pytest.mark.parametrize("thread", [False, True], ids=["async", "thread"])
@pytest.mark.parametrize("end", ["on_dead", "on_failure", "timeout", "unreadable"])
async def test_a_handler_that_the_worker_s_end_cuts_is_called_again(
    broker: Faulty, client: Client, end: str, *, thread: bool
) -> None:
    app, calls, ends, ended = App(), list[str](), list[str](), threading.Event()

    async def in_loop(job: Job, _: BaseException) -> None:
        calls.append(job.id)
        if len(calls) == 1:
            await asyncio.Event().wait()
        ends.append(job.id)

    def in_thread(job: Job, _: BaseException) -> None:
        calls.append(job.id)
        if len(calls) == 1:
            ended.wait()
        else:
            ends.append(job.id)

    handler = in_thread if thread else in_loop
    on_failure, on_dead = (handler, None) if end == "on_failure" else (None, handler)
    retry = Retry(max_retries=int(end == "on_failure"), backoff=lambda _: 3600.0)

    @app.task(name="work", retry=retry, on_failure=on_failure, on_dead=on_dead, timeout=0.01)
    async def work() -> None:
        if end == "timeout":
            await asyncio.Event().wait()
        raise ValueError

    state = state_of(memory_of(broker))
    try:
        if end == "unreadable":
            await unreadable(broker, "work")
        else:
            await client.perform_async(work)
        async with Worker(app, broker, grace=0.1):
            await until(lambda: calls)
        (entry,) = state.jobs.values()
        assert (entry.epoch, entry.trail.attempt, entry.due, state.dead) == (None, 0, None, {})
        async with Worker(app, broker, grace=5):
            await until(lambda: ends)
    finally:
        ended.set()
    assert len(calls) == 2
    if end == "on_failure":
        assert entry.trail.attempt == 1
    else:
        assert list(state.dead) == calls[:1]


async def test_a_handler_that_ends_well_when_it_is_cut_is_not_called_again(broker: Faulty, client: Client) -> None:
    app, calls = App(), list[str]()

    async def stubborn(job: Job, _: BaseException) -> None:
        calls.append(job.id)
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()

    @app.task(retry=Retry(max_retries=0), on_dead=stubborn)
    async def work() -> None:
        raise ValueError

    async with Worker(app, broker, grace=0.1):
        await client.perform_async(work)
        await until(lambda: calls)
    assert list(state_of(memory_of(broker)).dead) == calls


async def test_stopping_a_second_time_hurries(broker: Faulty, client: Client) -> None:
    app, started = App(), asyncio.Event()

    @app.task
    async def work() -> None:
        started.set()
        await asyncio.Event().wait()

    worker = Worker(app, broker, grace=60)
    run = asyncio.create_task(worker.run())
    await client.perform_async(work)
    await started.wait()
    worker.stop()
    await asyncio.sleep(0.05)
    assert not run.done()
    begun = time.monotonic()
    worker.stop(grace=0)
    await asyncio.wait_for(run, 5)
    assert time.monotonic() - begun < 1


async def test_a_later_stop_cannot_lengthen_the_grace(broker: Faulty, client: Client) -> None:
    app, started = App(), asyncio.Event()

    @app.task
    async def work() -> None:
        started.set()
        await asyncio.Event().wait()

    async with Worker(app, broker, grace=60) as worker:
        await client.perform_async(work)
        await started.wait()
        worker.stop(grace=0.1)
        worker.stop(grace=60)
        begun = time.monotonic()
    assert time.monotonic() - begun < 1.5


async def test_cancelling_run_is_a_graceful_stop(broker: Faulty, client: Client) -> None:
    app, ran, started = App(), list[str](), asyncio.Event()

    @app.task
    async def work() -> None:
        started.set()
        await asyncio.sleep(0.1)
        ran.append("done")

    run = asyncio.create_task(Worker(app, broker, grace=10).run())
    await client.perform_async(work)
    await started.wait()
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert ran == ["done"]
    assert state_of(memory_of(broker)).jobs == {}


async def test_cancelling_run_twice_hurries_and_leaves_nothing_half_done(broker: Faulty, client: Client) -> None:
    app, started = App(), asyncio.Event()

    @app.task
    async def work() -> None:
        started.set()
        await asyncio.Event().wait()

    run = asyncio.create_task(Worker(app, broker, grace=60).run())
    handle = await client.perform_async(work)
    await started.wait()
    run.cancel()
    await asyncio.sleep(0.05)
    assert not run.done()
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(run, 5)
    state = state_of(memory_of(broker))
    assert (state.jobs[handle.id].epoch, state.leases) == (None, {})


@pytest.mark.parametrize("kind", ["swallows", "thread"])
async def test_what_will_not_stop_is_released_with_a_delay_and_holds_nobody_up(
    broker: Faulty, client: Client, kind: str
) -> None:
    app, go, started = App(), threading.Event(), threading.Event()

    @app.task
    async def swallows() -> None:
        started.set()
        while not go.is_set():
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                continue

    @app.task
    def thread() -> None:
        started.set()
        go.wait()

    worker = Worker(app, broker, grace=0.1)
    async with worker:
        handle = await client.perform_async(swallows if kind == "swallows" else thread)
        await until(started.is_set)
        begun = time.monotonic()
    assert time.monotonic() - begun < 0.1 + 2
    assert [held.delivery.job.id for held in worker.wedged] == [handle.id]
    entry = state_of(memory_of(broker)).jobs[handle.id]
    assert (entry.epoch, entry.trail.attempt) == (None, 0)
    assert entry.due is not None
    assert entry.due - time.time() == pytest.approx(2, abs=1.5)
    go.set()
    await until(lambda: all(held.body is not None and held.body.done() for held in worker.wedged))
    assert [type(outcome) for outcome in broker.outcomes()] == [Released]  # what came after changes nothing


@pytest.mark.parametrize("slow", [False, True], ids=["down", "hangs"])
async def test_with_the_broker_away_stopping_takes_no_longer(broker: Faulty, client: Client, *, slow: bool) -> None:
    app, started = App(), asyncio.Event()

    @app.task
    async def work() -> None:
        started.set()
        await asyncio.Event().wait()

    begun = 0.0
    async with Worker(app, broker, grace=0.2):
        await client.perform_async(work)
        await started.wait()
        if slow:
            broker.faults.gates = broker.twin_faults.gates = {
                v: asyncio.Event() for v in ("turn", "heartbeat", "sweep")
            }
        else:
            broker.faults.down = broker.twin_faults.down = True
        begun = time.monotonic()
    assert time.monotonic() - begun < 0.2 + 2


class Watched(Faults):
    """Verbs that take their time, and what became of them."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds
        self.begun = Counter[str]()
        self.ended = Counter[str]()
        self.cut = list[str]()

    async def around(self, verb: str, call: Callable[[], Awaitable[T]]) -> T:
        self.begun[verb] += 1
        try:
            if verb in self.slow:
                await asyncio.sleep(self._seconds)
            return await call()
        except asyncio.CancelledError:
            self.cut.append(verb)
            raise
        finally:
            self.ended[verb] += 1

    async def under_way(self, verb: str) -> None:
        """From now on `verb` takes its time; return when one has begun."""
        before, self.slow[verb] = self.ended[verb], 1.0
        await until(lambda: self.ended[verb] > before or self.begun[verb] > self.ended[verb])
        await until(lambda: self.begun[verb] > self.ended[verb])


async def stopped_during(verb: str, seconds: float) -> tuple[list[str], float]:
    """Which verbs were cut when a worker stopped while `verb` took `seconds`, and how long the worker's end took."""
    async with MemoryBroker() as memory:
        broker = Faulty(memory, Watched(seconds))
        broker.twin_faults = twin = Watched(seconds)
        faults = broker.faults
        assert isinstance(faults, Watched)
        async with Worker(App(), broker, grace=0.1, sweep=0.02, renew=0.02) as worker:
            await until(lambda: faults.ended["turn"] and faults.ended["sweep"])
            under_way = asyncio.create_task((twin if verb == "heartbeat" else faults).under_way(verb))
            while not under_way.done():
                worker._turner.look()
                await asyncio.sleep(0.001)
            begun = time.monotonic()
        seconds = time.monotonic() - begun
        await until(lambda: faults.begun == faults.ended and twin.begun == twin.ended)
        return [cut for cut in faults.cut + twin.cut if cut != "wait"], seconds


@pytest.mark.parametrize("verb", ["turn", "sweep", "heartbeat"])
async def test_a_verb_that_has_begun_is_not_cut_by_the_end(verb: str) -> None:
    cut, _ = await stopped_during(verb, 0.2)
    assert cut == []


@pytest.mark.parametrize("verb", ["turn", "sweep", "heartbeat"])
async def test_a_verb_that_does_not_end_is_cut_at_last(verb: str) -> None:
    cut, seconds = await stopped_during(verb, 3600)
    assert cut == [verb]
    assert seconds < 0.1 + 2


async def test_a_worker_that_never_reached_its_broker_can_be_stopped(memory: MemoryBroker) -> None:
    app = App()
    broker = Faulty(memory)
    broker.faults.down = broker.twin_faults.down = True
    worker = Worker(app, broker, grace=0.1)
    run = asyncio.create_task(worker.run())
    await asyncio.sleep(0.1)
    assert not run.done()
    begun = time.monotonic()
    worker.stop()
    await asyncio.wait_for(run, 5)
    assert time.monotonic() - begun < 2.1


async def test_jobs_that_arrive_during_the_end_are_not_started(broker: Faulty, client: Client) -> None:
    app, log, started = App(), list[str](), asyncio.Event()

    @app.task
    async def work(name: str) -> None:
        log.append(name)
        started.set()
        await asyncio.sleep(0.2)

    async with Worker(app, broker, grace=10) as worker:
        await client.perform_async(work, "first")
        await started.wait()
        worker.stop()
        await client.perform_async(work, "late")
    assert log == ["first"]
    assert len(state_of(memory_of(broker)).jobs) == 1


async def test_what_a_turn_claimed_while_the_stop_came_goes_back(broker: Faulty, client: Client) -> None:
    """The claim is under way when stop() is called; its deliveries arrive afterwards."""
    app, log = App(), list[str]()

    @app.task
    async def work() -> None:
        log.append("ran")

    async with Worker(app, broker, grace=5) as worker:
        await until(lambda: broker.faults.calls["wait"] and worker._turner.leased.is_set())
        gate = broker.faults.gates["turn"] = asyncio.Event()
        calls = broker.faults.calls["turn"]
        handle = await client.perform_async(work)
        await until(lambda: broker.faults.calls["turn"] > calls)
        worker.stop()
        asyncio.get_running_loop().call_later(0.05, gate.set)
    state = state_of(memory_of(broker))
    assert state.leases == {}
    if log:
        assert handle.id not in state.jobs
    else:
        assert (state.jobs[handle.id].epoch, state.jobs[handle.id].trail.attempt) == (None, 0)


async def test_the_lifespan_ends_after_the_last_job_and_its_error_is_raised(broker: Faulty, client: Client) -> None:
    from collections.abc import AsyncGenerator  # noqa: PLC0415
    from contextlib import asynccontextmanager  # noqa: PLC0415

    app, log, started = App(), list[str](), asyncio.Event()

    @app.lifespan
    @asynccontextmanager
    async def life() -> AsyncGenerator[dict[str, object]]:
        yield {}
        log.append("closed")
        raise RuntimeError("could not close")

    @app.task
    async def work() -> None:
        started.set()
        await asyncio.sleep(0.05)
        log.append("done")

    with pytest.raises(RuntimeError, match=r"could not close"):
        async with Worker(app, broker, grace=5):
            await client.perform_async(work)
            await started.wait()
    assert log == ["done", "closed"]
    assert state_of(memory_of(broker)).leases == {}


@pytest.mark.parametrize("seed", range(25))
async def test_stopped_at_any_moment_every_job_ends_exactly_once(broker: Faulty, client: Client, seed: int) -> None:
    """Bodies are shorter than the grace: nothing may be cut, lost or doubled."""
    rng = random.Random(seed)
    app, ledger = App(), Counter[int]()
    attempts = Counter[int]()

    @app.task(retry=Retry(max_retries=1, backoff=lambda _: 0.0))
    async def work(n: int) -> None:
        attempts[jobq.current().attempt] += 1
        if n % 7 == 0 and jobq.current().attempt == 1:
            raise ValueError("once")
        await asyncio.sleep(rng.random() * 0.002)
        ledger[n] += 1

    await client.perform_many([work.call(n) for n in range(400)])
    workers = 0
    while state_of(memory_of(broker)).jobs:
        workers += 1
        assert workers < 200
        worker = Worker(app, broker, concurrency=rng.choice([1, 5, 50]), grace=5)
        async with worker:
            pause = rng.random() * 0.02
            until_empty = asyncio.get_running_loop().time() + pause
            while asyncio.get_running_loop().time() < until_empty:
                await asyncio.sleep(0)
        assert worker.wedged == ()
    assert ledger == Counter(range(400))
    assert attempts == {1: 400, 2: 58}
    assert state_of(memory_of(broker)).dead == {}


async def test_two_workers_in_one_process_share_the_work_and_stop_apart(broker: Faulty, client: Client) -> None:
    app, ran = App(), Counter[int]()

    @app.task
    async def work(n: int) -> None:
        await asyncio.sleep(0.001)
        ran[n] += 1

    async with Worker(app, broker, concurrency=5) as one, Worker(app, broker, concurrency=5) as two:
        assert one.id != two.id
        await client.perform_many([work.call(n) for n in range(300)])
        await until(lambda: len(ran) > 100)
        await one.__aexit__(None, None, None)
        await until(lambda: len(ran) == 300)
    assert ran == Counter(range(300))


async def test_a_worker_works_once() -> None:
    worker = Worker(App(), "memory://")
    async with worker:
        pass
    with pytest.raises(jobq.errors.ConfigError, match=r"works once"):
        await worker.run()


async def test_stop_before_the_start_ends_the_run_at_once() -> None:
    worker = Worker(App(), "memory://")
    worker.stop()
    await asyncio.wait_for(worker.run(), 5)


async def test_stop_from_another_thread_is_possible_through_the_loop(broker: Faulty) -> None:
    worker = Worker(App(), broker)
    run = asyncio.create_task(worker.run())
    await asyncio.sleep(0)
    loop = asyncio.get_running_loop()
    await asyncio.to_thread(lambda: loop.call_soon_threadsafe(worker.stop))
    await asyncio.wait_for(run, 5)


async def test_an_ordered_end_in_the_kit_leaves_scheduled_jobs_alone() -> None:
    app = App()

    @app.task
    async def work() -> None: ...

    async with testing.running(app) as jobs:
        handle = await jobs.client.perform_in(5, work)
        await jobs.worker.__aexit__(None, None, None)
        assert jobs.state(handle) is JobState.SCHEDULED
