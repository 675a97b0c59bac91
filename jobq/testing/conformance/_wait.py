"""Sleeping until there is work. In real time: what wakes a sleeper is not the clock."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from jobq.broker import Broker, Capability
from jobq.clock import SYSTEM_CLOCK
from jobq.model import Claim, Job, Released, Stamp, WorkerInfo
from jobq.testing.conformance._bench import GUARD, LEASE, PLENTY, Bench, Promises, job

LONG = 30.0
"""Longer than any test takes: a wait that returns was woken."""
POLL = 0.05


async def sleeper_on(bench: Bench, *queues: str) -> Broker:
    """A broker object whose worker has found nothing, as whoever sleeps has."""
    broker = await bench.connect(SYSTEM_CLOCK)
    worker = await bench.worker("sleeper", broker=broker)
    assert await worker.claim(PLENTY, *queues) == []
    return broker


async def woken(wait: Awaitable[None]) -> None:
    """Await a wait that must end long before its own time is over."""
    async with asyncio.timeout(GUARD):
        await wait


async def woken_by(sleeper: Broker, act: Callable[[int], Awaitable[object]]) -> None:
    """Check that `act`, repeated since nobody can tell when the sleeper has gone to sleep, wakes it."""
    task = asyncio.ensure_future(sleeper.wait(["default"], LONG))
    async with asyncio.timeout(GUARD):
        number = 0
        while not task.done():
            number += 1
            await act(number)
            await asyncio.wait([task], timeout=POLL)
    await task


class WaitPromises(Promises):
    """`Broker.wait`."""

    async def test_wait_returns_at_once_when_there_is_work(self, bench: Bench) -> None:
        broker = await sleeper_on(bench, "other", "default")
        await broker.enqueue([job("a")], bench.stamp())
        await woken(broker.wait(["other", "default"], LONG))

    async def test_wait_returns_at_once_when_a_job_is_due(self, bench: Bench) -> None:
        broker = await sleeper_on(bench)
        watch = WorkerInfo("watch", "here")
        await broker.enqueue([job("a", delay=0.01)], bench.stamp())
        due = (await broker.heartbeat(watch, (), LEASE)).now + 0.01
        async with asyncio.timeout(GUARD):
            while True:
                await broker.wait(["default"], POLL)  # uses up what the enqueue itself may have hinted
                if (await broker.heartbeat(watch, (), LEASE)).now > due + POLL:
                    break
        await woken(broker.wait(["default"], LONG))

    async def test_wait_returns_after_its_time(self, bench: Bench) -> None:
        broker = await bench.connect(SYSTEM_CLOCK)
        await woken(broker.wait(["default"], 0.05))
        await woken(broker.wait(["default"], 0))

    async def test_wait_takes_no_job(self, bench: Bench) -> None:
        broker = await sleeper_on(bench)
        await broker.enqueue([job("a"), job("b")], bench.stamp())
        for _ in range(3):
            await woken(broker.wait(["default"], LONG))
        assert await (await bench.worker(broker=broker)).drain() == ["a", "b"]

    async def test_wait_returns_when_another_broker_object_enqueues(self, bench: Bench) -> None:
        sleeper, other = await sleeper_on(bench), await bench.connect(SYSTEM_CLOCK)
        task = asyncio.ensure_future(sleeper.wait(["default"], LONG))
        await other.enqueue([job("a")], bench.stamp())
        await woken(task)

    async def test_wait_returns_when_one_of_several_queues_gets_work(self, bench: Bench) -> None:
        sleeper, other = await sleeper_on(bench, "one", "two", "three"), await bench.connect(SYSTEM_CLOCK)
        task = asyncio.ensure_future(sleeper.wait(["one", "two", "three"], LONG))
        await other.enqueue([job("a", queue="two")], bench.stamp())
        await woken(task)

    async def test_every_sleeper_that_may_find_work_is_woken(self, bench: Bench) -> None:
        sleepers = [await sleeper_on(bench) for _ in range(3)]
        tasks = [asyncio.ensure_future(sleeper.wait(["default"], LONG)) for sleeper in sleepers]
        await (await bench.connect(SYSTEM_CLOCK)).enqueue([job("a"), job("b"), job("c")], bench.stamp())
        for task in tasks:
            await woken(task)

    async def test_a_job_that_becomes_the_earliest_due_one_wakes_a_sleeper(self, bench: Bench) -> None:
        bench.needs(Capability.CLOCK)
        sleeper, other = await bench.connect(SYSTEM_CLOCK), await bench.connect(SYSTEM_CLOCK)

        async def put_earlier(number: int) -> None:
            await other.enqueue([job(f"{number}", delay=1000 - number)], bench.stamp())

        await woken_by(sleeper, put_earlier)

    async def test_a_job_that_is_given_back_wakes_a_sleeper(self, bench: Bench) -> None:
        other = await bench.connect(SYSTEM_CLOCK)
        await other.enqueue([job("a")], bench.stamp())
        worker = await bench.worker(broker=other)
        delivery = await worker.claim_one()
        sleeper = await sleeper_on(bench)
        task = asyncio.ensure_future(sleeper.wait(["default"], LONG))
        await worker.turn(Released("a", delivery.epoch), queues=())
        await woken(task)

    async def test_a_sweep_that_reclaims_wakes_a_sleeper(self, bench: Bench) -> None:
        bench.needs(Capability.LEASE)
        sleeper, other = await bench.connect(SYSTEM_CLOCK), await bench.connect(SYSTEM_CLOCK)
        await other.enqueue([job("a")], bench.stamp())
        await (await bench.worker("dead", broker=other)).claim_one()
        task = asyncio.ensure_future(sleeper.wait(["default"], LONG))
        await other.sweep("here", 10, ["dead"])
        await woken(task)

    async def test_a_cancelled_wait_ends_and_harms_nothing(self, bench: Bench) -> None:
        broker = await sleeper_on(bench)
        for _ in range(5):
            task = asyncio.ensure_future(broker.wait(["default"], LONG))
            await asyncio.wait([task], timeout=0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await woken(task)
        await broker.enqueue([job("a")], bench.stamp())
        await woken(broker.wait(["default"], LONG))
        assert await (await bench.worker(broker=broker)).drain() == ["a"]

    async def test_the_other_verbs_work_while_one_task_waits(self, bench: Bench) -> None:
        broker = await bench.connect(SYSTEM_CLOCK)
        task = asyncio.ensure_future(broker.wait(["default"], LONG))
        info = WorkerInfo(id="w1", host="here")
        async with asyncio.timeout(GUARD):
            await broker.heartbeat(info, [], LEASE)
            await broker.sweep("here", 10)
            await broker.turn([], Claim("w1", ["default"], 1))
            await broker.enqueue([Job(id="a", task="t")], Stamp("client", 1))
        await woken(task)
