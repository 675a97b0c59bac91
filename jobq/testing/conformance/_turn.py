"""What a turn claims."""

from itertools import pairwise

from jobq.broker import Capability
from jobq.model import Done, WorkerInfo
from jobq.testing.conformance._bench import Bench, Hand, Promises, done, ids


class TurnPromises(Promises):
    """`Broker.turn`, the claims."""

    async def test_a_claimed_job_is_not_claimed_again(self, bench: Bench) -> None:
        await bench.put("a")
        one, two = await bench.worker("w1"), await bench.worker("w2")
        assert ids(await one.claim()) == ["a"]
        assert ids(await two.claim()) == []
        assert ids(await one.claim()) == []

    async def test_no_more_jobs_are_claimed_than_asked_for(self, bench: Bench) -> None:
        await bench.put("a", "b", "c", "d")
        worker = await bench.worker()
        assert ids(await worker.claim(3)) == ["a", "b", "c"]
        assert ids(await worker.claim(3)) == ["d"]

    async def test_a_limit_of_zero_claims_nothing(self, bench: Bench) -> None:
        await bench.put("a")
        worker = await bench.worker()
        assert ids(await worker.claim(0)) == []
        assert ids(await worker.claim()) == ["a"]

    async def test_without_queues_nothing_is_claimed(self, bench: Bench) -> None:
        await bench.put("a")
        worker = await bench.worker()
        assert ids((await worker.turn(limit=5, queues=())).deliveries) == []
        assert ids(await worker.claim()) == ["a"]

    async def test_what_a_worker_leaves_when_it_claims_no_more_comes_to_others_without_a_crash(
        self, bench: Bench
    ) -> None:
        await bench.put("a", "b", "c")
        one = await bench.worker("w1", broker=await bench.connect())
        a = await one.claim_one()
        await one.turn(queues=())
        rest = await (await bench.worker("w2")).claim(least=2)
        assert [(delivery.job.id, delivery.crashes) for delivery in rest] == [("b", ()), ("c", ())]
        assert await one.settle(*done(a)) == []

    async def test_an_unknown_queue_is_an_empty_one(self, bench: Bench) -> None:
        await bench.put("a")
        worker = await bench.worker()
        assert ids(await worker.claim(5, "nobody ever used this", "default")) == ["a"]

    async def test_an_empty_turn_says_that_the_worker_has_its_lease(self, bench: Bench) -> None:
        turn = await (await bench.worker()).turn(limit=5)
        assert (list(turn.deliveries), list(turn.refused), turn.next_due, turn.leased) == ([], [], None, True)

    async def test_nothing_is_claimed_before_the_first_heartbeat(self, bench: Bench) -> None:
        await bench.put("a")
        stranger = Hand(bench.broker, WorkerInfo(id="stranger", host="here"))
        turn = await stranger.turn(limit=5)
        assert (list(turn.deliveries), turn.leased) == ([], False)
        await stranger.beat()
        assert ids(await stranger.claim()) == ["a"]

    async def test_nothing_is_claimed_after_the_end_of_the_lease(self, bench: Bench) -> None:
        bench.needs(Capability.LEASE)
        await bench.put("a")
        worker = await bench.worker(lease=30)
        bench.clock.advance(30)
        turn = await worker.turn(limit=5)
        assert (list(turn.deliveries), turn.leased) == ([], False)
        assert await (await bench.worker("w2")).drain() == ["a"]

    async def test_one_turn_settles_and_claims(self, bench: Bench) -> None:
        await bench.put("a", "b")
        worker = await bench.worker()
        first = await worker.claim_one()
        turn = await worker.turn(*done(first), limit=1)
        assert (ids(turn.deliveries), list(turn.refused)) == (["b"], [])

    async def test_every_claim_has_a_higher_epoch_than_all_before(self, bench: Bench) -> None:
        bench.needs(Capability.FENCE)
        await bench.put("a", "b", "c", "d", queue="one")
        await bench.put("e", "f", queue="two")
        one = await bench.worker("w1")
        two = await bench.worker("w2", broker=await bench.connect())
        epochs = [delivery.epoch for delivery in await one.claim(2, "one")]
        epochs += [delivery.epoch for delivery in await two.claim(3, "one", "two")]
        epochs += [delivery.epoch for delivery in await one.claim(3, "one", "two")]
        assert len(epochs) == 6
        assert all(earlier < later for earlier, later in pairwise(epochs))
        assert epochs[0] > 0

    async def test_a_job_that_is_claimed_again_gets_a_higher_epoch(self, bench: Bench) -> None:
        bench.needs(Capability.FENCE)
        await bench.put("a")
        worker = await bench.worker()
        first = await worker.claim_one()
        await bench.crash(worker)
        assert (await (await bench.worker()).claim_one()).epoch > first.epoch

    async def test_epochs_go_on_growing_when_all_brokers_were_closed_in_between(self, bench: Bench) -> None:
        bench.needs(Capability.FENCE)
        await bench.put("a", "b")
        async with bench.unopened() as broker:
            worker = await bench.worker(broker=broker)
            first = await worker.claim_one()
            await worker.settle(Done("a", first.epoch))
        async with bench.unopened() as broker:
            second = await (await bench.worker(broker=broker)).claim_one()
        assert second.epoch > first.epoch

    async def test_one_worker_may_use_several_broker_objects(self, bench: Bench) -> None:
        bench.needs(Capability.LEASE)
        await bench.put("a")
        worker = await bench.worker()
        delivery = await worker.claim_one()
        other = Hand(await bench.connect(), worker.info)
        other.received = worker.received
        assert await other.settle(Done("a", delivery.epoch)) == []

    async def test_a_turn_with_many_outcomes_stores_them_all(self, bench: Bench) -> None:
        names = [f"{number}" for number in range(1000)]
        await bench.put(*names)
        worker = await bench.worker()
        assert await worker.drain() == names
        await bench.put("last")
        await worker.claim_one()
        await bench.crash(worker)
        assert await (await bench.worker("w2")).drain(least=1) == ["last"]
