"""What is kept of a dead job, and what is not."""

import asyncio
from pathlib import Path

from jobq.codec import decode_crashes, decode_job, decode_trail
from jobq.model import Again, Dead, Event, Failure, Happening, Trail
from jobq_sqlite import SqliteBroker
from tests.sqlite.tools import claim, job, put, raw, stamp, turn, url_of

TRAIL = Trail(2, None, Failure("ValueError", "no", "…"), (Event(1.0, Happening.DEAD, "w"),))
COLUMNS = "SELECT id, queue, envelope, trail, crashes, died FROM dead"


async def test_a_dead_job_keeps_its_envelope_trail_and_crashes_byte_for_byte(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    async with SqliteBroker(url_of(path)) as broker:
        await broker.enqueue([job("a", queue="q", size=10)], stamp())
        with raw(path) as db:
            (envelope,) = db.execute("SELECT envelope FROM jobs").fetchone()
        [lost] = await claim(broker, queue="q")
        await broker.sweep("h", 10, dead=["w"])
        [found] = await claim(broker, queue="q")
        await turn(broker, (Dead("a", found.epoch, TRAIL),), 0)
        with raw(path) as db:
            [(name, queue, kept, trail, crashes, died)] = db.execute(COLUMNS).fetchall()
            assert db.execute("SELECT count(*) FROM jobs").fetchone() == (0,)
    assert (name, queue, kept) == ("a", "q", envelope)
    assert decode_job(kept).body == job("a", size=10).body
    assert decode_trail(trail) == TRAIL
    assert [crash.epoch for crash in decode_crashes(crashes)] == [lost.epoch]
    assert died > 1.7e9


async def test_what_cannot_be_read_is_dead_with_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    async with SqliteBroker(url_of(path)) as broker:
        with raw(path) as db:
            db.execute(
                "INSERT INTO jobs (id, queue, priority, lane, pos, envelope) VALUES ('a', 'default', 2, 2, 1, ?)",
                (b"\xff\x00garbage",),
            )
        [found] = await claim(broker)
        assert found.malformed
        await turn(broker, (Dead("a", found.epoch, TRAIL),), 0)
        with raw(path) as db:
            assert db.execute("SELECT envelope FROM dead").fetchall() == [(b"\xff\x00garbage",)]


async def test_what_is_no_job_and_not_even_text_is_put_back_byte_by_byte(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    async with SqliteBroker(url_of(path)) as broker:
        with raw(path) as db:
            db.execute("INSERT INTO dead (id, queue, died, envelope) VALUES (CAST(x'ff41' AS TEXT), 'q', 5, x'ff00')")
            db.execute("INSERT INTO dead (id, queue, died, envelope, trail) VALUES ('b', 'q', 6, 'text', 'garbage')")
        odd, text = await broker.dead_letters.peek("q", 10)
        assert (odd.envelope, odd.died, text.envelope) == (b"\xff\x00", 5, b"text")
        assert odd.malformed
        assert await broker.dead_letters.replay("q") == 2
        with raw(path) as db:
            rows = db.execute("SELECT hex(id), priority, CAST(envelope AS BLOB) FROM jobs ORDER BY n").fetchall()
        assert rows == [("FF41", 2, b"\xff\x00"), ("62", 2, b"text")]
        assert len(await claim(broker, queue="q")) == 2


async def test_a_long_replay_takes_many_short_transactions_and_no_job_twice(tmp_path: Path) -> None:
    async with SqliteBroker(url_of(tmp_path / "jobs.db")) as broker:
        names = [f"{number:04}" for number in range(900)]
        await put(broker, *names)
        found = await claim(broker)
        await turn(broker, tuple(Dead(one.job.id, one.epoch, TRAIL) for one in found), 0)
        replay = asyncio.ensure_future(broker.dead_letters.replay("default"))
        died = 0
        while died < len(names):
            again = await claim(broker, 100)
            died += len(again)
            await turn(broker, tuple(Dead(one.job.id, one.epoch, one.trail) for one in again), 0)
        assert await replay == len(names)
        assert await broker.dead_letters.count("default") == len(names)
        for dead in await broker.dead_letters.pop("default", 100):
            assert [event.what for event in dead.trail.history] == [Happening.DEAD, Happening.REPLAYED]
        assert await broker.dead_letters.purge("default") == len(names) - 100


async def test_a_dead_job_that_is_not_to_be_kept_leaves_nothing_alone_and_beside_others(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    async with SqliteBroker(url_of(path)) as broker:
        await broker.enqueue([job(name) for name in "abcd"], stamp())
        epochs = {delivery.job.id: delivery.epoch for delivery in await claim(broker)}
        await turn(broker, (Dead("a", epochs["a"], TRAIL, keep=False),), 0)
        mixed = (
            Dead("b", epochs["b"], TRAIL, keep=False),
            Dead("c", epochs["c"], TRAIL),
            Again("d", epochs["d"], TRAIL),
        )
        await turn(broker, mixed, 0)
        with raw(path) as db:
            assert db.execute("SELECT id FROM dead").fetchall() == [("c",)]
            assert db.execute("SELECT id FROM jobs").fetchall() == [("d",)]
