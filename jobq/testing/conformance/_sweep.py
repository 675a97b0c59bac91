"""The upkeep."""

from jobq.broker import Capability
from jobq.testing.conformance._bench import PLENTY, Bench, Promises, ids, token


class SweepPromises(Promises):
    """`Broker.sweep`."""

    async def test_a_sweep_of_an_empty_namespace_does_nothing(self, bench: Bench) -> None:
        swept = await bench.broker.sweep("here", 10)
        assert (swept.next_due, swept.promoted, swept.reclaimed, swept.more, list(swept.peers)) == (
            None,
            0,
            0,
            False,
            [],
        )

    async def test_a_sweep_makes_due_jobs_ready(self, bench: Bench) -> None:
        bench.needs(Capability.CLOCK)
        await bench.put("a", "b", delay=5)
        await bench.put("c", delay=9)
        bench.clock.advance(5)
        swept = await bench.broker.sweep("here", 10)
        assert (swept.promoted, swept.more) == (2, False)
        assert swept.next_due is not None
        assert abs(swept.next_due - 4) < 0.001

    async def test_a_sweep_promotes_no_more_than_its_limit_and_says_that_there_is_more(self, bench: Bench) -> None:
        bench.needs(Capability.CLOCK)
        await bench.put("a", "b", "c", "d", "e", delay=5)
        bench.clock.advance(5)
        done = [await bench.broker.sweep("here", 2) for _ in range(3)]
        assert [(swept.promoted, swept.more) for swept in done] == [(2, True), (2, True), (1, False)]
        assert sorted(await (await bench.worker()).drain()) == ["a", "b", "c", "d", "e"]

    async def test_a_sweep_reclaims_no_more_than_its_limit_and_says_that_there_is_more(self, bench: Bench) -> None:
        bench.needs(Capability.LEASE)
        await bench.put("a", "b", "c", "d", "e")
        worker = await bench.worker(lease=10)
        await worker.claim()
        bench.clock.advance(10)
        done = [await bench.broker.sweep("here", 2) for _ in range(3)]
        assert [(swept.reclaimed, swept.more) for swept in done] == [(2, True), (2, True), (1, False)]
        assert await (await bench.worker("w2")).drain() == ["a", "b", "c", "d", "e"]

    async def test_promoting_and_reclaiming_share_the_limit(self, bench: Bench) -> None:
        bench.needs(Capability.LEASE)
        bench.needs(Capability.CLOCK)
        await bench.put("a", "b")
        await bench.put("c", "d", delay=5)
        worker = await bench.worker(lease=5)
        await worker.claim(2)
        bench.clock.advance(5)
        swept = await bench.broker.sweep("here", 3)
        assert (swept.promoted + swept.reclaimed, swept.more) == (3, True)
        swept = await bench.broker.sweep("here", 3)
        assert (swept.promoted + swept.reclaimed, swept.more) == (1, False)

    async def test_the_jobs_of_the_dead_are_reclaimed_at_once(self, bench: Bench) -> None:
        bench.needs(Capability.LEASE)
        await bench.put("a", "b")
        dead, living = await bench.worker("dead", lease=3600), await bench.worker("living", lease=3600)
        a, b = await dead.claim_one(), await living.claim_one()
        assert await bench.sweep(dead=["dead", "never seen"]) == 1
        again = await living.claim_one()
        assert (again.job.id, [crash.epoch for crash in again.crashes]) == ("a", [a.epoch])
        assert list((await living.beat(b, again)).lost) == []

    async def test_who_was_said_to_be_dead_has_no_lease(self, bench: Bench) -> None:
        bench.needs(Capability.LEASE)
        await bench.put("a")
        worker = await bench.worker("w1", lease=3600)
        await bench.sweep(dead=["w1"])
        assert not (await worker.turn(limit=1)).leased

    async def test_who_was_said_to_be_dead_and_is_not_comes_back_with_a_heartbeat(self, bench: Bench) -> None:
        bench.needs(Capability.LEASE)
        await bench.put("a")
        worker = await bench.worker("w1", lease=3600)
        a = await worker.claim_one()
        await bench.sweep(dead=["w1"])
        assert list((await worker.beat(a)).lost) == [token(a)]
        again = await worker.claim_one()
        assert (again.job.id, again.crashes) == ("a", ())

    async def test_who_was_said_to_be_dead_twice_takes_back_two_crashes_of_a_job_at_once(self, bench: Bench) -> None:
        bench.needs(Capability.LEASE)
        await bench.put("a")
        worker = await bench.worker("w1", lease=3600)
        first = await worker.claim_one()
        await bench.sweep(dead=["w1"])
        await worker.beat()
        second = await worker.claim_one()
        await bench.sweep(dead=["w1"])
        assert set((await worker.beat(second, first)).lost) == {token(first), token(second)}
        assert (await worker.claim_one(suspects=True)).crashes == ()

    async def test_a_sweep_names_the_live_workers_of_the_host(self, bench: Bench) -> None:
        bench.needs(Capability.LEASE)
        for name in ("w1", "w2"):
            await bench.worker(name, lease=30)
        await bench.worker("short", lease=5)
        await bench.worker("far", host="elsewhere")
        bench.clock.advance(5)
        assert sorted((await bench.broker.sweep("here", 10)).peers) == ["w1", "w2"]
        assert list((await bench.broker.sweep("elsewhere", 10)).peers) == ["far"]
        assert list((await bench.broker.sweep("nowhere", 10)).peers) == []

    async def test_workers_whose_jobs_wait_to_be_reclaimed_are_no_longer_peers(self, bench: Bench) -> None:
        bench.needs(Capability.LEASE)
        await bench.put("a", "b")
        worker = await bench.worker("w1", lease=5)
        await worker.claim()
        bench.clock.advance(5)
        swept = await bench.broker.sweep("here", 1)
        assert (swept.reclaimed, list(swept.peers)) == (1, [])

    async def test_many_workers_die_at_once(self, bench: Bench) -> None:
        bench.needs(Capability.LEASE)
        names = [f"{number:03}" for number in range(100)]
        await bench.put(*names)
        for name in names:
            await (await bench.worker(f"w{name}", lease=10)).claim_one()
        bench.clock.advance(10)
        swept = await bench.broker.sweep("here", PLENTY)
        assert (swept.reclaimed, swept.more, list(swept.peers)) == (100, False, [])
        assert sorted(await (await bench.worker()).drain()) == names

    async def test_a_second_sweep_finds_nothing_more_to_do(self, bench: Bench) -> None:
        bench.needs(Capability.LEASE)
        await bench.put("a", "b")
        worker = await bench.worker(lease=10)
        await worker.claim()
        bench.clock.advance(10)
        other = await bench.connect()
        assert (await bench.broker.sweep("here", 10)).reclaimed == 2
        assert (await other.sweep("here", 10)).reclaimed == 0
        again = await (await bench.worker("w2")).claim()
        assert [len(delivery.crashes) for delivery in again] == [1, 1]

    async def test_a_partly_swept_worker_may_still_settle_the_rest(self, bench: Bench) -> None:
        bench.needs(Capability.LEASE)
        await bench.put("a", "b")
        worker = await bench.worker(lease=10)
        deliveries = {delivery.job.id: delivery for delivery in await worker.claim()}
        bench.clock.advance(10)
        await bench.broker.sweep("here", 1)
        [reclaimed] = ids(await (await bench.worker("w2")).claim())
        [rest] = deliveries.keys() - {reclaimed}
        lost = (await worker.beat(*deliveries.values())).lost
        assert list(lost) == [token(deliveries[reclaimed])]
        assert await bench.sweep() == 0
        assert rest in deliveries
