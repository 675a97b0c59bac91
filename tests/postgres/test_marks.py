"""While a snapshot is held for long, no dead row can be cleared away; claims take no longer, and pass over nobody."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from importlib import import_module
from typing import Any, Final

import pytest

from jobq.model import Again, Claim, Delivery, Done, Job, Released, Stamp, Trail, Turn, WorkerInfo
from jobq.testing import ManualClock
from jobq_postgres import PostgresBroker, _marks, _records, _schema
from jobq_postgres._marks import Marks
from jobq_postgres._records import TurnCall, moment
from tests.core.bench import until
from tests.servers import Server
from tests.services import POSTGRES

asyncpg: Any = import_module("asyncpg")
pytestmark = pytest.mark.timeout(120)

BATCH: Final = 100
PASSED: Final = """
SELECT pg_stat_get_xact_tuples_returned('jobq.ready'::regclass)
    + pg_stat_get_xact_tuples_returned('jobq.scheduled'::regclass)
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(POSTGRES) as server:  # of its own: a snapshot holds up the cleaning of a whole database
        yield server


class Bench:
    """A worker without a loop, whose clock and marks a test can see."""

    def __init__(self, connection: Any, broker: PostgresBroker, clock: ManualClock) -> None:
        self._connection = connection
        self._done: list[Done] = []
        self._resume = 0
        self._number = 0
        self.broker = broker
        self.clock = clock
        self.marks = Marks(clock)

    async def store(self, *jobs: Job) -> None:
        self._number += 1
        await self.broker.enqueue(jobs, Stamp("c", self._number))

    async def turn(self, *outcomes: Again | Released, limit: int = BATCH) -> Turn:
        """Finish what the last turn claimed, but for what `outcomes` are about, and claim."""
        named = {outcome.id for outcome in outcomes}
        call = self._call([*outcomes, *(done for done in self._done if done.id not in named)], limit)
        known = self.marks.known()
        rows = await self._fetch(*call.args(moment(self.clock), known, self.marks.ceiling()))
        turn = call.read(rows)
        self.marks.learn(known, ["q"], *rows[-1][-3:])
        self._done = [Done(delivery.job.id, delivery.epoch) for delivery in turn.deliveries]
        self._resume = max(self._resume, turn.resume)
        return turn

    async def passed(self) -> int:
        """How many entries of the indexes of ready and scheduled jobs a turn passes, which claims nothing."""
        args = self._call([], BATCH).args(moment(self.clock), self.marks.known(), self.marks.ceiling())
        async with self._connection.transaction():
            before = await self._connection.fetchval(PASSED)
            await self._fetch(*args)
            return int(await self._connection.fetchval(PASSED) - before)

    async def churn(self, turns: int) -> None:
        """Run so many batches of jobs, half of which were scheduled."""
        for _ in range(turns):
            names = [f"churn-{self._number}-{n}" for n in range(BATCH // 2)]
            await self.store(*(Job(id=name, task="t", queue="q") for name in names))
            await self.store(*(Job(id=f"{name}-due", task="t", queue="q", delay=0.05) for name in names))
            self.clock.advance(0.1)
            await self.turn()
        await self.turn()

    async def mark(self) -> None:
        """Have everything marked that is there, and taken."""
        self.clock.advance(60)
        while self.marks.known() is None:
            await self.turn()
        await self.turn()
        self.clock.advance(2)
        await self.turn()

    async def ids(self, limit: int = BATCH) -> list[str]:
        return [delivery.job.id for delivery in (await self.turn(limit=limit)).deliveries]

    async def _fetch(self, *args: object) -> Any:
        return await self._connection.fetch(_schema.quoted("jobq", _records.TURN), *args)

    def _call(self, outcomes: list[Any], limit: int) -> TurnCall:
        return TurnCall(outcomes, Claim("w", ["q"], limit, suspects=True, resume=self._resume), 0)


@pytest.fixture
async def bench(server: Server) -> AsyncIterator[Bench]:
    connection = await asyncpg.connect(server.url)
    await connection.execute("DROP SCHEMA IF EXISTS jobq CASCADE")
    clock = ManualClock()
    async with PostgresBroker(server.url, clock=clock) as broker:
        await broker.heartbeat(WorkerInfo(id="w", host="h"), [], 600)
        yield Bench(connection, broker, clock)
    await connection.close()


@pytest.fixture
async def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every look is slow."""
    monkeypatch.setattr(_marks, "_SLOW", -1.0)


async def test_while_a_snapshot_is_held_a_turn_passes_little_of_what_was_done_since(
    server: Server, bench: Bench
) -> None:
    holder = await asyncpg.connect(server.url)
    async with holder.transaction(isolation="repeatable_read"):
        await holder.fetchval("SELECT count(*) FROM jobq.jobs")
        await bench.churn(60)
        while bench.marks.known() is None:
            await bench.churn(20)
        await bench.mark()
        assert await bench.passed() < 10
        bench.clock.advance(60)
        assert bench.marks.known() is None
        assert await bench.passed() >= 60 * BATCH  # what it would be without
    await holder.close()


@pytest.mark.usefixtures("always")
async def test_whatever_becomes_ready_is_found_beyond_the_marks_in_its_order(bench: Bench) -> None:
    await bench.churn(2)
    await bench.store(*(Job(id=name, task="t", queue="q") for name in ("again", "released", "late")))
    first = {delivery.job.id: delivery for delivery in (await bench.turn()).deliveries}
    await bench.turn(
        Again("again", first["again"].epoch, Trail(), 0.0), Released("released", first["released"].epoch), limit=0
    )
    await bench.mark()
    assert await bench.ids() == []
    await bench.store(*(Job(id=f"p{n}", task="t", queue="q", priority=n) for n in range(5)))
    await bench.store(Job(id="due", task="t", queue="q", priority=4, delay=0.2))
    await bench.store(Job(id="past", task="t", queue="q", priority=4, delay=0.0))
    bench.clock.advance(0.2)
    assert bench.marks.known() is not None
    assert await bench.ids(limit=4) == ["due", "past", "p4", "p3"]
    assert await bench.ids() == ["p2", "p1", "p0"]


@pytest.mark.usefixtures("always")
async def test_what_a_worker_gave_back_comes_again_beyond_the_marks(bench: Bench) -> None:
    await bench.churn(2)
    await bench.mark()
    await bench.store(*(Job(id=name, task="t", queue="q") for name in ("again", "released", "other")))
    held = (await bench.turn()).deliveries
    again, released, _ = held
    found = (
        await bench.turn(Again("again", again.epoch, Trail(), 0.0), Released("released", released.epoch))
    ).deliveries
    assert [delivery.job.id for delivery in found] == ["released", "again"]
    assert bench.marks.known() is not None


@pytest.mark.usefixtures("always")
async def test_suspects_are_found_beyond_the_marks_one_at_a_time(bench: Bench) -> None:
    await bench.churn(2)
    await bench.mark()
    names = ["one", "two"]
    await bench.store(*(Job(id=name, task="t", queue="q") for name in names))
    for round_ in range(2):
        worker = WorkerInfo(id=f"doomed-{round_}", host="h")
        await bench.broker.heartbeat(worker, [], 600)
        held: list[Delivery] = []
        while len(held) < len(names):
            claim = Claim(worker.id, ["q"], 1, suspects=True, resume=max((d.epoch for d in held), default=0))
            held += (await bench.broker.turn([], claim)).deliveries
        await bench.broker.sweep("h", 100, [worker.id])
    assert bench.marks.known() is not None
    assert len(await bench.ids()) == 1
    assert len(await bench.ids()) == 1
    assert await bench.ids() == []


@pytest.mark.usefixtures("always")
async def test_a_backlog_below_the_marks_is_taken_in_its_order(bench: Bench) -> None:
    await bench.churn(2)
    await bench.mark()
    names = [f"job-{number:03}" for number in range(250)]
    await bench.store(*(Job(id=name, task="t", queue="q") for name in names))
    found = list[str]()
    while some := await bench.ids(limit=20):
        found += some
        bench.clock.advance(0.4)
    assert found == names


@pytest.mark.usefixtures("always")
async def test_a_job_that_was_stored_long_before_its_transaction_committed_is_found_within_seconds(
    server: Server, bench: Bench
) -> None:
    connection = await asyncpg.connect(server.url)
    async with connection.transaction():
        (late,) = await bench.broker.transactions.join(connection).enqueue([Job(id="late", task="t", queue="q")])
        await bench.churn(2)
        await bench.mark()
        assert await bench.ids() == []
    assert await bench.ids() == []  # which is what this costs
    bench.clock.advance(5)
    assert await bench.ids() == [late.id]
    await connection.close()


@pytest.mark.usefixtures("always")
async def test_who_sleeps_looks_for_a_job_that_was_committed_late(server: Server) -> None:
    clock = ManualClock()
    connection = await asyncpg.connect(server.url)
    async with PostgresBroker(f"{server.url}?schema=sleeper&notify=no", clock=clock) as broker:
        await broker.heartbeat(WorkerInfo(id="w", host="h"), [], 600)

        resume = 0

        async def claim() -> list[str]:
            nonlocal resume
            turn = await broker.turn([], Claim("w", ["q"], 10, resume=resume))
            resume = max(resume, turn.resume)
            return [delivery.job.id for delivery in turn.deliveries]

        async with connection.transaction():
            await broker.transactions.join(connection).enqueue([Job(id="late", task="t", queue="q")])
            await broker.enqueue([Job(id="early", task="t", queue="q")], Stamp("c", 1))
            found = list[str]()
            for _ in range(8):
                found += await claim()
                clock.advance(0.6)
            assert found == ["early"]
        assert await claim() == []
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(broker.wait(["q"], 60))
            while not waiting.done():
                await until(lambda: clock.sleeping or waiting.done())  # while the server is asked, time stands still
                await clock.run(0.5)
        assert clock.monotonic() < 12
        assert await claim() == ["late"]
    await connection.close()


def test_marks_are_for_when_looking_is_slow_three_times_in_a_row_and_last_five_seconds() -> None:
    clock = ManualClock()
    marks = Marks(clock)
    for looked in (1.0, 1.0, 0.00001, 1.0, 1.0):
        marks.learn(None, ["q"], looked, None, None)
        assert marks.known() is None
    marks.learn(None, ["q"], 0.01, None, 1024)
    assert marks.known() is not None
    clock.advance(4.9)
    assert marks.known() is not None
    clock.advance(0.2)
    assert marks.known() is None
    marks.learn(None, ["q"], 0.00001, None, None)
    assert marks.known() is None


def test_the_slower_a_look_the_longer_marks_last() -> None:
    clock = ManualClock()
    marks = Marks(clock)
    for _ in range(3):
        marks.learn(None, ["q"], 0.1, None, None)
    clock.advance(9.9)
    assert marks.known() is not None
    clock.advance(0.2)
    assert marks.known() is None


def test_turns_that_overlap_take_no_mark_back_and_an_answer_from_before_brings_none() -> None:
    clock = ManualClock()
    marks = Marks(clock)
    for _ in range(3):
        marks.learn(None, ["q"], 1.0, None, None)
    first = marks.known()
    assert first is not None
    marks.learn(first, ["q"], None, [0, 0, 2048, 0, 0, 0, 7], 4096)
    marks.learn(first, ["q"], None, [0, 0, 1024, 9, 0, 0, 5], 4096)
    assert first.flat(["q", "other"]) == [0, 0, 2048, 9, 0, 0, 0, 0, 0, 0, 0, 0, 7]
    marks.learn(None, ["q"], 0.0, None, None)  # began before there were any
    assert marks.known() is first
    clock.advance(100)
    assert marks.known() is None
    marks.learn(first, ["q"], None, [9, 9, 9, 9, 9, 9, 9], 4096)
    assert marks.known() is None


def test_no_mark_may_be_above_places_that_were_drawn_in_the_last_second() -> None:
    clock = ManualClock()
    marks = Marks(clock)
    assert marks.ceiling() == 0
    for number in range(1, 40):
        marks.learn(None, ["q"], 1.0, None, number)
        assert marks.ceiling() <= max(0, number - 10)
        assert marks.ceiling() >= number - 16
        clock.advance(0.1)
