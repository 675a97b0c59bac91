"""What can be done with dead jobs."""

import asyncio
from collections.abc import Sequence
from typing import Final

import pytest

from jobq.broker import Broker, Capability, DeadLetters
from jobq.clock import SYSTEM_CLOCK
from jobq.errors import JobqError
from jobq.model import MAX_PEEK, Again, Dead, DeadJob, Event, Failure, Happening, Released, Trail
from jobq.testing.conformance._bench import GUARD, SOON, Bench, Hand, Promises, ids, job

RETRIED: Final = Event(1_700_000_000.5, Happening.RETRIED, "w1", "ValueError: no")
DIED: Final = Event(1_700_000_001.5, Happening.DEAD, "w1", "ValueError: não")
TRAIL: Final = Trail(3, 1_700_000_000.25, Failure("ValueError", "não", "Traceback …"), (RETRIED, DIED))
_AROUND: Final = 5.0
_MOMENT: Final = 0.01
"""Seconds between two deaths: a broker may tell them apart by the clock."""


def letters_of(bench: Bench) -> DeadLetters:
    """The facet; a broker without it is named, and its tests are skipped."""
    letters = bench.broker.dead_letters
    if letters is None:
        pytest.skip(f"{type(bench.broker).__name__} has no dead_letters")
    return letters


async def bury(bench: Bench, *names: str, queue: str = "default", trail: Trail = TRAIL) -> Hand:
    """Let these jobs die in this order, in the hands of the worker that is returned."""
    worker = await bench.worker("undertaker")
    for name in names:
        await bench.put(name, queue=queue)
        found = await worker.claim_one(queue)
        assert await worker.settle(Dead(name, found.epoch, trail)) == []
        bench.pass_time(_MOMENT)
    return worker


async def bury_all(bench: Bench, names: Sequence[str]) -> Hand:
    """Let these jobs die at once, in the hands of the worker that is returned."""
    await bench.put(*names)
    worker = await bench.worker("undertaker")
    found = await worker.claim(least=len(names))
    assert await worker.settle(*(Dead(delivery.job.id, delivery.epoch, TRAIL) for delivery in found)) == []
    return worker


