"""Due times: on the broker's clock, and never early."""

from jobq.model import Again, Released, Trail
from jobq.testing.conformance._bench import Bench, Promises, ids


class TimePromises(Promises):
    """`Job.due` and `Job.delay`."""

    async def test_a_delayed_job_is_never_early(self, bench: Bench) -> None:
        await bench.put("a", delay=60)
        worker = await bench.worker(lease=90)
        bench.clock.advance(59.75)
        await bench.sweep()
        assert await worker.drain() == []
        bench.clock.advance(0.25)
        assert await worker.drain() == ["a"]

    async def test_a_job_with_a_due_time_is_never_early(self, bench: Bench) -> None:
        await bench.put("a", due=bench.clock.time() + 60)
        worker = await bench.worker(lease=90)
        bench.clock.advance(59.75)
        await bench.sweep()
        assert await worker.drain() == []
        bench.clock.advance(0.25)
        assert await worker.drain() == ["a"]

    async def test_a_due_time_in_the_past_means_now(self, bench: Bench) -> None:
        await bench.put("a", due=bench.clock.time() - 3600)
        assert await (await bench.worker()).drain() == ["a"]

    async def test_a_delay_of_nothing_means_now(self, bench: Bench) -> None:
        await bench.put("a", delay=0)
        assert await (await bench.worker()).drain() == ["a"]

    async def test_a_due_time_may_be_years_away(self, bench: Bench) -> None:
        await bench.put("a", due=bench.clock.time() + 100 * 365 * 86400)
        worker = await bench.worker()
        assert await worker.drain() == []
        bench.clock.advance(100 * 365 * 86400)
        await worker.beat()
        assert await worker.drain() == ["a"]

    async def test_a_due_job_is_claimed_without_a_sweep(self, bench: Bench) -> None:
        await bench.put("a", delay=5)
        worker = await bench.worker()
        bench.clock.advance(5)
        assert ids(await worker.claim(1)) == ["a"]

    async def test_a_retry_with_a_delay_is_never_early(self, bench: Bench) -> None:
        await bench.put("a")
        worker = await bench.worker()
        delivery = await worker.claim_one()
        await worker.settle(Again("a", delivery.epoch, Trail(attempt=1), delay=10))
        bench.clock.advance(9.75)
        assert await worker.drain() == []
        bench.clock.advance(0.25)
        assert await worker.drain() == ["a"]

    async def test_a_job_released_with_a_delay_is_never_early(self, bench: Bench) -> None:
        await bench.put("a")
        worker = await bench.worker()
        delivery = await worker.claim_one()
        await worker.settle(Released("a", delivery.epoch, delay=2))
        bench.clock.advance(1.75)
        assert await worker.drain() == []
        bench.clock.advance(0.25)
        assert await worker.drain() == ["a"]

    async def test_a_turn_says_when_the_next_job_of_any_queue_is_due(self, bench: Bench) -> None:
        worker = await bench.worker()
        assert (await worker.turn()).next_due is None
        await bench.put("a", delay=20, queue="elsewhere")
        await bench.put("b", delay=8)
        bench.clock.advance(3)
        assert_near((await worker.turn()).next_due, 5)

    async def test_a_turn_counts_the_retries_it_has_just_stored_among_the_due(self, bench: Bench) -> None:
        await bench.put("a")
        worker = await bench.worker()
        delivery = await worker.claim_one()
        turn = await worker.turn(Again("a", delivery.epoch, Trail(attempt=1), delay=10))
        assert_near(turn.next_due, 10)

    async def test_a_due_job_that_nobody_claims_is_no_longer_scheduled(self, bench: Bench) -> None:
        await bench.put("a", delay=5)
        worker = await bench.worker()
        bench.clock.advance(5)
        assert (await worker.turn()).next_due is None

    async def test_a_step_back_of_the_clock_makes_no_job_early(self, bench: Bench) -> None:
        await bench.put("a", due=bench.clock.time() + 60)
        bench.clock.step(-3600)
        worker = await bench.worker(lease=7200)
        bench.clock.advance(3600)
        assert await worker.drain() == []
        bench.clock.advance(60)
        assert await worker.drain() == ["a"]

    async def test_a_step_back_of_the_clock_leaves_ready_jobs_ready(self, bench: Bench) -> None:
        await bench.put("a")
        bench.clock.step(-3600)
        assert await (await bench.worker()).drain() == ["a"]


def assert_near(seconds: float | None, expected: float) -> None:
    """Equal to the millisecond: brokers need not store more."""
    assert seconds is not None
    assert abs(seconds - expected) < 0.001
