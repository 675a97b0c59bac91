"""What a worker claims before it has a slot for it, as jobs were short, and which then does not start."""

import asyncio
from collections.abc import AsyncIterator

import pytest

import jobq
from jobq import App, Client
from jobq.worker import Worker
from jobq_memory import MemoryBroker
from tests.core.bench import state_of, until


@pytest.fixture
async def memory(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[MemoryBroker]:
    """A broker for workers that soon know that they are fast, and soon give back what they have no slot for."""
    monkeypatch.setattr("jobq.worker.slots._RATE_WINDOW", 0.01)
    monkeypatch.setattr("jobq.worker.turn._PATIENCE", 0.1)
    async with MemoryBroker() as memory:
        yield memory


async def test_a_job_behind_a_long_one_goes_to_a_worker_with_a_free_slot_and_no_attempt_is_spent(
    memory: MemoryBroker,
) -> None:
    app, started, go = App(), list[tuple[int, int]](), asyncio.Event()

    @app.task
    async def quick() -> None: ...

    @app.task
    async def long(n: int) -> None:
        started.append((n, jobq.current().attempt))
        await go.wait()

    async with Client(memory) as client:
        await client.perform_many([quick.call() for _ in range(3000)])
        await client.perform_many([long.call(n) for n in range(20)])
        async with Worker(app, memory, concurrency=2) as busy:
            await until(lambda: len(started) == 2)
            assert len(busy.held) > 2  # so it has claimed ahead
            async with Worker(app, memory, concurrency=30):
                await until(lambda: len(started) == 20)
                go.set()
                await until(lambda: not state_of(memory).jobs)
    assert sorted(started) == [(n, 1) for n in range(20)]


async def test_what_goes_back_keeps_its_place_in_the_queue(memory: MemoryBroker) -> None:
    app, started, gates = App(), list[int](), [asyncio.Event() for _ in range(12)]

    @app.task
    async def quick() -> None: ...

    @app.task
    async def long(n: int) -> None:
        started.append(n)
        await gates[n].wait()

    async with Client(memory) as client:
        await client.perform_many([quick.call() for _ in range(3000)])
        await client.perform_many([long.call(n) for n in range(12)])
        async with Worker(app, memory, concurrency=3) as worker:
            await until(lambda: len(started) == 3)
            assert len(worker.held) > 3
            await until(lambda: len(worker.held) == 3)
            for gate in gates:
                gate.set()
                await until(lambda: len(started) >= min(12, 3 + sum(gate.is_set() for gate in gates)))
    assert started == list(range(12))
