"""A turn whose answer was lost can be repeated."""

from jobq.broker import Capability
from jobq.model import Again, Done, Released, Trail
from jobq.testing.conformance._bench import SOON, Bench, Promises, done, ids, token

TRAIL = Trail(attempt=1)


class ResumePromises(Promises):
    """`Claim.resume`."""

    async def test_lost_deliveries_come_again_with_the_same_epochs(self, bench: Bench) -> None:
        await bench.put("a", "b", "c")
        worker = await bench.worker()
        lost = await worker.lose_turn(limit=2)
        assert [token(d) for d in await worker.claim(2)] == [token(d) for d in lost.deliveries]

    async def test_lost_deliveries_come_first_and_beyond_the_limit(self, bench: Bench) -> None:
        await bench.put("a", "b", "c", "d", "e")
        worker = await bench.worker()
        await worker.lose_turn(limit=3)
        assert ids(await worker.claim(1)) == ["a", "b", "c"]
        assert ids(await worker.claim(9)) == ["d", "e"]

    async def test_lost_deliveries_come_even_if_nothing_is_claimed(self, bench: Bench) -> None:
        await bench.put("a")
        worker = await bench.worker()
        await worker.lose_turn(limit=1)
        assert ids(await worker.claim(0)) == ["a"]

    async def test_lost_deliveries_count_towards_the_limit(self, bench: Bench) -> None:
        await bench.put("a", "b", "c", "d", "e")
        worker = await bench.worker()
        await worker.lose_turn(limit=2)
        assert ids(await worker.claim(3)) == ["a", "b", "c"]

    async def test_lost_deliveries_come_whatever_queues_are_claimed_now(self, bench: Bench) -> None:
        await bench.put("a")
        worker = await bench.worker()
        await worker.lose_turn(limit=1)
        assert ids(await worker.claim(1, "other")) == ["a"]

    async def test_received_deliveries_do_not_come_again(self, bench: Bench) -> None:
        await bench.put("a", "b")
        worker = await bench.worker()
        a = await worker.claim_one()
        assert ids(await worker.claim()) == ["b"]
        assert ids(await worker.claim()) == []
        assert await worker.settle(Done("a", a.epoch)) == []

    async def test_only_what_was_lost_comes_again(self, bench: Bench) -> None:
        await bench.put("a", "b", "c")
        worker = await bench.worker()
        await worker.claim_one()
        await worker.lose_turn(limit=1)
        await worker.lose_turn(limit=2)
        assert ids(await worker.claim(0)) == ["b", "c"]

    async def test_what_was_lost_to_one_worker_does_not_come_to_another(self, bench: Bench) -> None:
        await bench.put("a")
        one, two = await bench.worker("w1"), await bench.worker("w2")
        await one.lose_turn(limit=1)
        assert ids(await two.claim()) == []
        assert ids(await one.claim()) == ["a"]

    async def test_a_lost_delivery_comes_with_its_trail_and_queue(self, bench: Bench) -> None:
        await bench.put("a")
        worker = await bench.worker()
        a = await worker.claim_one()
        await worker.settle(Again("a", a.epoch, TRAIL, queue="slow"))
        await worker.lose_turn(limit=1, queues=["slow"])
        [again] = await worker.claim(1)
        assert (again.job.queue, again.trail) == ("slow", TRAIL)

    async def test_repeated_outcomes_are_refused_and_change_nothing(self, bench: Bench) -> None:
        await bench.put("a", "b")
        worker = await bench.worker()
        a, b = await worker.claim()
        outcomes = (Again("a", a.epoch, TRAIL, delay=SOON), Done("b", b.epoch))
        assert list((await worker.lose_turn(*outcomes)).refused) == []
        assert await worker.settle(*outcomes) == [token(a), token(b)]
        bench.pass_time(SOON)
        assert (await worker.claim_one()).trail == TRAIL

    async def test_a_repeated_turn_brings_what_the_lost_one_claimed_and_no_more(self, bench: Bench) -> None:
        await bench.put("a", "b", "c", "d")
        worker = await bench.worker()
        first = await worker.claim(2)
        await worker.lose_turn(*done(*first), limit=1)
        turn = await worker.turn(*done(*first), limit=1)
        assert (ids(turn.deliveries), list(turn.refused)) == (["c"], [token(d) for d in first])

    async def test_a_job_put_back_and_claimed_in_a_lost_turn_survives_its_repetition(self, bench: Bench) -> None:
        await bench.put("a")
        worker = await bench.worker()
        a = await worker.claim_one()
        lost = await worker.lose_turn(Released("a", a.epoch), limit=1)
        turn = await worker.turn(Released("a", a.epoch), limit=1)
        assert [token(d) for d in turn.deliveries] == [token(d) for d in lost.deliveries]
        assert list(turn.refused) == [token(a)]
        assert await worker.settle(*done(*turn.deliveries)) == []

    async def test_lost_deliveries_survive_a_pause_in_the_lease(self, bench: Bench) -> None:
        bench.needs(Capability.LEASE)
        await bench.put("a")
        worker = await bench.worker()
        await worker.lose_turn(limit=1)
        bench.clock.advance(60)
        assert ids(await worker.claim()) == []
        await worker.beat()
        assert ids(await worker.claim()) == ["a"]

    async def test_a_lost_delivery_that_was_reclaimed_does_not_come_under_its_old_epoch(self, bench: Bench) -> None:
        bench.needs(Capability.LEASE)
        await bench.put("a")
        worker = await bench.worker()
        lost = await worker.lose_turn(limit=1)
        await bench.crash(worker)
        await worker.beat()
        [again] = await worker.claim()
        assert again.epoch > lost.deliveries[0].epoch
