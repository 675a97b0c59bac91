"""Jobs that cannot or must not run: unknown tasks, unreadable payloads, poison."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import msgspec
import pytest

import jobq
from jobq import App, Client, Job, Retry
from jobq.errors import ConfigError
from jobq.model import Delivery, Happening, Stamp
from jobq.worker import Worker
from jobq_memory import MemoryBroker
from tests.core.bench import Faulty, FrozenHere, crash, flying, state_of, until


def body(data: bytes) -> msgspec.Raw:
    return msgspec.Raw(data)


async def put(broker: MemoryBroker, **fields: Any) -> str:
    """Store a job as another program might."""
    values: dict[str, Any] = {"id": "raw", "task": "work", "created": 1.0} | fields
    job = Job(**values)
    await broker.enqueue([job], Stamp(f"test-{job.id}", 1))
    return job.id


# --- unknown tasks


async def test_an_unknown_task_is_put_aside_and_runs_when_a_worker_knows_it(caplog: pytest.LogCaptureFixture) -> None:
    old, new, ran = App(), App(), list[int]()

    @new.task(name="added")
    async def added(x: int) -> None:
        ran.append(x)

    clock = FrozenHere()
    async with MemoryBroker(clock=clock) as memory, Client(memory) as client:
        handle = await client.perform_async(added, 7)
        async with flying(old, memory, clock):
            await until(lambda: state_of(memory).jobs[handle.id].trail.parked is not None)
        entry = state_of(memory).jobs[handle.id]
        assert (entry.trail.attempt, entry.trail.history[0].what) == (0, Happening.PARKED)
        async with flying(new, memory, clock):
            await until(lambda: ran == [7])
    assert any("knows no task 'added'" in record.getMessage() for record in caplog.records)


async def test_an_unknown_task_is_dead_after_the_grace_with_its_arguments() -> None:
    app = App()
    clock = FrozenHere()
    async with MemoryBroker(clock=clock) as memory:
        broker = Faulty(memory)
        await put(memory, task="gone", body=body(b'{"args":[1]}'))
        started = clock.time()
        async with flying(app, broker, clock, park_grace=900):
            await until(lambda: state_of(memory).dead)
        took = clock.time() - started
        entry = state_of(memory).dead["raw"]
    assert 900 <= took < 900 + 300  # time flies past a busy machine
    assert bytes(entry.job.body) == b'{"args":[1]}'
    assert entry.trail.failure is not None
    assert entry.trail.failure.message == "unknown task 'gone': no worker knew it for 900 s"
    assert entry.trail.attempt == 0
    assert [event.what for event in entry.trail.history] == [Happening.PARKED, Happening.DEAD]
    assert broker.faults.calls["turn"] < 1000, "a parked job must not be asked for again and again"


async def test_parked_jobs_are_in_nobodys_way() -> None:
    app, ran = App(), list[int]()

    @app.task(name="known")
    async def known(n: int) -> None:
        ran.append(n)

    clock = FrozenHere()
    async with MemoryBroker(clock=clock) as memory, Client(memory) as client:
        for n in range(50):
            await put(memory, id=f"p{n}", task="gone")
        await client.perform_many([known.call(n) for n in range(50)])
        async with flying(app, memory, clock, concurrency=1):
            await until(lambda: len(ran) == 50)
    assert ran == list(range(50))


# --- unreadable


@pytest.mark.parametrize(
    "data",
    [b"", b"nonsense", b'{"args":["x"]}', b'{"args":[1,2]}', b'{"kwargs":{"y":1}}', b"[" * 100_000, b"\xff\xfe\x00"],
    ids=lambda data: repr(data[:12]),
)
async def test_arguments_that_cannot_be_read_are_dead_with_their_bytes_and_cost_nobody_else(data: bytes) -> None:
    app, ran = App(), list[int]()

    @app.task(name="work")
    async def work(x: int) -> None:
        ran.append(x)

    async with MemoryBroker() as memory, Client(memory) as client:
        await put(memory, body=body(data))
        await client.perform_async(work, 5)
        await Worker(app, memory, burst=True).run()
        entry = state_of(memory).dead["raw"]
    assert ran == [5]
    assert bytes(entry.job.body) == data
    assert entry.trail.failure is not None
    assert entry.trail.failure.kind == "DecodeError"
    assert "work()" in entry.trail.failure.message
    assert entry.trail.attempt == 0


@dataclass
class Order:
    """An argument that today's code reads, and tomorrow's does not."""

    kind: str
    refused: ClassVar[BaseException | None] = None

    def __post_init__(self) -> None:
        if Order.refused is not None:
            raise Order.refused


@pytest.fixture
def refuse(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """From now on, orders raise."""
    return lambda error: monkeypatch.setattr(Order, "refused", error)


@pytest.mark.parametrize(
    "error",
    [KeyError("b"), AttributeError("kind"), AssertionError("no"), ConfigError("mine")],
    ids=lambda error: type(error).__name__,
)
async def test_arguments_whose_own_checks_fail_are_dead_with_the_cause_and_cost_nobody_else(
    error: Exception, refuse: Callable[[BaseException], None]
) -> None:
    app, ran = App(), list[int]()

    @app.task
    async def ship(order: Order) -> None: ...

    @app.task
    async def other(n: int) -> None:
        ran.append(n)

    async with MemoryBroker() as memory, Client(memory) as client:
        for n in range(3):
            await client.perform_many([ship.call(Order("b")), other.call(n)])
        refuse(error)
        async with Worker(app, memory, concurrency=5) as worker:
            await until(lambda: not state_of(memory).jobs)
            assert worker.running == 0
        failures = [entry.trail.failure for entry in state_of(memory).dead.values()]
    assert ran == [0, 1, 2]
    assert len(failures) == 3
    for failure in failures:
        assert failure is not None
        assert failure.kind == "DecodeError"
        assert str(error.args[0]) in failure.message
        assert "__post_init__" in failure.traceback or isinstance(error, ConfigError)


@pytest.mark.parametrize("error", [SystemExit(3), asyncio.CancelledError()], ids=lambda e: type(e).__name__)
async def test_arguments_that_would_end_the_worker_are_a_failed_attempt_and_cost_nobody_else(
    error: BaseException, refuse: Callable[[BaseException], None], caplog: pytest.LogCaptureFixture
) -> None:
    app, ran = App(), list[int]()

    @app.task(retry=Retry(max_retries=1, backoff=lambda _: 0.01))
    async def ship(order: Order) -> None: ...

    @app.task
    async def other(n: int) -> None:
        ran.append(n)

    async with MemoryBroker() as memory, Client(memory) as client:
        handle = await client.perform_async(ship, Order("b"))
        await client.perform_async(other, 1)
        refuse(error)
        async with Worker(app, memory):
            await until(lambda: not state_of(memory).jobs)
        trail = state_of(memory).dead[handle.id].trail
    assert ran == [1]
    assert trail.failure is not None
    assert (trail.attempt, trail.failure.kind) == (2, "JobAborted")
    assert [r for r in caplog.records if r.exc_info and r.exc_info[1] is error and handle.id in r.getMessage()]


async def test_a_task_that_is_registered_while_a_worker_runs_is_run_by_it() -> None:
    app, ran = App(), list[int]()

    async with MemoryBroker() as memory, Client(memory) as client, Worker(app, memory, concurrency=2):

        @app.task
        async def late(n: int) -> None:
            ran.append(n)

        @app.task
        def threaded(n: int) -> None:
            ran.append(n)

        await client.perform_many([late.call(1), threaded.call(2), late.call(3)])
        await until(lambda: not state_of(memory).jobs)
        assert state_of(memory).dead == {}
    assert sorted(ran) == [1, 2, 3]


async def test_a_late_task_that_can_read_no_arguments_makes_dead_jobs_and_costs_nobody_else() -> None:
    app, ran = App(), list[int]()

    @app.task
    async def other(n: int) -> None:
        ran.append(n)

    async with MemoryBroker() as memory, Client(memory) as client, Worker(app, memory):

        @app.task(name="late")
        async def late(x: dict[str, int] | Order) -> None: ...

        await put(memory, task="late", body=body(b'{"args":[{}]}'))
        await client.perform_async(other, 1)
        await until(lambda: not state_of(memory).jobs)
        failure = state_of(memory).dead["raw"].trail.failure
    assert failure is not None
    assert "the annotation of 'x' cannot be decoded" in failure.message
    assert ran == [1]


async def test_a_malformed_envelope_is_dead_with_its_bytes() -> None:
    app = App()

    class Broken(Faulty):
        async def turn(self, outcomes: Any, claim: Any) -> Any:
            turn = await super().turn(outcomes, claim)
            deliveries = [
                Delivery(Job(id=d.job.id, task="", body=body(b"\x00garbage")), d.epoch, malformed="not an envelope")
                for d in turn.deliveries
            ]
            return msgspec.structs.replace(turn, deliveries=deliveries)

    async with MemoryBroker() as memory:
        await put(memory)
        await Worker(app, Broken(memory), burst=True).run()
        entry = state_of(memory).dead["raw"]
    assert entry.trail.failure is not None
    assert (entry.trail.failure.kind, entry.trail.failure.message) == ("DecodeError", "not an envelope")


async def test_the_dead_call_on_dead_when_their_task_is_known() -> None:
    app, called = App(), list[tuple[str, str]]()

    async def died(job: Job, exc: BaseException) -> None:
        called.append((job.id, type(exc).__name__))

    @app.task(name="work", on_dead=died, keep_dead=False)
    async def work(x: int) -> None: ...

    async with MemoryBroker() as memory:
        await put(memory, body=body(b"bad"))
        await Worker(app, memory, burst=True).run()
        assert (state_of(memory).dead, state_of(memory).jobs) == ({}, {})
    assert called == [("raw", "DecodeError")]


async def test_a_thousand_undecodable_jobs_with_a_handler_are_all_buried() -> None:
    app, called = App(), Counter[str]()

    def died(job: Job, exc: BaseException) -> None:
        called[job.id] += 1

    @app.task(name="work", on_dead=died)
    async def work(x: int) -> None: ...

    async with MemoryBroker() as memory:
        for n in range(300):
            await put(memory, id=f"j{n}", body=body(b"bad"))
        await Worker(app, memory, burst=True, concurrency=5).run()
        assert len(state_of(memory).dead) == 300
    assert set(called.values()) == {1}


@pytest.fixture
def _quick_to_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some hundred jobs are enough for a worker to know that it is fast, and to claim ahead."""
    monkeypatch.setattr("jobq.worker.slots._RATE_WINDOW", 0.01)