async def asleep(broker: Broker) -> None:
    """Return when a wait lasts as long as it may: what was hinted at before is used up."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(GUARD):
        began = loop.time()
        while True:
            await broker.wait(["default"], _MOMENT)
            if loop.time() - began >= _MOMENT:
                return
            began = loop.time()


def names_of(jobs: Sequence[DeadJob]) -> list[str]:
    return [dead.id for dead in jobs]


class DeadLetterPromises(Promises):
    """`Broker.dead_letters`."""

    async def test_dead_jobs_are_counted_by_queue(self, bench: Bench) -> None:
        letters = letters_of(bench)
        assert await letters.count("default") == 0
        await bury(bench, "a", "b")
        await bury(bench, "c", queue="mail")
        assert [await letters.count(queue) for queue in ("default", "mail", "other")] == [2, 1, 0]

    async def test_a_look_shows_what_is_known_of_a_dead_job_and_leaves_it(self, bench: Bench) -> None:
        letters = letters_of(bench)
        given = job("a", queue="mail", priority=4, headers={"x": "é"}, created=5.0)
        await bench.enqueue(given)
        worker = await bench.worker()
        found = await worker.claim_one("mail")
        before = bench.now()
        await worker.settle(Dead("a", found.epoch, TRAIL))
        for _ in range(2):
            [dead] = await letters.peek("mail", 10)
            assert (dead.job, dead.trail, dead.crashes, dead.malformed) == (given, TRAIL, (), None)
            assert (dead.id, dead.task, dead.queue, dead.error) == ("a", "t", "mail", "ValueError: não")
            assert b'"headers":{"x":"\xc3\xa9"}' in dead.envelope
            assert dead.died is not None
            if bench.has(Capability.CLOCK):
                assert before - _AROUND < dead.died < bench.now() + _AROUND

    async def test_the_first_to_die_is_shown_first_up_to_the_limit(self, bench: Bench) -> None:
        letters = letters_of(bench)
        await bury(bench, "c", "a", "b")
        assert names_of(await letters.peek("default", 2)) == ["c", "a"]
        assert names_of(await letters.peek("default", MAX_PEEK)) == ["c", "a", "b"]

    async def test_what_is_replayed_begins_anew_with_its_history(self, bench: Bench) -> None:
        letters = letters_of(bench)
        worker = await bury(bench, "a")
        assert await letters.replay("default") == 1
        again = await worker.claim_one()
        assert (again.job, again.crashes) == (job("a"), ())
        assert (again.trail.attempt, again.trail.parked, again.trail.failure) == (0, None, TRAIL.failure)
        *before, replayed = again.trail.history
        assert (before, replayed.what) == ([RETRIED, DIED], Happening.REPLAYED)
        assert abs(replayed.at - bench.now()) < _AROUND
        assert await letters.count("default") == 0

    async def test_a_job_that_killed_its_workers_is_innocent_when_it_is_replayed(self, bench: Bench) -> None:
        letters_of(bench)
        await bench.put("a")
        for number in range(2):
            victim = await bench.worker(f"victim{number}")
            await victim.claim_one(suspects=True)
            await bench.crash(victim)
        worker = await bench.worker()
        lost = await worker.claim_one(suspects=True)
        await worker.settle(Dead("a", lost.epoch, Trail()))
        letters = letters_of(bench)  # the broker is another, where its connection was the lease
        [dead] = await letters.peek("default", 1)
        assert len(dead.crashes) == 2
        await letters.replay("default")
        again = await (await bench.worker("w9")).claim_one(suspects=False)
        assert again.crashes == ()
        assert [event.what for event in again.trail.history] == [*[Happening.CRASHED] * 2, Happening.REPLAYED]

    async def test_some_may_be_replayed_the_first_to_die_first(self, bench: Bench) -> None:
        letters = letters_of(bench)
        worker = await bury(bench, "c", "a", "b")
        assert await letters.replay("default", 2) == 2
        assert await worker.drain(least=2) == ["c", "a"]
        assert names_of(await letters.peek("default", 10)) == ["b"]

    async def test_one_may_be_replayed_by_its_id(self, bench: Bench) -> None:
        letters = letters_of(bench)
        worker = await bury(bench, "a", "b", "c")
        await bury(bench, "d", queue="mail")
        assert await letters.replay("default", ids=["b", "d", "unknown"]) == 1
        assert await letters.replay("default", ids=[]) == 0
        assert await worker.drain(least=1) == ["b"]
        assert names_of(await letters.peek("default", 10)) == ["a", "c"]

    async def test_more_are_replayed_than_one_look_shows(self, bench: Bench) -> None:
        letters = letters_of(bench)
        names = [f"{number:03}" for number in range(2 * MAX_PEEK + 5)]
        worker = await bury_all(bench, names)
        assert await letters.replay("default", ids=names[-2:]) == 2
        assert await letters.replay("default", MAX_PEEK + 1) == MAX_PEEK + 1
        assert await letters.replay("default") == len(names) - MAX_PEEK - 3
        assert sorted(await worker.drain(least=len(names))) == names

    async def test_a_job_goes_back_to_the_queue_that_it_died_in(self, bench: Bench) -> None:
        letters = letters_of(bench)
        await bench.put("a")
        worker = await bench.worker()
        await worker.settle(Again("a", (await worker.claim_one()).epoch, TRAIL, queue="slow"))
        await worker.settle(Dead("a", (await worker.claim_one("slow")).epoch, TRAIL))
        assert [await letters.count(queue) for queue in ("default", "slow")] == [0, 1]
        await letters.replay("slow")
        assert (await worker.claim_one("slow")).job.queue == "slow"

    async def test_a_replayed_job_keeps_its_priority_and_waits_behind_those_before_it(self, bench: Bench) -> None:
        bench.needs(Capability.ORDER)
        letters = letters_of(bench)
        await bench.put("high", priority=4)
        await bench.put("low", priority=0)
        worker = await bench.worker()
        for found in await worker.claim():
            await worker.settle(Dead(found.job.id, found.epoch, TRAIL))
            bench.pass_time(_MOMENT)
        await bench.put("first", priority=0)
        await bench.put("second", priority=4)
        await letters.replay("default")
        assert await worker.drain() == ["second", "high", "first", "low"]

    async def test_a_replay_wakes_who_waits(self, bench: Bench) -> None:
        letters = letters_of(bench)
        broker = await bench.connect(SYSTEM_CLOCK)
        await (await bury(bench, "a")).beat(lease=0)  # it wants no more jobs
        worker = await bench.worker(broker=broker)
        assert ids(await worker.claim()) == []
        await asleep(broker)
        waiting = asyncio.ensure_future(broker.wait(["default"], 3 * GUARD))
        await asyncio.wait([waiting], timeout=_MOMENT)
        await letters.replay("default")
        async with asyncio.timeout(GUARD):
            await waiting

    async def test_two_replays_at_once_put_back_each_job_once(self, bench: Bench) -> None:
        letters = letters_of(bench)
        other = (await bench.connect()).dead_letters
        assert other is not None
        names = [f"{number:02}" for number in range(70)]
        worker = await bury_all(bench, names)
        counts = await asyncio.gather(letters.replay("default"), other.replay("default"))
        assert sum(counts) == len(names)
        assert sorted(await worker.drain(least=len(names))) == names

    async def test_what_dies_again_can_be_replayed_again(self, bench: Bench) -> None:
        letters = letters_of(bench)
        worker = await bury(bench, "a")
        for rounds in (1, 2):
            assert await letters.replay("default") == 1
            again = await worker.claim_one()
            assert [event.what for event in again.trail.history].count(Happening.REPLAYED) == rounds
            await worker.settle(Dead("a", again.epoch, again.trail))
        assert await letters.count("default") == 1

    async def test_a_replayed_job_is_one_like_any_other(self, bench: Bench) -> None:
        letters = letters_of(bench)
        worker = await bury(bench, "a")
        await letters.replay("default")
        found = await worker.claim_one()
        await worker.settle(Released("a", found.epoch, delay=SOON))
        bench.pass_time(SOON)
        back = await worker.claim_one()
        assert (back.job, back.trail) == (found.job, found.trail)
        await worker.settle(Again("a", back.epoch, TRAIL))
        assert (await worker.claim_one()).trail == TRAIL

    async def test_what_is_popped_is_shown_and_gone(self, bench: Bench) -> None:
        letters = letters_of(bench)
        worker = await bury(bench, "a", "b", "c")
        [first] = await letters.pop("default", 1)
        assert (first.job, first.trail) == (job("a"), TRAIL)
        assert names_of(await letters.pop("default", 10)) == ["b", "c"]
        assert list(await letters.pop("default", 10)) == []
        assert await letters.count("default") == await letters.replay("default") == 0
        assert ids(await worker.claim()) == []

    async def test_a_purge_deletes_the_dead_of_one_queue_and_nothing_else(self, bench: Bench) -> None:
        letters = letters_of(bench)
        worker = await bury(bench, "a", "b")
        await bury(bench, "c", queue="mail")
        await bench.put("d")
        assert await letters.purge("default") == 2
        assert await letters.purge("default") == await letters.purge("unknown") == 0
        assert await letters.count("mail") == 1
        assert await worker.drain(least=1) == ["d"]

    async def test_what_is_not_kept_is_not_there(self, bench: Bench) -> None:
        letters = letters_of(bench)
        await bench.put("a")
        worker = await bench.worker()
        found = await worker.claim_one()
        await worker.settle(Dead("a", found.epoch, TRAIL, keep=False))
        assert list(await letters.peek("default", 10)) == []

    async def test_enqueuing_the_id_of_a_dead_job_takes_its_place(self, bench: Bench) -> None:
        bench.needs(Capability.IDS)
        letters = letters_of(bench)
        worker = await bury(bench, "a", "b")
        await bench.put("a")
        assert names_of(await letters.peek("default", 10)) == ["b"]
        assert (await worker.claim_one()).trail == Trail()

    async def test_the_dead_of_a_closed_broker_cannot_be_reached(self, bench: Bench) -> None:
        letters_of(bench)
        broker = bench.unopened()
        async with broker:
            letters = broker.dead_letters
        assert letters is not None
        for call in (letters.count, letters.replay, letters.purge):
            with pytest.raises(JobqError):
                await call("default")
        for look in (letters.peek, letters.pop):
            with pytest.raises(JobqError):
                await look("default", 1)
