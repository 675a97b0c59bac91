"""Due times: on the broker's clock, and never early."""

import time
from collections.abc import Awaitable

from jobq.broker import Capability
from jobq.model import Again, Released, Trail
from jobq.testing.conformance._bench import SOON, Bench, Hand, Promises

CLOCKS_DIFFER = 0.05
"""Seconds: those of a server and of a client, which are not set by one another."""


class TimePromises(Promises):
    """`Job.due` and `Job.delay`."""

    async def test_a_delayed_job_is_never_early(self, bench: Bench) -> None:
        await never_early(bench, bench.put("a", delay=SOON), await bench.worker())

    async def test_a_job_with_a_due_time_is_never_early(self, bench: Bench) -> None:
        await never_early(bench, bench.put("a", due=bench.now() + SOON), await bench.worker())

    async def test_a_due_time_in_the_past_means_now(self, bench: Bench) -> None:
        await bench.put("a", due=bench.now() - 3600)
        assert await (await bench.worker()).drain() == ["a"]

    async def test_a_delay_of_nothing_means_now(self, bench: Bench) -> None:
        await bench.put("a", delay=0)
        assert await (await bench.worker()).drain() == ["a"]

    async def test_a_job_may_wait_for_a_century(self, bench: Bench) -> None:
        await bench.put("a", due=bench.now() + 100 * 365 * 86400)
        await bench.put("b", delay=100 * 365 * 86400)
        assert await (await bench.worker()).drain() == []

    async def test_a_due_time_may_be_years_away(self, bench: Bench) -> None:
        bench.needs(Capability.CLOCK)
        await bench.put("a", due=bench.clock.time() + 100 * 365 * 86400)
        worker = await bench.worker()
        assert await worker.drain() == []
        bench.clock.advance(100 * 365 * 86400)
        await worker.beat()
        assert await worker.drain() == ["a"]

    async def test_a_due_job_is_claimed_without_a_sweep(self, bench: Bench) -> None:
        await bench.put("a", delay=SOON)
        worker = await bench.worker()
        bench.pass_time(SOON)
        assert (await worker.claim_one()).job.id == "a"

    async def test_a_retry_with_a_delay_is_never_early(self, bench: Bench) -> None:
        await bench.put("a")
        worker = await bench.worker()
        delivery = await worker.claim_one()
        again = Again("a", delivery.epoch, Trail(attempt=1), delay=SOON)
        await never_early(bench, worker.settle(again), worker)

    async def test_a_job_released_with_a_delay_is_never_early(self, bench: Bench) -> None:
        await bench.put("a")
        worker = await bench.worker()
        delivery = await worker.claim_one()
        await never_early(bench, worker.settle(Released("a", delivery.epoch, delay=SOON)), worker)

    async def test_a_turn_says_when_the_next_job_of_any_queue_is_due(self, bench: Bench) -> None:
        bench.needs(Capability.CLOCK)
        worker = await bench.worker()
        assert (await worker.turn()).next_due is None
        await bench.put("a", delay=20, queue="elsewhere")
        await bench.put("b", delay=8)
        bench.clock.advance(3)
        assert_near((await worker.turn()).next_due, 5)

    async def test_a_turn_counts_the_retries_it_has_just_stored_among_the_due(self, bench: Bench) -> None:
        bench.needs(Capability.CLOCK)
        await bench.put("a")
        worker = await bench.worker()
        delivery = await worker.claim_one()
        turn = await worker.turn(Again("a", delivery.epoch, Trail(attempt=1), delay=10))
        assert_near(turn.next_due, 10)

    async def test_a_due_job_that_nobody_claims_is_no_longer_scheduled(self, bench: Bench) -> None:
        bench.needs(Capability.CLOCK)
        await bench.put("a", delay=5)
        worker = await bench.worker()
        bench.clock.advance(5)
        assert (await worker.turn()).next_due is None

    async def test_a_step_back_of_the_clock_makes_no_job_early(self, bench: Bench) -> None:
        bench.needs(Capability.CLOCK)
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


async def never_early(bench: Bench, put: Awaitable[object], worker: Hand) -> None:
    """Check that what `put` stores cannot be claimed before `SOON` is over, and can be then."""
    started = time.monotonic()
    await put
    if bench.has(Capability.CLOCK):
        bench.clock.advance(SOON / 2)
        await bench.sweep()
        assert await worker.drain() == []
        bench.clock.advance(SOON / 2)
        assert await worker.drain() == ["a"]
    else:
        assert (await worker.claim_one()).job.id == "a"
        assert time.monotonic() - started >= SOON - CLOCKS_DIFFER


def assert_near(seconds: float | None, expected: float) -> None:
    """Equal to the millisecond: brokers need not store more."""
    assert seconds is not None
    assert abs(seconds - expected) < 0.001
