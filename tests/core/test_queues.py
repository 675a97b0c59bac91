"""Which job comes next: priorities, queues, due times; and how many at once."""

# ruff: noqa: SIM117 - what starts in the outer block is to outlive the inner one

import asyncio
import logging
from collections import Counter
from typing import Any

import pytest

import jobq
from jobq import App, Client, errors, testing
from jobq.worker import Worker, WorkerOptions
from jobq.worker.options import QueueWeight
from jobq.worker.turn import _order
from jobq_memory import MemoryBroker
from tests.core.bench import Faulty, until


def recording() -> tuple[App, list[int], jobq.AsyncTask[[int], None]]:
    app, ran = App(), list[int]()

    @app.task(name="note")
    async def note(x: int) -> None:
        ran.append(x)

    return app, ran, note


async def test_first_in_first_out_within_a_priority() -> None:
    app, ran, note = recording()
    async with MemoryBroker() as broker, Client(broker) as client:
        await client.perform_many([note.call(n) for n in range(200)])
        await Worker(app, broker, concurrency=1, burst=True).run()
    assert ran == list(range(200))


async def test_higher_priorities_run_first() -> None:
    app, ran, note = recording()
    async with MemoryBroker() as broker, Client(broker) as client:
        await client.perform_many([note.options(priority=n % 5).call(n % 5) for n in range(25)])
        await Worker(app, broker, concurrency=1, burst=True).run()
    assert ran == sorted(ran, reverse=True)


async def test_strict_queues_are_emptied_in_their_order() -> None:
    app, ran, note = recording()
    async with MemoryBroker() as broker, Client(broker) as client:
        await client.perform_many([note.options(queue="low", priority=4).call(2) for _ in range(20)])
        await client.perform_many([note.options(queue="high").call(1) for _ in range(20)])
        await Worker(app, broker, queues=["high", "low"], concurrency=1, burst=True).run()
    assert ran == [1] * 20 + [2] * 20


async def test_a_worker_leaves_other_queues_alone() -> None:
    app, ran, note = recording()
    async with MemoryBroker() as broker, Client(broker) as client:
        await client.perform_async(note.options(queue="theirs"), 1)
        await client.perform_async(note.options(queue="mine"), 2)
        await Worker(app, broker, queues=["mine"], burst=True).run()
    assert ran == [2]


def test_weighted_queues_get_the_first_look_in_proportion() -> None:
    order = _order([QueueWeight("a", 6), QueueWeight("b", 3), QueueWeight("c", 1)])
    first = Counter(order(frozenset())[0] for _ in range(10_000))
    assert first["a"] == pytest.approx(6000, abs=300)
    assert first["b"] == pytest.approx(3000, abs=300)
    assert first["c"] == pytest.approx(1000, abs=200)
    assert sorted(order(frozenset())) == ["a", "b", "c"]
    assert order(frozenset("ab")) == ["c"]


def test_strict_queues_skip_what_is_paused() -> None:
    order = _order([QueueWeight("a"), QueueWeight("b")])
    assert (order(frozenset()), order(frozenset("a"))) == (["a", "b"], ["b"])


async def test_a_weighted_queue_never_starves_the_others() -> None:
    app, ran, note = recording()
    async with MemoryBroker() as broker, Client(broker) as client:
        await client.perform_many([note.options(queue="big").call(1) for _ in range(500)])
        await client.perform_many([note.options(queue="small").call(2) for _ in range(20)])
        await Worker(app, broker, queues=["big:10", "small:1"], concurrency=1, burst=True).run()
    assert len(ran) == 520
    assert ran.index(2) < 400


async def test_past_due_jobs_run_at_once_and_the_earliest_first() -> None:
    app, ran, note = recording()
    async with testing.running(app, concurrency=1) as jobs:
        await jobs.client.perform_in(30, note, 3)
        await jobs.client.perform_in(10, note, 1)
        await jobs.client.perform_in(20, note, 2)
        jobs.clock.advance(100)  # all at once: nobody was looking
        await jobs.run_until_idle()
    assert ran == [1, 2, 3]


async def test_a_sleeping_worker_wakes_for_a_new_job_at_once(clock: testing.ManualClock) -> None:
    app, ran, note = recording()
    async with MemoryBroker(clock=clock) as broker, Client(broker) as client:
        worker = Worker(app, broker, clock=clock, grace=0)
        await worker.__aenter__()
        await until(lambda: worker._turner.leased.is_set() and clock.sleeping > 3)
        await client.perform_async(note, 1)
        await until(lambda: ran == [1])  # the clock stood still all the time
        await worker.__aexit__(None, None, None)


async def test_a_job_that_is_due_earlier_than_all_others_wakes_a_sleeper_in_time() -> None:
    app, ran, note = recording()
    async with testing.running(app) as jobs:
        await jobs.client.perform_in(1000, note, 2)
        await jobs.advance(1)
        await jobs.client.perform_in(10, note, 1)
        await jobs.advance(10)
        assert ran == [1]


async def test_a_due_job_is_made_ready_even_when_all_slots_are_taken() -> None:
    """Another worker, or a higher priority, may need it."""
    app, go = App(), asyncio.Event()
    from tests.core.bench import state_of  # noqa: PLC0415

    @app.task
    async def block() -> None:
        await go.wait()

    async with MemoryBroker() as broker, Client(broker) as client:
        async with Worker(app, broker, concurrency=1, grace=5) as worker:
            await client.perform_in(0.1, block)
            await client.perform_async(block)
            await until(lambda: worker.running)
            await until(lambda: not state_of(broker).scheduled, 2)
            go.set()


