"""What becomes of a job that is settled."""

from jobq.model import (
    HISTORY_LIMIT,
    Again,
    Cancelled,
    Dead,
    Delivery,
    Done,
    Event,
    Failure,
    Happening,
    Released,
    Trail,
)
from jobq.testing.conformance._bench import SOON, Bench, Hand, Promises, ids

TRAIL = Trail(
    attempt=3,
    parked=1_700_000_000.25,
    failure=Failure("ValueError", "não 'gut' \" \\ \n ✓", "Traceback …\n  File"),
    history=tuple(
        Event(at=1_700_000_000.5 + number, what=what, worker="w1", detail="d" * number)
        for number, what in zip(range(HISTORY_LIMIT), [*Happening] * 3, strict=False)
    ),
)


async def held(bench: Bench, *names: str) -> tuple[Hand, list[Delivery]]:
    """A worker that holds these jobs."""
    await bench.put(*names)
    worker = await bench.worker()
    return worker, list(await worker.claim())


class OutcomePromises(Promises):
    """`Broker.turn`, the outcomes."""

    async def test_a_done_job_is_gone(self, bench: Bench) -> None:
        worker, [a, _] = await held(bench, "a", "b")
        assert await worker.settle(Done("a", a.epoch)) == []
        await bench.crash(worker)
        assert await (await bench.worker("w2")).drain(least=1) == ["b"]

    async def test_a_result_may_come_with_it(self, bench: Bench) -> None:
        worker, [a] = await held(bench, "a")
        assert await worker.settle(Done("a", a.epoch, b'{"big":"' + b"x" * 100_000 + b'"}')) == []

    async def test_a_cancelled_job_is_gone(self, bench: Bench) -> None:
        worker, [a, _] = await held(bench, "a", "b")
        assert await worker.settle(Cancelled("a", a.epoch, TRAIL)) == []
        await bench.crash(worker)
        assert await (await bench.worker("w2")).drain(least=1) == ["b"]

    async def test_a_dead_job_is_not_claimed_again(self, bench: Bench) -> None:
        worker, [a, b, _] = await held(bench, "a", "b", "c")
        assert await worker.settle(Dead("a", a.epoch, TRAIL), Dead("b", b.epoch, TRAIL, keep=False)) == []
        await bench.crash(worker)
        assert await (await bench.worker("w2")).drain(least=1) == ["c"]

    async def test_a_retried_job_comes_again_with_its_trail(self, bench: Bench) -> None:
        worker, [a] = await held(bench, "a")
        assert await worker.settle(Again("a", a.epoch, TRAIL)) == []
        again = await worker.claim_one()
        assert (again.job, again.trail) == (a.job, TRAIL)
        assert again.epoch > a.epoch

    async def test_a_trail_comes_back_after_a_delay_too(self, bench: Bench) -> None:
        worker, [a] = await held(bench, "a")
        await worker.settle(Again("a", a.epoch, TRAIL, delay=SOON))
        bench.pass_time(SOON)
        assert (await worker.claim_one()).trail == TRAIL

    async def test_each_retry_replaces_the_trail(self, bench: Bench) -> None:
        worker, [a] = await held(bench, "a")
        await worker.settle(Again("a", a.epoch, TRAIL))
        again = await worker.claim_one()
        await worker.settle(Again("a", again.epoch, Trail()))
        assert (await worker.claim_one()).trail == Trail()

    async def test_a_released_job_keeps_its_trail(self, bench: Bench) -> None:
        worker, [a] = await held(bench, "a")
        await worker.settle(Again("a", a.epoch, TRAIL))
        again = await worker.claim_one()
        await worker.settle(Released("a", again.epoch))
        assert (await worker.claim_one()).trail == TRAIL

    async def test_a_release_is_no_crash(self, bench: Bench) -> None:
        worker, [a] = await held(bench, "a")
        await worker.settle(Released("a", a.epoch))
        delivery = await worker.claim_one()
        assert (delivery.trail, delivery.crashes) == (Trail(), ())

    async def test_a_retry_may_go_to_another_queue(self, bench: Bench) -> None:
        worker, [a] = await held(bench, "a")
        await worker.settle(Again("a", a.epoch, TRAIL, queue="slow"))
        assert ids(await worker.claim()) == []
        assert (await worker.claim_one("slow")).job.queue == "slow"

    async def test_a_retry_with_a_delay_may_go_to_another_queue(self, bench: Bench) -> None:
        worker, [a] = await held(bench, "a")
        await worker.settle(Again("a", a.epoch, TRAIL, delay=SOON, queue="slow"))
        bench.pass_time(SOON)
        assert (await worker.claim_one("slow")).job.queue == "slow"
        assert ids(await worker.claim()) == []

    async def test_a_job_stays_in_the_queue_it_was_moved_to(self, bench: Bench) -> None:
        worker, [a] = await held(bench, "a")
        await worker.settle(Again("a", a.epoch, TRAIL, queue="slow"))
        slow = await worker.claim_one("slow")
        await worker.settle(Released("a", slow.epoch, delay=SOON))
        bench.pass_time(SOON)
        slow = await worker.claim_one("slow")
        await bench.crash(worker)
        worker = await bench.worker("w2")
        assert (await worker.claim_one("slow")).job.queue == "slow"
        assert ids(await worker.claim()) == []

    async def test_outcomes_of_different_kinds_go_into_one_turn(self, bench: Bench) -> None:
        worker, [a, b, c, d, e, f] = await held(bench, "a", "b", "c", "d", "e", "f")
        turn = await worker.turn(
            Done("a", a.epoch),
            Again("b", b.epoch, TRAIL, delay=SOON),
            Dead("c", c.epoch, TRAIL),
            Cancelled("d", d.epoch),
            Released("e", e.epoch),
            Again("f", f.epoch, TRAIL, queue="slow"),
            limit=10,
        )
        assert (ids(turn.deliveries), list(turn.refused)) == (["e"], [])
        assert await worker.drain("slow") == ["f"]
        bench.pass_time(SOON)
        assert await worker.drain(least=1) == ["b"]

    async def test_what_is_put_back_can_be_claimed_in_the_same_turn(self, bench: Bench) -> None:
        worker, [a] = await held(bench, "a")
        turn = await worker.turn(Again("a", a.epoch, TRAIL), limit=1)
        [again] = turn.deliveries
        assert (again.job.id, again.trail) == ("a", TRAIL)
        assert again.epoch > a.epoch