async def quick_then_bad(memory: MemoryBroker, client: Client, work: jobq.AsyncTask[[int], None], bad: int) -> None:
    """A backlog that makes a worker claim ahead, the unreadable ones, and more behind them."""
    await client.perform_many([work.call(n) for n in range(3000)])
    await memory.enqueue([Job(id=f"bad{n}", task=work.name, body=body(b"bad")) for n in range(bad)], Stamp("test", 1))
    await client.perform_many([work.call(n) for n in range(3000, 3050)])


@pytest.mark.usefixtures("_quick_to_measure")
async def test_handlers_of_the_buried_take_slots_like_bodies() -> None:
    app, together, most, go = App(), 0, 0, asyncio.Event()

    @asynccontextmanager
    async def busy() -> AsyncGenerator[None]:
        nonlocal together, most
        together += 1
        most = max(most, together)
        yield
        together -= 1

    async def died(job: Job, exc: BaseException) -> None:
        async with busy():
            await go.wait()

    @app.task(on_dead=died)
    async def work(n: int) -> None:
        async with busy():
            await asyncio.sleep(0)

    async with MemoryBroker() as memory, Client(memory) as client:
        await quick_then_bad(memory, client, work, bad=20)
        async with Worker(app, memory, concurrency=3) as worker:
            await until(lambda: together == 3 and worker.running > 3)
            go.set()
            await until(lambda: not state_of(memory).jobs)
        assert len(state_of(memory).dead) == 20
    assert most == 3


