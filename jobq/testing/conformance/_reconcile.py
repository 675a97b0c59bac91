"""What a worker holds and what the broker believes that it holds are made the same by a heartbeat.

They differ when the broker has lost its last moments. Here the worker only acts as if it had settled a job then.
"""

import asyncio

from jobq.broker import Capability
from jobq.clock import SYSTEM_CLOCK
from jobq.model import Again, Done, Trail
from jobq.testing.conformance._bench import PLENTY, Bench, Promises, done, ids, token
from jobq.testing.conformance._suspect import make_suspects
from jobq.testing.conformance._wait import LONG, woken

TRAIL = Trail(attempt=1)


class ReconcilePromises(Promises):
    """`resume` of `Broker.heartbeat`."""

    async def test_what_the_worker_received_and_does_not_name_is_put_back(self, bench: Bench) -> None:
        await bench.put("a", "b")
        worker = await bench.worker("w1")
        a, b = await worker.claim()
        assert (await worker.reconcile(a)).returned == 1
        again = await (await bench.worker("w2")).claim_one()
        assert again.job == b.job
        assert again.epoch > b.epoch
        assert await worker.settle(*done(a, b)) == [token(b)]

    async def test_what_is_put_back_has_no_crash_and_its_trail(self, bench: Bench) -> None:
        await bench.put("a")
        worker = await bench.worker()
        first = await worker.claim_one()
        await worker.settle(Again("a", first.epoch, TRAIL, queue="slow"))
        await worker.claim_one("slow")
        await worker.reconcile()
        again = await worker.claim_one("slow")
        assert (again.job.queue, again.trail, again.crashes) == ("slow", TRAIL, ())

    async def test_what_is_named_stays_held(self, bench: Bench) -> None:
        await bench.put("a", "b")
        worker = await bench.worker()
        a, b = await worker.claim()
        for _ in range(2):
            orders = await worker.reconcile(a, b)
            assert (list(orders.lost), orders.returned) == ([], 0)
        assert await worker.settle(*done(a, b)) == []

    async def test_what_was_lost_on_the_way_to_the_worker_stays_held(self, bench: Bench) -> None:
        await bench.put("a", "b")
        worker = await bench.worker()
        a = await worker.claim_one()
        lost = await worker.lose_turn(limit=1)
        assert (await worker.reconcile(a)).returned == 0
        assert [token(d) for d in await worker.claim()] == [token(d) for d in lost.deliveries]

    async def test_a_heartbeat_that_says_nothing_of_what_was_received_puts_nothing_back(self, bench: Bench) -> None:
        await bench.put("a")
        worker = await bench.worker()
        a = await worker.claim_one()
        assert (await worker.beat()).returned == 0
        assert await worker.settle(*done(a)) == []

    async def test_a_late_heartbeat_puts_nothing_back_that_was_claimed_since(self, bench: Bench) -> None:
        await bench.put("a", "b", "c")
        worker = await bench.worker()
        a = await worker.claim_one()
        before = worker.received
        await worker.settle(*done(a))
        b, c = await worker.claim()
        orders = await worker.reconcile(a, resume=before)
        assert (list(orders.lost), orders.returned) == ([token(a)], 0)
        assert await worker.settle(*done(b, c)) == []

    async def test_a_repeated_heartbeat_puts_nothing_more_back(self, bench: Bench) -> None:
        await bench.put("a", "b")
        worker = await bench.worker()
        a, _ = await worker.claim()
        before = worker.received
        assert (await worker.reconcile(a, resume=before)).returned == 1
        again = await worker.claim_one()
        for _ in range(2):
            assert (await worker.reconcile(a, resume=before)).returned == 0
        assert await worker.settle(*done(a, again)) == []

    async def test_a_job_that_is_named_under_another_epoch_is_not_put_back_yet(self, bench: Bench) -> None:
        await bench.put("a")
        worker = await bench.worker()
        old = await worker.claim_one()
        await worker.settle(Again("a", old.epoch, TRAIL))
        await worker.claim_one()
        orders = await worker.reconcile(old)
        assert (list(orders.lost), orders.returned) == ([token(old)], 0)
        assert (await worker.reconcile()).returned == 1
        assert await worker.drain() == ["a"]

    async def test_what_is_put_back_enters_at_the_front_the_one_claimed_first_foremost(self, bench: Bench) -> None:
        bench.needs(Capability.ORDER)
        await bench.put("b", "c", "d")
        await bench.put("a", priority=4)
        worker = await bench.worker()
        await worker.claim(3)
        await bench.put("e")
        assert (await worker.reconcile()).returned == 3
        assert await worker.drain() == ["a", "b", "c", "d", "e"]

    async def test_a_suspect_that_is_put_back_is_a_suspect_still(self, bench: Bench) -> None:
        lost = await make_suspects(bench, "a")
        worker = await bench.worker()
        await worker.claim_one(suspects=True)
        assert (await worker.reconcile()).returned == 1
        assert ids(await worker.claim()) == []
        bench.assert_charged(await worker.claim_one(suspects=True), *lost["a"])

    async def test_what_other_workers_hold_is_not_touched(self, bench: Bench) -> None:
        await bench.put("a", "b")
        one, two = await bench.worker("w1"), await bench.worker("w2")
        a, b = await one.claim_one(), await two.claim_one()
        assert (await two.reconcile(b)).returned == 0
        assert await one.settle(*done(a)) == []

    async def test_all_of_many_are_put_back(self, bench: Bench) -> None:
        names = [f"{number:04}" for number in range(2500)]
        for first in range(0, len(names), 500):
            await bench.put(*names[first : first + 500])
        worker = await bench.worker()
        deliveries = await worker.claim(PLENTY)
        kept = deliveries[::2]
        assert (await worker.reconcile(*kept)).returned == len(names) - len(kept)
        assert await worker.drain() == names[1::2]
        assert await worker.settle(*done(*kept)) == []

    async def test_a_good_bye_may_put_back_too(self, bench: Bench) -> None:
        await bench.put("a")
        worker = await bench.worker("w1")
        await worker.claim_one()
        assert (await worker.reconcile(lease=0)).returned == 1
        assert await bench.sweep() == 0
        assert (await (await bench.worker("w2")).claim_one()).crashes == ()

    async def test_a_worker_that_has_received_more_than_the_broker_has_counted_gets_higher_epochs_still(
        self, bench: Bench
    ) -> None:
        await bench.put("a")
        worker = await bench.worker()
        worker.received = 1_000_000
        a = await worker.claim_one()
        assert a.epoch > 1_000_000
        assert (await worker.reconcile(a)).returned == 0
        assert await worker.settle(Done("a", a.epoch)) == []

    async def test_what_is_put_back_wakes_a_sleeper(self, bench: Bench) -> None:
        bench.needs(Capability.LEASE)
        sleeper, other = await bench.connect(SYSTEM_CLOCK), await bench.connect(SYSTEM_CLOCK)
        await bench.put("a")
        worker = await bench.worker(broker=other)
        await worker.claim_one()
        task = asyncio.ensure_future(sleeper.wait(["default"], LONG))
        await worker.reconcile()
        await woken(task)
