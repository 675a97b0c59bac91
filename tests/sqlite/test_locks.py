"""Locks of others, calls that share a transaction, and ends that come at a bad time."""

import asyncio
import sqlite3
import threading
from collections.abc import Awaitable
from pathlib import Path

import pytest

from jobq.errors import BrokerFull, BrokerUnavailable
from jobq.model import Again, Dead, Done, Released, Trail, WorkerInfo
from jobq_sqlite import SqliteBroker
from jobq_sqlite import _open as opening
from jobq_sqlite import _writer as writing
from jobq_sqlite._found import Found
from jobq_sqlite._sql import Tx
from tests.sqlite.tools import claim, done, fetch, job, put, raw, stamp, turn, url_of


async def test_a_foreign_writer_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    async with SqliteBroker(url_of(path)) as broker:
        with raw(path) as db:
            db.execute("BEGIN IMMEDIATE")
            task = asyncio.ensure_future(put(broker, "a"))
            await asyncio.wait([task], timeout=0.3)
            assert not task.done()
            db.execute("COMMIT")
        await task
        assert len(await fetch(broker)) == 1


async def test_a_foreign_writer_that_stays_is_an_error_in_the_end(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    async with SqliteBroker(url_of(path, "?timeout=0.1")) as broker:
        with raw(path) as db:
            db.execute("BEGIN IMMEDIATE")
            results = await asyncio.gather(put(broker, "a"), put(broker, "b"), return_exceptions=True)
            db.execute("COMMIT")
        for result in results:
            assert isinstance(result, BrokerUnavailable)
            assert "another process has been writing to it for 0.1 s" in str(result)
        assert await fetch(broker) == []
        await put(broker, "a")


async def test_leaving_does_not_wait_long_for_the_lock_of_somebody_else(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    with raw(path) as db:
        async with SqliteBroker(url_of(path, "?timeout=60")) as broker:
            db.execute("BEGIN IMMEDIATE")
            calls = [asyncio.ensure_future(put(broker, name)) for name in "ab"]
            await asyncio.wait(calls, timeout=0.1)
            leaving = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - leaving < 1.9
        db.execute("COMMIT")
    for result in await asyncio.gather(*calls, return_exceptions=True):
        assert isinstance(result, BrokerUnavailable)


async def test_a_turn_that_is_stored_and_then_cannot_be_read_is_not_stored_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch_once, failed = Found.fetch, list[str]()

    def locked_at_first(self: Found, tx: Tx, worker: str, received: int) -> None:
        if not failed:
            failed.append(worker)
            busy = sqlite3.OperationalError("database is locked")
            busy.sqlite_errorcode = sqlite3.SQLITE_BUSY
            raise busy
        fetch_once(self, tx, worker, received)

    async with SqliteBroker(url_of(tmp_path / "jobs.db")) as broker:
        await put(broker, "a", "b")
        (a,) = await claim(broker, 1)
        monkeypatch.setattr(Found, "fetch", locked_at_first)
        answer = await turn(broker, (done(a),), 1)
        assert failed
        assert not answer.refused
        assert [delivery.job.id for delivery in answer.deliveries] == ["b"]


async def test_a_locked_file_cannot_be_opened(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    with raw(path) as db:
        db.execute("BEGIN EXCLUSIVE")
        with pytest.raises(BrokerUnavailable, match="locked"):
            await SqliteBroker(url_of(path, "?timeout=0.1")).__aenter__()
        db.execute("COMMIT")


async def test_an_idle_worker_neither_locks_nor_writes(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    async with SqliteBroker(url_of(path, "?timeout=0.1")) as broker:
        await put(broker, "later")
        held = await claim(broker)
        await broker.enqueue([job("tomorrow", delay=86400)], stamp())
        with raw(path) as db:
            db.execute("BEGIN IMMEDIATE")  # whoever wants to write has to wait for this one
            answer = await turn(broker, (), 10)
            assert answer.deliveries == ()
            assert answer.next_due == pytest.approx(86400, abs=60)
            swept = await broker.sweep("h", 100)
            assert (swept.promoted, swept.reclaimed, swept.more, swept.peers) == (0, 0, False, ["w"])
            await broker.wait(["default"], 0.01)
            db.execute("COMMIT")
        await turn(broker, (done(held[0]),), 0)


async def test_the_log_is_small_again_after_a_long_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, log, limit = tmp_path / "jobs.db", tmp_path / "jobs.db-wal", 1 << 20
    monkeypatch.setattr(writing, "WAL_LIMIT", limit)
    monkeypatch.setattr(writing, "_IDLE", 0.01)
    async with SqliteBroker(url_of(path, "?synchronous=off")) as broker:
        with raw(path) as db:
            db.execute("BEGIN")
            db.execute("SELECT count(*) FROM jobs").fetchone()
            for number in range(20):
                await broker.enqueue([job(str(number), size=200_000)], stamp())
            assert log.stat().st_size > limit
            db.execute("COMMIT")
        async with asyncio.timeout(10):
            while log.stat().st_size > limit:
                await asyncio.sleep(0.01)


async def test_calls_that_wait_share_a_transaction_and_not_their_errors(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    async with SqliteBroker(url_of(path)) as broker:
        with raw(path) as db:
            db.execute("BEGIN IMMEDIATE")
            first = asyncio.ensure_future(put(broker, "first"))
            await asyncio.wait([first], timeout=0.1)
            waiting: list[Awaitable[object]] = [
                asyncio.ensure_future(turn(broker, (), 1, queue="\ud800")),
                *(asyncio.ensure_future(put(broker, str(number))) for number in range(50)),
                asyncio.ensure_future(broker.enqueue([job("x"), job("\ud800")], stamp())),
            ]
            await asyncio.wait([first], timeout=0.1)
            db.execute("COMMIT")
            await first
            results = await asyncio.gather(*waiting, return_exceptions=True)
        expected = [UnicodeEncodeError, *[type(None)] * 50, UnicodeEncodeError]
        assert [type(result) for result in results] == expected
        assert len(await fetch(broker)) == 51


async def test_a_cancelled_caller_does_not_stop_its_call(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    async with SqliteBroker(url_of(path)) as broker:
        with raw(path) as db:
            db.execute("BEGIN IMMEDIATE")
            tasks = [asyncio.ensure_future(put(broker, name)) for name in "abc"]
            await asyncio.wait(tasks, timeout=0.1)
            tasks[1].cancel()
            await asyncio.wait([tasks[1]])
            db.execute("COMMIT")
        await asyncio.gather(tasks[0], tasks[2])
        assert [delivery.job.id for delivery in await fetch(broker)] == ["a", "b", "c"]


async def test_closing_finishes_what_was_called(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    async with SqliteBroker(url_of(path)) as broker:
        tasks = [asyncio.ensure_future(put(broker, str(number))) for number in range(20)]
        await asyncio.sleep(0)
    await asyncio.gather(*tasks)
    async with SqliteBroker(url_of(path)) as broker:
        assert len(await fetch(broker)) == 20
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("jobq-sqlite")]


async def test_a_cancelled_entry_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    with raw(path) as db:
        db.execute("BEGIN EXCLUSIVE")
        broker = SqliteBroker(url_of(path))
        task = asyncio.ensure_future(broker.__aenter__())
        await asyncio.wait([task], timeout=0.1)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        db.execute("COMMIT")
    async with broker:
        await put(broker, "a")
    async with asyncio.timeout(10):
        while any(thread.name.startswith("jobq-sqlite") for thread in threading.enumerate()):
            await asyncio.sleep(0.01)


async def test_a_full_disk_stores_nothing_and_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pragmas = (*opening._PRAGMAS, "PRAGMA max_page_count = 60")
    monkeypatch.setattr(opening, "_PRAGMAS", pragmas)
    async with SqliteBroker(url_of(tmp_path / "jobs.db")) as broker:
        await put(broker, "a")
        many = [job(f"many-{number}", size=1000) for number in range(500)]
        with pytest.raises(BrokerFull, match="no room"):
            await broker.enqueue(many, stamp())
        results = await asyncio.gather(
            *(put(broker, "b"), broker.enqueue(many, stamp()), put(broker, "c")), return_exceptions=True
        )
        assert [type(result) for result in results] == [type(None), BrokerFull, type(None)]
        deliveries = await claim(broker)
        assert [delivery.job.id for delivery in deliveries] == ["a", "b", "c"]
        assert not (await turn(broker, tuple(map(done, deliveries)), 0)).refused


async def test_two_busy_workers_and_a_client_do_not_starve_each_other(tmp_path: Path) -> None:
    url, total = url_of(tmp_path / "jobs.db", "?synchronous=off&timeout=2"), 2000
    async with SqliteBroker(url) as client, SqliteBroker(url) as one, SqliteBroker(url) as two:
        seen: list[str] = []

        async def work(broker: SqliteBroker, worker: str) -> None:
            await broker.heartbeat(WorkerInfo(id=worker, host="h"), (), 60)
            outcomes: tuple[Done, ...] = ()
            while len(seen) < total:
                answer = await turn(broker, outcomes, 7, worker=worker)
                outcomes = tuple(map(done, answer.deliveries))
                seen.extend(delivery.job.id for delivery in answer.deliveries)
            assert not (await turn(broker, outcomes, 0, worker=worker)).refused

        async with asyncio.TaskGroup() as group:
            group.create_task(work(one, "one"))
            group.create_task(work(two, "two"))
            for start in range(0, total, 20):
                await put(client, *map(str, range(start, start + 20)))
        assert sorted(map(int, seen)) == list(range(total))


async def test_mixed_outcomes_of_many_jobs(tmp_path: Path) -> None:
    async with SqliteBroker(url_of(tmp_path / "jobs.db", "?synchronous=off")) as broker:
        for start in range(0, 3000, 1000):
            await put(broker, *map(str, range(start, start + 1000)))
        held = await claim(broker, 3000)
        outcomes = [
            (done(d), Again(d.job.id, d.epoch, Trail(attempt=1)), Dead(d.job.id, d.epoch, Trail()))[number % 3]
            for number, d in enumerate(held)
        ]
        strange = Released("7", held[8].epoch)
        answer = await turn(broker, (*outcomes, strange, outcomes[0]), 3000)
        assert [token.id for token in answer.refused] == ["7", "0"]
        again = await turn(broker, (), 3000)
        assert again.deliveries == ()
        assert [int(d.job.id) for d in await fetch(broker)] == list(range(2998, 0, -3))