@pytest.mark.usefixtures("_quick_to_measure")
async def test_what_waits_behind_a_long_burial_starts_when_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobq.worker.slots._PROBE", 0.0)
    app, ran, buried, go = App(), Counter[int](), asyncio.Event(), asyncio.Event()

    async def died(job: Job, exc: BaseException) -> None:
        buried.set()
        await go.wait()

    @app.task(on_dead=died)
    async def work(n: int) -> None:
        ran[n] += 1

    async with MemoryBroker() as memory, Client(memory) as client:
        await quick_then_bad(memory, client, work, bad=1)
        async with Worker(app, memory, concurrency=1) as worker:
            await buried.wait()
            await until(lambda: worker.running > 1)
            go.set()
            await until(lambda: not state_of(memory).jobs)
    assert ran == Counter(range(3050))


async def test_one_that_waits_for_its_burial_goes_back_when_the_worker_stops() -> None:
    app, called, started = App(), list[str](), asyncio.Event()

    @app.task(on_dead=lambda job, _: called.append(job.id))
    async def work() -> None:
        started.set()
        await asyncio.Event().wait()

    async with MemoryBroker() as memory, Client(memory) as client, Worker(app, memory, concurrency=1) as worker:
        await client.perform_async(work)
        await started.wait()
        worker._executor.admit(Delivery(Job(id="raw", task=work.name, body=body(b"bad")), 1_000))
        assert [held.running for held in worker.held] == [True, False]
        worker.stop(grace=0)
    assert called == []


