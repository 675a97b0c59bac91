"""A worker keeps what it holds as long as it renews its lease."""

from jobq.broker import Capability
from jobq.model import Crash, Done, Released, Trail
from jobq.testing.conformance._bench import Bench, Promises, ids, token


class LeasePromises(Promises):
    """`Broker.heartbeat`, and what follows when it fails to come."""

    async def test_the_jobs_of_an_expired_lease_are_reclaimed_and_charged_as_a_crash(self, bench: Bench) -> None:
        bench.needs(Capability.LEASE)
        await bench.put("a")
        worker = await bench.worker("w1", lease=30)
        a = await worker.claim_one()
        bench.clock.advance(30)
        assert await bench.sweep() == 1
        again = await (await bench.worker("w2")).claim_one()
        assert (again.job, again.trail) == (a.job, Trail())
        assert again.crashes == (Crash(a.epoch, bench.clock.time(), "w1"),)

    async def test_nothing_is_reclaimed_before_the_lease_has_ended(self, bench: Bench) -> None:
        bench.needs(Capability.LEASE)
        await bench.put("a")
        worker = await bench.worker(lease=30)
        a = await worker.claim_one()
        bench.clock.advance(29.75)
        assert await bench.sweep() == 0
        assert await worker.settle(Done("a", a.epoch)) == []

    async def test_a_heartbeat_renews_the_lease(self, bench: Bench) -> None:
        bench.needs(Capability.LEASE)
        await bench.put("a")
        worker = await bench.worker(lease=30)
        a = await worker.claim_one()
        for _ in range(5):
            bench.clock.advance(20)
            orders = await worker.beat(a, lease=30)
            assert list(orders.lost) == []
            assert await bench.sweep() == 0
        assert await worker.settle(Done("a", a.epoch)) == []

    async def test_a_heartbeat_may_shorten_the_lease(self, bench: Bench) -> None:
        bench.needs(Capability.LEASE)
        await bench.put("a")
        worker = await bench.worker(lease=3600)
        await worker.claim_one()
        await worker.beat(lease=5)
        bench.clock.advance(5)
        assert await bench.sweep() == 1

    async def test_one_heartbeat_keeps_all_that_the_worker_holds(self, bench: Bench) -> None:
        bench.needs(Capability.LEASE)
        await bench.put("a", "b", "c")
        worker = await bench.worker(lease=30)
        a, *_ = await worker.claim()
        bench.clock.advance(29)
        await worker.beat(a)
        bench.clock.advance(29)
        assert await bench.sweep() == 0

    async def test_leases_of_other_workers_are_not_touched(self, bench: Bench) -> None:
        bench.needs(Capability.LEASE)
        await bench.put("a", "b")
        dying, living = await bench.worker("dying", lease=10), await bench.worker("living", lease=60)
        await dying.claim_one()
        b = await living.claim_one()
        bench.clock.advance(10)
        assert await bench.sweep() == 1
        assert await living.settle(Done("b", b.epoch)) == []

    async def test_a_heartbeat_tells_the_time_of_the_broker(self, bench: Bench) -> None:
        bench.needs(Capability.CLOCK)
        worker = await bench.worker()
        bench.clock.advance(12.5)
        assert abs((await worker.beat()).now - bench.clock.time()) < 0.001

    async def test_without_orders_a_heartbeat_brings_none(self, bench: Bench) -> None:
        await bench.put("a")
        worker = await bench.worker()
        orders = await worker.beat(await worker.claim_one())
        assert (list(orders.lost), list(orders.cancel), list(orders.paused), orders.quiet) == ([], [], [], False)

    async def test_outcomes_count_after_the_end_of_the_lease_until_a_sweep(self, bench: Bench) -> None:
        bench.needs(Capability.LEASE)
        await bench.put("a", "b")
        worker = await bench.worker(lease=30)
        a, _ = await worker.claim()
        bench.clock.advance(31)
        turn = await worker.turn(Done("a", a.epoch), limit=1)
        assert (list(turn.refused), turn.leased) == ([], False)
        assert await bench.sweep() == 1
        assert await (await bench.worker("w2")).drain() == ["b"]

    async def test_outcomes_are_refused_after_the_sweep(self, bench: Bench) -> None:
        bench.needs(Capability.LEASE)
        await bench.put("a")
        worker = await bench.worker()
        a = await worker.claim_one()
        await bench.crash(worker)
        turn = await worker.turn(Done("a", a.epoch), limit=1)
        assert (list(turn.refused), turn.leased, ids(turn.deliveries)) == ([token(a)], False, [])
        assert await (await bench.worker("w2")).drain() == ["a"]

    async def test_a_late_heartbeat_before_the_sweep_keeps_everything(self, bench: Bench) -> None:
        bench.needs(Capability.LEASE)
        await bench.put("a")
        worker = await bench.worker(lease=30)
        a = await worker.claim_one()
        bench.clock.advance(300)
        assert list((await worker.beat(a)).lost) == []
        assert await bench.sweep() == 0
        assert await worker.settle(Done("a", a.epoch)) == []

    async def test_a_worker_whose_lease_was_swept_registers_again_with_a_heartbeat(self, bench: Bench) -> None:
        bench.needs(Capability.LEASE)
        worker = await bench.worker()
        await bench.crash(worker)
        await bench.put("a")
        assert not (await worker.turn(limit=1)).leased
        await worker.beat()
        assert await worker.drain() == ["a"]

    async def test_a_heartbeat_reports_the_tokens_that_were_lost(self, bench: Bench) -> None:
        bench.needs(Capability.LEASE)
        await bench.put("a", "b", "c")
        worker = await bench.worker()
        a, b = await worker.claim(2)
        await bench.crash(worker)
        await worker.beat()
        c = await worker.claim_one()
        assert c.job.id == "a"
        assert list((await worker.beat(a, c, b)).lost) == [token(a), token(b)]

    async def test_a_heartbeat_reports_tokens_that_were_settled_or_never_held(self, bench: Bench) -> None:
        await bench.put("a")
        worker, other = await bench.worker("w1"), await bench.worker("w2")
        a = await worker.claim_one()
        assert list((await other.beat(a)).lost) == [token(a)]
        assert list((await worker.beat(a)).lost) == []
        await worker.settle(Done("a", a.epoch))
        assert list((await worker.beat(a)).lost) == [token(a)]

    async def test_a_late_heartbeat_takes_back_the_crashes_of_its_beats(self, bench: Bench) -> None:
        bench.needs(Capability.LEASE)
        await bench.put("a", "b")
        worker = await bench.worker("late")
        a, b = await worker.claim()
        await bench.crash(worker)
        await worker.beat(a)
        again_a, again_b = await (await bench.worker("heir")).claim()
        assert again_a.crashes == ()
        assert [crash.epoch for crash in again_b.crashes] == [b.epoch]

    async def test_a_good_bye_frees_what_the_worker_holds_at_the_next_sweep(self, bench: Bench) -> None:
        bench.needs(Capability.LEASE)
        await bench.put("a")
        worker = await bench.worker(lease=3600)
        await worker.claim_one()
        await worker.beat(lease=0)
        assert await bench.sweep() == 1
        assert await (await bench.worker("w2")).drain() == ["a"]

    async def test_after_a_good_bye_nothing_is_claimed(self, bench: Bench) -> None:
        await bench.put("a")
        worker = await bench.worker()
        await worker.beat(lease=0)
        assert not (await worker.turn(limit=1)).leased
        assert list((await bench.broker.sweep("here", 10)).peers) == []
        await worker.beat()
        assert await worker.drain() == ["a"]

    async def test_a_good_bye_may_be_said_by_a_stranger_and_twice(self, bench: Bench) -> None:
        worker = await bench.worker("w1", lease=0)
        await worker.beat(lease=0)
        assert await bench.sweep() == 0

    async def test_a_job_stays_charged_with_the_crashes_of_its_earlier_claims(self, bench: Bench) -> None:
        await bench.put("a")
        worker = await bench.worker("w1")
        first = await worker.claim_one()
        await bench.crash(worker)
        worker = await bench.worker("w2")
        second = await worker.claim_one()
        await worker.settle(Released("a", second.epoch))
        bench.assert_charged(await worker.claim_one(), first)
