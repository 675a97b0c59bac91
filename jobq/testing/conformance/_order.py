"""The order in which jobs are claimed."""

from jobq.broker import Capability
from jobq.model import PRIORITIES, Again, Released, Trail
from jobq.testing.conformance._bench import PLENTY, Bench, Promises, done, ids


class OrderPromises(Promises):
    """Higher priority first; first in, first out; who comes back enters at the front."""

    async def test_first_in_first_out(self, bench: Bench) -> None:
        for name in ("c", "a", "b"):
            await bench.put(name)
        await bench.put("e", "d")
        assert await (await bench.worker()).drain() == ["c", "a", "b", "e", "d"]

    async def test_first_in_first_out_over_many_turns(self, bench: Bench) -> None:
        await bench.put("a", "b", "c")
        worker = await bench.worker()
        assert ids([await worker.claim_one(), await worker.claim_one()]) == ["a", "b"]
        await bench.put("d")
        assert await worker.drain() == ["c", "d"]

    async def test_higher_priorities_come_first(self, bench: Bench) -> None:
        bench.needs(Capability.PRIORITY)
        await bench.put("low", priority=0)
        await bench.put("normal")
        await bench.put("high", priority=4)
        assert await (await bench.worker()).drain() == ["high", "normal", "low"]

    async def test_every_priority_counts(self, bench: Bench) -> None:
        bench.needs(Capability.PRIORITY | Capability.ORDER)
        for priority in (2, 0, 4, 3, 1):
            await bench.put(f"p{priority}", priority=priority)
        assert await (await bench.worker()).drain() == [f"p{priority}" for priority in reversed(PRIORITIES)]

    async def test_first_in_first_out_within_a_priority(self, bench: Bench) -> None:
        bench.needs(Capability.PRIORITY)
        for number in range(6):
            await bench.put(f"{number}", priority=4 if number % 2 else 1)
        assert await (await bench.worker()).drain() == ["1", "3", "5", "0", "2", "4"]

    async def test_a_job_keeps_its_priority_when_it_comes_back(self, bench: Bench) -> None:
        bench.needs(Capability.PRIORITY | Capability.GREEDY)  # else "high" may not have arrived yet
        await bench.put("low", priority=0)
        worker = await bench.worker()
        delivery = await worker.claim_one()
        await bench.put("high", priority=4)
        await worker.settle(Released("low", delivery.epoch))
        assert await worker.drain() == ["high", "low"]

    async def test_the_first_queue_is_emptied_before_the_next_is_looked_at(self, bench: Bench) -> None:
        await bench.put("b1", "b2", queue="b", priority=4)
        await bench.put("a1", "a2", queue="a", priority=0)
        worker = await bench.worker()
        assert ids(await worker.claim(3, "a", "b")) == ["a1", "a2", "b1"]
        assert ids(await worker.claim(3, "a", "b")) == ["b2"]

    async def test_jobs_of_other_queues_are_left_alone(self, bench: Bench) -> None:
        await bench.put("other", queue="other")
        await bench.put("mine", queue="mine")
        worker = await bench.worker()
        assert await worker.drain("mine", "empty") == ["mine"]
        assert await worker.drain("other") == ["other"]

    async def test_a_released_job_goes_to_the_front(self, bench: Bench) -> None:
        bench.needs(Capability.ORDER)
        await bench.put("a", "b", "c")
        worker = await bench.worker()
        first = await worker.claim_one()
        await worker.settle(Released("a", first.epoch))
        assert await worker.drain() == ["a", "b", "c"]

    async def test_a_retry_without_a_delay_goes_to_the_front(self, bench: Bench) -> None:
        bench.needs(Capability.ORDER)
        await bench.put("a", "b", "c")
        worker = await bench.worker()
        first = await worker.claim_one()
        await worker.settle(Again("a", first.epoch, Trail(attempt=1)))
        assert await worker.drain() == ["a", "b", "c"]

    async def test_jobs_that_become_due_go_to_the_front_the_earliest_first(self, bench: Bench) -> None:
        bench.needs(Capability.ORDER)
        await bench.put("late", delay=20)
        await bench.put("early", delay=10)
        await bench.put("middle", delay=15)
        await bench.put("ready")
        worker = await bench.worker()
        bench.clock.advance(20)
        assert await worker.drain() == ["early", "middle", "late", "ready"]

    async def test_jobs_that_a_sweep_makes_ready_go_to_the_front_the_earliest_first(self, bench: Bench) -> None:
        bench.needs(Capability.ORDER)
        await bench.put("late", delay=20)
        await bench.put("early", delay=10)
        await bench.put("ready")
        worker = await bench.worker()
        bench.clock.advance(20)
        await bench.sweep()
        assert await worker.drain() == ["early", "late", "ready"]

    async def test_jobs_that_become_due_do_not_overtake_higher_priorities(self, bench: Bench) -> None:
        bench.needs(Capability.CLOCK)
        bench.needs(Capability.PRIORITY)
        await bench.put("due", delay=10, priority=1)
        await bench.put("ready")
        worker = await bench.worker()
        bench.clock.advance(10)
        assert await worker.drain() == ["ready", "due"]

    async def test_reclaimed_jobs_go_to_the_front_in_the_order_of_their_claims(self, bench: Bench) -> None:
        bench.needs(Capability.ORDER)
        await bench.put("a", "b", "c", "d", "e")
        worker = await bench.worker()
        await worker.claim(3)
        await worker.claim(1)
        await bench.crash(worker)
        assert await (await bench.worker("w2")).drain() == ["a", "b", "c", "d", "e"]

    async def test_a_thousand_jobs_come_in_order_whatever_the_size_of_the_turns(self, bench: Bench) -> None:
        names = [f"{number}" for number in range(1000)]
        await bench.put(*names)
        worker, came = await bench.worker(), list[str]()
        for limit in (1, 7, 64, 3, 500, PLENTY):
            deliveries = await worker.claim(limit)
            came += ids(deliveries)
            await worker.settle(*done(*deliveries))
        assert came == names