# --- poison


async def test_a_job_that_was_held_by_workers_that_died_is_dead_at_last(caplog: pytest.LogCaptureFixture) -> None:
    app, ran, called = App(), list[int](), list[str]()

    async def died(job: Job, exc: BaseException) -> None:
        called.append(f"{type(exc).__name__}: {exc}")

    @app.task(name="work", on_dead=died)
    async def work() -> None:
        ran.append(1)

    async with MemoryBroker() as memory, Client(memory) as client:
        handle = await client.perform_async(work)
        await crash(memory, 3)
        await Worker(app, memory, burst=True).run()
        entry = state_of(memory).dead[handle.id]
    assert ran == []
    assert entry.trail.failure is not None
    assert (entry.trail.failure.kind, entry.trail.failure.message) == (
        "JobPoisonous",
        "held by a worker that died 3 times",
    )
    assert [event.what for event in entry.trail.history] == [Happening.CRASHED] * 3 + [Happening.DEAD]
    assert called == ["JobPoisonous: held by a worker that died 3 times"]


@pytest.mark.parametrize(("max_crashes", "crashes", "runs"), [(1, 1, 0), (3, 2, 1), (5, 4, 1), (5, 5, 0)])
async def test_max_crashes_is_up_to_the_task(max_crashes: int, crashes: int, runs: int) -> None:
    app, ran = App(), list[int]()

    @app.task(max_crashes=max_crashes)
    async def work() -> None:
        ran.append(jobq.current().attempt)

    async with MemoryBroker() as memory, Client(memory) as client:
        await client.perform_async(work)
        await crash(memory, crashes)
        await Worker(app, memory, burst=True).run()
    assert ran == [1] * runs  # a crash is not an attempt


async def test_suspects_run_one_at_a_time_beside_innocents() -> None:
    app, together, most = App(), Counter[str](), Counter[str]()

    @app.task(retry=Retry(max_retries=0))
    async def work(kind: str) -> None:
        together[kind] += 1
        most[kind] = max(most[kind], together[kind])
        await asyncio.sleep(0.002)
        together[kind] -= 1

    async with MemoryBroker() as memory, Client(memory) as client:
        await client.perform_many([work.call("suspect") for _ in range(10)])
        await crash(memory, 2)
        await client.perform_many([work.call("innocent") for _ in range(100)])
        await Worker(app, memory, burst=True, concurrency=20).run()
        assert (state_of(memory).jobs, state_of(memory).dead) == ({}, {})
    assert most["suspect"] == 1
    assert most["innocent"] > 5


async def test_a_worker_full_of_innocents_takes_no_suspect_to_wait_beside_them() -> None:
    app, go, started = App(), asyncio.Event(), list[str]()

    @app.task
    async def work(kind: str) -> None:
        started.append(kind)
        await go.wait()

    async with MemoryBroker() as memory, Client(memory) as client:
        suspect = await client.perform_async(work, "suspect")
        await crash(memory, 2)
        async with Worker(app, memory, concurrency=3, queues=["other", "default"]) as worker:
            await client.perform_many([work.options(queue="other").call("innocent") for _ in range(30)])
            await until(lambda: len(started) >= 3)
            assert started.count("suspect") + started.count("innocent") == 3
            entry = state_of(memory).jobs[suspect.id]
            assert entry.epoch is None or "suspect" in started
            go.set()
            await until(lambda: not state_of(memory).jobs)
            assert worker.running == 0
    assert sorted(started) == ["innocent"] * 30 + ["suspect"]


async def test_suspects_have_their_turn_under_a_backlog_that_does_not_end() -> None:
    app, ran, left = App(), asyncio.Event(), 2

    @app.task
    async def work(kind: str) -> None:
        nonlocal left
        if kind == "suspect":
            left -= 1
        if left == 0:
            ran.set()
        else:
            await asyncio.sleep(0.001)
            await jobq.current().client.perform_many([work.call("innocent")] * 2)

    async with MemoryBroker() as memory, Client(memory) as client:
        await client.perform_many([work.call("suspect")] * left)  # the second one has to wait for the first
        await crash(memory, 2)
        await client.perform_many([work.call("innocent") for _ in range(500)])
        async with Worker(app, memory, concurrency=2), asyncio.timeout(10):
            await ran.wait()
