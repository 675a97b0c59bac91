"""What a worker leaves behind: nothing."""

# ruff: noqa: SIM117 - what starts in the outer block is to outlive the inner one

import asyncio
import gc
import logging
import random
import resource
import threading
import weakref

import pytest

from jobq import App, Client, Retry, testing
from jobq.worker import Worker
from jobq_memory import MemoryBroker
from tests.core.bench import Faulty, state_of, until


async def test_after_a_worker_ends_no_task_timer_or_thread_of_it_is_left() -> None:
    app, started = App(), asyncio.Event()

    @app.task(timeout=1000)
    async def hang() -> None:
        started.set()
        await asyncio.Event().wait()

    @app.task
    def plain() -> None: ...

    async with MemoryBroker() as broker, Client(broker) as client:
        await client.perform_in(1000, hang)
        before = set(asyncio.all_tasks())  # with the client's own timer
        async with Worker(app, broker, grace=0):
            await client.perform_many([hang.call(), plain.call()])
            await started.wait()
        assert set(asyncio.all_tasks()) == before
        assert not [thread for thread in threading.enumerate() if thread.name == "jobq lease"]
        assert state_of(broker).leases == {}
    loop = asyncio.get_running_loop()
    timers = [handle for handle in getattr(loop, "_scheduled", []) if not handle.cancelled()]
    assert [handle for handle in timers if "jobq" in repr(handle)] == []


async def test_after_a_client_ends_no_task_is_left() -> None:
    app = App()

    @app.task
    async def work(x: int) -> None: ...

    before = set(asyncio.all_tasks())
    async with Client("memory://") as client:
        await asyncio.gather(*(client.perform_async(work, n) for n in range(50)))
    assert set(asyncio.all_tasks()) == before


async def test_a_worker_is_freed_when_it_is_forgotten() -> None:
    app = App()

    @app.task
    async def work() -> None: ...

    async with MemoryBroker() as broker, Client(broker) as client:
        worker = Worker(app, broker, burst=True)
        await client.perform_async(work)
        await worker.run()
        gone = weakref.ref(worker)
        del worker
        for _ in range(3):
            await asyncio.sleep(0)
            gc.collect()
        assert gone() is None


@pytest.mark.timeout(240)  # a hundred thousand jobs, perhaps on a busy machine
@pytest.mark.parametrize("fail", [False, True], ids=["done", "retried"])
async def test_memory_stays_flat_over_many_jobs(caplog: pytest.LogCaptureFixture, *, fail: bool) -> None:
    caplog.set_level(logging.CRITICAL, "jobq.worker")  # or pytest keeps every line
    app, count = App(), 0

    @app.task(retry=Retry(max_retries=1, backoff=lambda _: 0.0), keep_dead=False)
    async def work(n: int) -> None:
        nonlocal count
        count += 1
        if fail:
            raise ValueError(n)

    total, chunk = (5_000, 500) if fail else (100_000, 5000)
    sizes = list[int]()
    async with MemoryBroker() as memory, Client(memory) as client:
        async with Worker(app, memory, concurrency=50) as worker:
            for _ in range(total // chunk):
                await client.perform_many([work.call(n) for n in range(chunk)])
                await until(lambda: not state_of(memory).jobs, 50)
                gc.collect()
                sizes.append(len(gc.get_objects()))
            assert worker.running == 0
            assert len(worker._deadlines._running) == 0
            assert worker._slots.outcomes == []
    assert count == total * (2 if fail else 1)
    half = len(sizes) // 2
    assert max(sizes[half:]) < max(sizes[:half]) * 1.05 + 1000


async def test_a_backlog_does_not_enter_the_workers_memory() -> None:
    app, ran = App(), 0

    @app.task
    async def work(n: int) -> None:
        nonlocal ran
        ran += 1

    async with MemoryBroker() as memory, Client(memory) as client:
        await client.perform_many([work.call(n) for n in range(50_000)])
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        most = 0
        broker = Faulty(memory)
        async with Worker(app, broker, concurrency=100) as worker:
            while ran < 20_000:
                most = max(most, worker.running)
                await asyncio.sleep(0.001)
        assert most <= 100 + 4 * 100
        assert max(claim.limit for _, claim, _ in broker.faults.turns) <= 500
        broker.faults.turns.clear()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024  # KiB


async def test_workers_that_come_and_go_leave_nothing_in_the_loop() -> None:
    app = App()

    @app.task
    async def work() -> None:
        await asyncio.sleep(random.random() * 0.001)

    before = set(asyncio.all_tasks())
    for _ in range(10):
        async with testing.running(app) as jobs:
            await jobs.client.perform_many([work.call() for _ in range(5)])
            await jobs.run_until_idle()
    assert set(asyncio.all_tasks()) == before