@pytest.mark.parametrize("concurrency", [1, 7, 100])
async def test_no_more_bodies_run_at_once_than_the_concurrency_allows(concurrency: int) -> None:
    app, running, most, ran = App(), 0, 0, 0

    @app.task
    async def work() -> None:
        nonlocal running, most, ran
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001)
        running -= 1
        ran += 1

    async with MemoryBroker() as broker, Client(broker) as client:
        await client.perform_many([work.call() for _ in range(10 * concurrency)])
        await Worker(app, broker, concurrency=concurrency, burst=True).run()
    assert (ran, most) == (10 * concurrency, concurrency)


async def test_a_worker_does_not_hoard_what_it_cannot_start() -> None:
    app, go = App(), asyncio.Event()

    @app.task
    async def block() -> None:
        await go.wait()

    async with MemoryBroker() as broker, Client(broker) as client:
        await client.perform_many([block.call() for _ in range(1000)])
        async with Worker(app, broker, concurrency=10, grace=0) as worker:
            await until(lambda: worker.running)
            await asyncio.sleep(0.02)
            assert worker.running <= 12


async def test_a_slow_broker_slows_the_worker_down_and_does_not_fill_its_memory() -> None:
    app, ran, note = recording()
    async with MemoryBroker() as memory, Client(memory) as client:
        broker = Faulty(memory)
        broker.faults.slow["turn"] = 0.005
        await client.perform_many([note.call(n) for n in range(2000)])
        most = 0
        async with Worker(app, broker, concurrency=10, grace=0) as worker:
            while len(ran) < 300:
                most = max(most, worker.running)
                await asyncio.sleep(0.001)
        assert most <= 10 + 4 * 10 + 10


async def test_bursts_end_when_nothing_is_ready_and_leave_the_scheduled_alone() -> None:
    app, ran, note = recording()
    async with MemoryBroker() as broker, Client(broker) as client:
        await client.perform_in(3600, note, 2)
        await client.perform_async(note, 1)
        await asyncio.wait_for(Worker(app, broker, burst=True).run(), 10)
        assert ran == [1]
        await asyncio.wait_for(Worker(app, broker, burst=True).run(), 10)
    assert ran == [1]


async def test_an_idle_worker_is_quiet() -> None:
    app = App()
    async with MemoryBroker() as memory:
        broker = Faulty(memory)
        async with Worker(app, broker) as worker:
            await until(lambda: worker._turner.leased.is_set() and broker.faults.calls["wait"])
            await asyncio.sleep(0.05)
            before = broker.faults.calls.copy()
            await asyncio.sleep(0.5)
            assert sum((broker.faults.calls - before).values()) <= 3


BAD_OPTIONS: list[tuple[dict[str, Any], str]] = [
    ({"queues": "mail"}, "list of names"),
    ({"queues": []}, "at least one"),
    ({"queues": ["a", "a"]}, "twice"),
    ({"queues": ["a:5", "a"]}, "twice"),
    ({"queues": ["a b"]}, "cannot name a queue"),
    ({"queues": ["a:0"]}, "weight"),
    ({"queues": ["a:x"]}, "weight"),
    ({"queues": ["a:-1"]}, "weight"),
    ({"queues": ["a:1.5"]}, "weight"),
    ({"queues": ["a:1001"]}, "weight"),
    ({"queues": ["a:"]}, "weight"),
    ({"queues": [":5"]}, "cannot name a queue"),
    ({"queues": [5]}, "5 cannot name a queue"),
    ({"concurrency": 0}, "concurrency is 0"),
    ({"concurrency": "5"}, "concurrency is '5'"),
    ({"concurrency": 2.5}, "concurrency is 2.5"),
    ({"burst": "yes"}, "burst is 'yes'"),
    ({"grace": -1}, "grace is -1"),
    ({"grace": "5"}, "grace is '5'"),
    ({"grace": float("nan")}, "grace is nan"),
    ({"lease": float("inf")}, "lease is inf"),
    ({"park_grace": -1}, "park_grace is -1"),
    ({"lease": 10, "renew": 5}, "less than half"),
    ({"renew": 0}, "renew"),
    ({"sweep": 0}, "sweep"),
    ({"max_lag": 0}, "max_lag"),
]


@pytest.mark.parametrize(("options", "message"), BAD_OPTIONS, ids=str)
def test_a_worker_option_that_cannot_be_right_is_an_error(options: dict[str, Any], message: str) -> None:
    with pytest.raises(errors.ConfigError, match=message):
        Worker(App(), "memory://", **options)


@pytest.mark.parametrize("broker", [None, 5, b"memory://", MemoryBroker])
def test_what_is_no_broker_is_an_error_at_once(broker: Any) -> None:
    with pytest.raises(errors.ConfigError, match=r"it is a URL, e.g. sqlite:///jobs.db, or a broker object"):
        Worker(App(), broker)


def test_an_unknown_worker_option_is_an_error_that_names_it() -> None:
    with pytest.raises(TypeError, match=r"thread_count"):
        Worker(App(), "memory://", thread_count=5)


def test_the_defaults_of_a_worker_are_those_that_the_docs_promise(caplog: pytest.LogCaptureFixture) -> None:
    options = WorkerOptions()
    assert (options.lease, options.renew, options.sweep, options.grace) == (30, 10, 5, 25)
    assert (list(options.queues), options.concurrency, options.burst) == (["default"], 100, False)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
