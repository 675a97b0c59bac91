"""Who does not hold a job cannot write about it."""

from msgspec.structs import replace

from jobq.broker import Capability
from jobq.model import Again, Cancelled, Crash, Dead, Delivery, Done, Outcome, Released, Token, Trail
from jobq.testing.conformance._bench import SOON, Bench, Hand, Promises, done, ids, token

TRAIL = Trail(attempt=1)


def writes(job_id: str, epoch: int) -> list[Outcome]:
    """Every kind of outcome, about one token."""
    return [
        Done(job_id, epoch),
        Again(job_id, epoch, TRAIL),
        Again(job_id, epoch, TRAIL, delay=5, queue="elsewhere"),
        Dead(job_id, epoch, TRAIL),
        Dead(job_id, epoch, TRAIL, keep=False),
        Cancelled(job_id, epoch),
        Released(job_id, epoch),
        Released(job_id, epoch, delay=2),
    ]


async def unharmed(bench: Bench, worker: Hand, delivery: Delivery) -> None:
    """Check that `worker` still holds `delivery`: it comes back, once, when its worker is gone."""
    await bench.crash(worker)
    witness = await bench.worker("witness")
    [back] = await witness.claim(9, "default", "elsewhere", least=1)
    assert (back.job, back.trail) == (delivery.job, delivery.trail)
    bench.assert_charged(back, delivery)


class FencePromises(Promises):
    """Refused outcomes."""

    async def test_an_outcome_with_another_epoch_is_refused(self, bench: Bench) -> None:
        await bench.put("a")
        worker = await bench.worker()
        a = await worker.claim_one()
        for epoch in (a.epoch - 1, a.epoch + 1, 0, -1):
            for outcome in writes("a", epoch):
                assert await worker.settle(outcome) == [Token("a", epoch)]
        await unharmed(bench, worker, a)

    async def test_an_outcome_for_a_job_that_never_was_is_refused(self, bench: Bench) -> None:
        worker = await bench.worker()
        for outcome in writes("nothing", 1):
            assert await worker.settle(outcome) == [Token("nothing", 1)]
        assert await worker.drain("default", "elsewhere") == []

    async def test_an_outcome_for_a_job_that_was_not_claimed_is_refused(self, bench: Bench) -> None:
        await bench.put("a")
        await bench.put("b", delay=SOON)
        worker = await bench.worker()
        for outcome in [*writes("a", 1), *writes("b", 1), *writes("a", 0), *writes("b", 0)]:
            assert await worker.settle(outcome) == [Token(outcome.id, outcome.epoch)]
        assert (await worker.claim_one("default", "elsewhere")).job.id == "a"
        bench.pass_time(SOON)
        assert (await worker.claim_one("default", "elsewhere")).job.id == "b"
        assert await worker.drain("default", "elsewhere") == []

    async def test_a_second_outcome_for_one_claim_is_refused(self, bench: Bench) -> None:
        await bench.put("a")
        worker = await bench.worker()
        a = await worker.claim_one()
        assert await worker.settle(Done("a", a.epoch)) == []
        for outcome in writes("a", a.epoch):
            assert await worker.settle(outcome) == [token(a)]
        assert await worker.drain("default", "elsewhere") == []

    async def test_a_second_outcome_in_one_turn_is_refused(self, bench: Bench) -> None:
        await bench.put("a")
        worker = await bench.worker()
        a = await worker.claim_one()
        assert await worker.settle(Released("a", a.epoch), Done("a", a.epoch)) == [token(a)]
        assert await worker.drain() == ["a"]

    async def test_another_worker_cannot_settle_it(self, bench: Bench) -> None:
        await bench.put("a")
        holder, other = await bench.worker("w1"), await bench.worker("w2")
        a = await holder.claim_one()
        for outcome in writes("a", a.epoch):
            assert await other.settle(outcome) == [token(a)]
        assert await holder.settle(Done("a", a.epoch)) == []

    async def test_an_outcome_from_before_a_retry_is_refused(self, bench: Bench) -> None:
        await bench.put("a")
        worker = await bench.worker()
        old = await worker.claim_one()
        await worker.settle(Again("a", old.epoch, TRAIL))
        new = await worker.claim_one()
        for outcome in writes("a", old.epoch):
            assert await worker.settle(outcome) == [token(old)]
        await unharmed(bench, worker, new)

    async def test_an_outcome_from_before_the_id_was_used_again_is_refused(self, bench: Bench) -> None:
        await bench.put("a")
        worker = await bench.worker()
        old = await worker.claim_one()
        await worker.settle(Done("a", old.epoch))
        await bench.put("a")
        new = await worker.claim_one()
        for outcome in writes("a", old.epoch):
            assert await worker.settle(outcome) == [token(old)]
        await unharmed(bench, worker, new)

    async def test_an_outcome_from_before_a_reclaim_is_refused(self, bench: Bench) -> None:
        bench.needs(Capability.LEASE | Capability.FENCE)
        for number, kind in enumerate(writes("a", 0)):
            name = f"a{number}"
            await bench.put(name)
            zombie = await bench.worker("zombie")
            old = await zombie.claim_one()
            await bench.crash(zombie)
            heir = await bench.worker("heir")
            new = await heir.claim_one()
            assert await zombie.settle(replace(kind, id=name, epoch=old.epoch)) == [token(old)]
            assert await heir.settle(Done(name, new.epoch)) == []

    async def test_refused_outcomes_do_not_hurt_the_others(self, bench: Bench) -> None:
        await bench.put("a", "b", "c")
        worker = await bench.worker()
        a, b, c = await worker.claim()
        await worker.settle(Done("b", b.epoch))
        refused = await worker.settle(
            Done("nothing", 1), Done("a", a.epoch), Done("b", b.epoch), Done("c", c.epoch + 9), Done("c", c.epoch)
        )
        assert refused == [Token("nothing", 1), token(b), Token("c", c.epoch + 9)]
        await bench.put("d")
        await bench.crash(worker)
        assert await (await bench.worker("w2")).drain() == ["d"]

    async def test_a_refused_turn_claims_all_the_same(self, bench: Bench) -> None:
        await bench.put("a")
        worker = await bench.worker()
        turn = await worker.turn(Done("nothing", 1), limit=5)
        assert (ids(turn.deliveries), list(turn.refused)) == (["a"], [Token("nothing", 1)])

    async def test_a_late_outcome_takes_the_crash_back(self, bench: Bench) -> None:
        bench.needs(Capability.LEASE)
        await bench.put("a", "b")
        late = await bench.worker("late")
        a, b = await late.claim()
        await bench.crash(late)
        assert await late.settle(*done(a)) == [token(a)]
        heir = await bench.worker("heir")
        again_a, again_b = await heir.claim()
        assert again_a.crashes == ()
        assert [crash.epoch for crash in again_b.crashes] == [b.epoch]

    async def test_a_late_outcome_takes_back_its_own_crash_only(self, bench: Bench) -> None:
        bench.needs(Capability.LEASE)
        await bench.put("a")
        crashed = list[tuple[Delivery, float]]()
        for name in ("w1", "w2"):
            worker = await bench.worker(name)
            crashed.append((await worker.claim_one(), bench.clock.time() + 1))
            await bench.crash(worker)
        (first, _), (second, at) = crashed
        late = await bench.worker("w1")
        assert await late.settle(Done("a", first.epoch)) == [token(first)]
        suspect = await late.claim_one(suspects=True)
        assert suspect.crashes == (Crash(second.epoch, at, "w2"),)
