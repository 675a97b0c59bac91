"""Jobs whose workers keep dying."""

from jobq.broker import Capability
from jobq.model import SUSPECT_AFTER, Again, Delivery, Released
from jobq.testing.conformance._bench import SOON, Bench, Hand, Promises, done, ids


class SuspectPromises(Promises):
    """A job that was held through `SUSPECT_AFTER` crashes is claimed only by who asks for suspects."""

    async def test_a_suspect_is_claimed_only_if_suspects_are_asked_for(self, bench: Bench) -> None:
        lost = await make_suspects(bench, "a")
        worker = await bench.worker()
        assert ids(await worker.claim()) == []
        suspect = await worker.claim_one(suspects=True)
        assert suspect.job.id == "a"
        bench.assert_charged(suspect, *lost["a"])

    async def test_one_crash_makes_no_suspect(self, bench: Bench) -> None:
        await bench.put("a")
        worker = await bench.worker()
        await worker.claim_one()
        await bench.crash(worker)
        assert await (await bench.worker()).drain(least=1) == ["a"]

    async def test_there_is_at_most_one_suspect_in_a_turn(self, bench: Bench) -> None:
        await make_suspects(bench, "a", "b")
        await bench.put("c", queue="other")
        worker = await bench.worker()
        first = await worker.claim(9, "default", "other", suspects=True, least=2)
        assert len(first) == 2
        await worker.settle(*done(*first))
        second = await worker.claim(9, "default", "other", suspects=True, least=1)
        assert sorted(ids([*first, *second])) == ["a", "b", "c"]

    async def test_a_suspect_that_was_lost_on_the_way_is_the_one_of_the_repeated_turn(self, bench: Bench) -> None:
        await make_suspects(bench, "a", "b")
        await bench.put("c")
        worker = await bench.worker()
        await worker.lose_turn(limit=1, suspects=True)
        suspect, other = ids(await worker.claim(3, suspects=True))
        assert (suspect in {"a", "b"}, other) == (True, "c")

    async def test_a_suspect_comes_with_others_and_within_the_limit(self, bench: Bench) -> None:
        await make_suspects(bench, "a")
        await bench.put("b", "c")
        assert ids(await (await bench.worker()).claim(2, suspects=True)) == ["a", "b"]

    async def test_suspects_stay_in_their_queue(self, bench: Bench) -> None:
        await make_suspects(bench, "a")
        worker = await bench.worker()
        assert ids(await worker.claim(9, "other", suspects=True)) == []
        assert ids(await worker.claim(9, "other", "default", suspects=True)) == ["a"]

    async def test_a_released_suspect_is_a_suspect_still(self, bench: Bench) -> None:
        await make_suspects(bench, "a")
        worker = await bench.worker()
        suspect = await worker.claim_one(suspects=True)
        await worker.settle(Released("a", suspect.epoch))
        assert ids(await worker.claim()) == []
        suspect = await worker.claim_one(suspects=True)
        await worker.settle(Released("a", suspect.epoch, delay=SOON))
        bench.pass_time(SOON)
        assert ids(await worker.claim()) == []
        assert (await worker.claim_one(suspects=True)).job.id == "a"

    async def test_a_suspect_whose_worker_dies_is_charged_with_that_too(self, bench: Bench) -> None:
        lost = await make_suspects(bench, "a")
        worker = await bench.worker("one more victim")
        third = await worker.claim_one(suspects=True)
        await bench.crash(worker)
        back = await (await bench.worker()).claim_one(suspects=True)
        bench.assert_charged(back, *lost["a"], third)

    async def test_a_suspect_that_is_done_is_gone(self, bench: Bench) -> None:
        await make_suspects(bench, "a")
        worker = await bench.worker()
        await worker.settle(*done(await worker.claim_one(suspects=True)))
        await bench.put("a")
        assert (await worker.claim_one()).crashes == ()

    async def test_a_limit_of_zero_claims_no_suspect(self, bench: Bench) -> None:
        await make_suspects(bench, "a")
        assert ids(await (await bench.worker()).claim(0, suspects=True)) == []


async def make_suspects(bench: Bench, *names: str) -> dict[str, list[Delivery]]:
    """Let these jobs crash `SUSPECT_AFTER` times; the deliveries of each that were lost."""
    lost: dict[str, list[Delivery]] = {name: [] for name in names}
    await bench.put(*names)
    for number in range(SUSPECT_AFTER):
        worker = await bench.worker(f"victim {number}")
        for delivery in await worker.claim(least=len(names)):
            lost[delivery.job.id].append(delivery)
        await bench.crash(worker)
    if not bench.has(Capability.LEASE):
        await _come_back(await bench.worker(), len(names))
    return lost


async def _come_back(worker: Hand, count: int) -> None:
    """Wait until a server has noticed that a connection is gone, and these suspects can be claimed.

    Each goes to the end of its queue, since a broker may have no other for who holds one.
    """
    for _ in range(count):
        suspect = await worker.claim_one(suspects=True)
        await worker.settle(Again(suspect.job.id, suspect.epoch, suspect.trail))
