"""Opening, closing, and a twin on another thread."""

import asyncio

import pytest

from jobq.broker import Broker, Capability
from jobq.errors import JobqError
from jobq.model import Claim, Orders, WorkerInfo
from jobq.testing.conformance._bench import LEASE, Bench, Promises, done, job


class LifePromises(Promises):
    """What is true of the broker object itself."""

    async def test_its_url_names_its_scheme(self, bench: Bench) -> None:
        assert ":" in bench.broker.url

    async def test_its_capabilities_are_known_before_it_is_opened(self, bench: Bench) -> None:
        assert isinstance(bench.unopened().capabilities, Capability)
        assert bench.unopened().capabilities == bench.broker.capabilities

    async def test_jobs_survive_the_closing_of_a_broker_object(self, bench: Bench) -> None:
        async with bench.unopened() as broker:
            await broker.enqueue([job("a")], bench.stamp())
        assert await (await bench.worker()).drain() == ["a"]

    async def test_what_was_not_claimed_from_a_closed_broker_object_is_not_charged(self, bench: Bench) -> None:
        await bench.put("a", "b", "c")
        async with bench.unopened() as broker:
            worker = await bench.worker("w1", broker=broker)
            await worker.settle(*done(await worker.claim_one()))
        rest = await (await bench.worker("w2")).claim(least=2)
        assert [(delivery.job.id, delivery.crashes) for delivery in rest] == [("b", ()), ("c", ())]

    async def test_a_twin_works_on_the_loop_of_another_thread(self, bench: Bench) -> None:
        twin = bench.broker.twin()
        if twin is None:
            pytest.skip("this broker has no twin")
        await bench.put("a")
        worker = await bench.worker(lease=30)
        await worker.claim_one()
        bench.clock.advance(29)
        assert list((await asyncio.to_thread(asyncio.run, beat(twin, worker.info))).lost) == []
        bench.clock.advance(29)
        assert await bench.sweep() == 0

    async def test_a_twin_lives_and_ends_on_its_own(self, bench: Bench) -> None:
        async with bench.unopened() as broker:
            twin = broker.twin()
            if twin is None:
                pytest.skip("this broker has no twin")
            async with twin:
                pass
            await broker.enqueue([job("a")], bench.stamp())
            other = broker.twin()
            assert other is not None
        async with other:
            await other.enqueue([job("b")], bench.stamp())
        assert await (await bench.worker()).drain() == ["a", "b"]

    async def test_a_closed_broker_raises_a_jobq_error(self, bench: Bench) -> None:
        broker = bench.unopened()
        async with broker:
            pass
        info = WorkerInfo(id="w1", host="here")
        with pytest.raises(JobqError):
            await broker.enqueue([job("a")], bench.stamp())
        with pytest.raises(JobqError):
            await broker.turn([], Claim("w1", ["default"], 1))
        with pytest.raises(JobqError):
            await broker.heartbeat(info, [], LEASE)
        with pytest.raises(JobqError):
            await broker.sweep("here", 1)
        with pytest.raises(JobqError):
            await broker.wait(["default"], 0.01)

    async def test_a_broker_closes_while_a_task_waits(self, bench: Bench) -> None:
        async with asyncio.timeout(10):
            async with bench.unopened() as broker:
                task = asyncio.ensure_future(broker.wait(["default"], 30))
                await asyncio.wait([task], timeout=0.01)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def beat(twin: Broker, info: WorkerInfo) -> Orders:
    """Heartbeat through a twin that lives on this loop only."""
    async with twin:
        return await twin.heartbeat(info, [], LEASE)
