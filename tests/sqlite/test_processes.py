"""Several processes on one file, some of which die."""

import asyncio
import signal
import sqlite3
import sys
import threading
from pathlib import Path
from subprocess import PIPE, Popen

import pytest

from jobq_sqlite import SqliteBroker
from jobq_sqlite._inotify import FileWatch, watch
from jobq_sqlite._watch import Watcher
from tests.sqlite.tools import CHILD, child, fetch, line_of, raw, url_of

GUARD = 20
PROMPT = 2
"""Seconds. It takes a few milliseconds."""
DELETED = 0x400


async def read_line(process: "Popen[str]") -> str:
    return await asyncio.get_running_loop().run_in_executor(None, line_of, process)


def cannot_watch(path: str, event: int) -> None:
    del path, event


def sees_no_writes(path: str, event: int) -> FileWatch | None:
    del event
    return watch(path, DELETED)


async def enqueuer(url: str) -> tuple[asyncio.subprocess.Process, asyncio.StreamWriter, asyncio.StreamReader]:
    """Another process that stores the job "a" when a line is written to it, and then says so."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(CHILD), "enqueue_one", url, "a"), stdin=PIPE, stdout=PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert await process.stdout.readline() == b"open\n"
    return process, process.stdin, process.stdout


@pytest.mark.parametrize("how", ["by all means", "by the ring alone", "by polling"])
async def test_a_job_of_another_process_wakes_a_sleeper(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    if how == "by the ring alone":
        monkeypatch.setattr("jobq_sqlite._watch.watch", sees_no_writes)
        monkeypatch.setattr("jobq_sqlite._watch._SLOW_POLL", GUARD)
    elif how == "by polling":
        monkeypatch.setattr("jobq_sqlite._watch.watch", cannot_watch)
    url = url_of(tmp_path / "jobs.db")
    async with SqliteBroker(url) as broker, asyncio.timeout(GUARD):
        process, ask, _ = await enqueuer(url)
        sleeper = asyncio.ensure_future(broker.wait(["default"], 60))
        await asyncio.wait([sleeper], timeout=0.1)
        assert not sleeper.done()
        ask.write(b"\n")
        async with asyncio.timeout(PROMPT):
            await sleeper
        assert [delivery.job.id for delivery in await fetch(broker)] == ["a"]
        assert await process.wait() == 0


async def test_a_job_that_is_stored_while_a_sleeper_looks_for_one_is_rung_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobq_sqlite._watch.watch", sees_no_writes)
    monkeypatch.setattr("jobq_sqlite._watch._SLOW_POLL", GUARD)
    looked, armed, looking, stored = (threading.Event() for _ in range(4))
    look = Watcher._look

    def look_slowly(self: Watcher, db: sqlite3.Connection, *, everybody: bool) -> None:
        look(self, db, everybody=everybody)
        looked.set()
        if armed.is_set() and self._sleepers:
            armed.clear()
            looking.set()
            stored.wait(GUARD)

    monkeypatch.setattr(Watcher, "_look", look_slowly)
    url = url_of(tmp_path / "jobs.db")
    async with SqliteBroker(url) as broker, asyncio.timeout(GUARD):
        process, ask, answer = await enqueuer(url)
        await broker.wait(["default"], 0.1)
        assert broker._watcher is not None
        looked.clear()
        broker._watcher._poke()  # nobody is there any more
        assert await asyncio.to_thread(looked.wait, GUARD)
        armed.set()
        sleeper = asyncio.ensure_future(broker.wait(["default"], 60))
        assert await asyncio.to_thread(looking.wait, GUARD)
        ask.write(b"\n")
        assert await answer.readline() == b"stored\n"
        assert not sleeper.done()
        stored.set()
        async with asyncio.timeout(PROMPT):
            await sleeper
        assert await process.wait() == 0


async def test_a_write_by_somebody_who_does_not_ring_wakes_a_sleeper(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    async with SqliteBroker(url_of(path)) as broker, asyncio.timeout(GUARD):
        sleeper = asyncio.ensure_future(broker.wait(["default"], 60))
        await asyncio.wait([sleeper], timeout=0.1)
        assert not sleeper.done()
        with raw(path) as db:
            db.execute(
                "INSERT INTO jobs (id, queue, priority, lane, pos, envelope) VALUES ('a', 'default', 2, 2, 1, x'')"
            )
        async with asyncio.timeout(PROMPT):
            await sleeper
        assert [delivery.job.id for delivery in await fetch(broker)] == ["a"]


async def test_what_was_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    stored: set[str] = set()
    for number in range(10):
        with child("enqueue_for_ever", url_of(path), f"c{number}") as process:
            for _ in range(5 + 3 * number):
                stored.update((await read_line(process)).split())
            process.send_signal(signal.SIGKILL)
            process.wait()
    with raw(path) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        there = {name for (name,) in db.execute("SELECT id FROM jobs")}
    assert stored <= there
    async with SqliteBroker(url_of(path)) as broker:
        found = {delivery.job.id for delivery in await fetch(broker)}
    assert found == there


async def test_a_killed_worker_leaves_each_job_held_or_gone(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    settled: list[str] = []
    with child("enqueue_for_ever", url_of(path), "client") as client:
        for number in range(5):
            with child("work_for_ever", url_of(path), f"w{number}") as process:
                for _ in range(5 + number):
                    settled.extend((await read_line(process)).split())
                process.send_signal(signal.SIGKILL)
                process.wait()
        client.send_signal(signal.SIGKILL)
        client.wait()
    assert len(settled) == len(set(settled))
    with raw(path) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        left = {name for (name,) in db.execute("SELECT id FROM jobs")}
        held = [count for (count,) in db.execute("SELECT count(*) FROM jobs WHERE epoch IS NOT NULL GROUP BY worker")]
    assert not left & set(settled)
    assert all(count <= 5 for count in held)


async def test_a_fork_gets_a_clear_error_and_hurts_nobody(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    with child("fork", url_of(path)) as process:
        lines = [await read_line(process) for _ in range(3)]
        assert process.wait() == 0
    assert "Open the broker after forking" in lines[0]
    assert lines[0] == lines[1]
    assert lines[2] == "the parent goes on"
    async with SqliteBroker(url_of(path)) as broker:
        assert [delivery.job.id for delivery in await fetch(broker)] == ["before", "after"]
