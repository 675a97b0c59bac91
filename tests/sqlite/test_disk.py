"""When what was answered is on the disk."""

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from jobq.errors import OutcomeUnknown
from jobq.model import Claim
from jobq_sqlite import SqliteBroker
from jobq_sqlite import _log as log
from tests.core.bench import until
from tests.sqlite.tools import WORKER, claim, done, fetch, job, put, raw, stamp, turn, url_of


class Disk:
    """Counts what is brought to the disk, or fails to, or waits until it may."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.synced = 0
        self.fails = False
        self.open = threading.Event()
        self.open.set()
        self._real: Callable[[int], None] = log._sync
        monkeypatch.setattr(log, "_sync", self._sync)

    def _sync(self, fd: int) -> None:
        assert Path(f"/proc/self/fd/{fd}").readlink().name.endswith("-wal")
        self.open.wait(10)
        if self.fails:
            raise OSError(5, "Input/output error")
        self._real(fd)
        self.synced += 1


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


async def synced(disk: Disk, count: int) -> None:
    await until(lambda: disk.synced >= count)


async def test_an_enqueue_is_answered_when_it_is_on_the_disk(tmp_path: Path, disk: Disk) -> None:
    async with SqliteBroker(url_of(tmp_path / "jobs.db")) as broker:
        disk.open.clear()
        enqueue = asyncio.ensure_future(put(broker, "a"))
        await asyncio.wait([enqueue], timeout=0.2)
        assert not enqueue.done()
        disk.open.set()
        await enqueue
        assert disk.synced == 1


async def test_a_turn_does_not_wait_for_the_disk_but_gets_there_by_itself(tmp_path: Path, disk: Disk) -> None:
    async with SqliteBroker(url_of(tmp_path / "jobs.db")) as broker:
        await put(broker, "a")
        await broker.heartbeat(WORKER, (), 60)
        await synced(disk, 2)
        disk.open.clear()
        claimed = (await turn(broker, (), 1)).deliveries
        disk.open.set()
        await synced(disk, 3)
        disk.open.clear()
        await turn(broker, tuple(map(done, claimed)), 0)
        disk.open.set()
        await synced(disk, 4)


async def test_without_full_synchronization_nobody_waits_for_the_disk(tmp_path: Path, disk: Disk) -> None:
    async with SqliteBroker(url_of(tmp_path / "jobs.db", "?synchronous=normal")) as broker:
        disk.open.clear()
        await put(broker, "a")
        assert len(await claim(broker)) == 1
    assert disk.synced == 0


async def test_a_worker_sees_a_job_while_its_client_waits_for_the_disk(tmp_path: Path, disk: Disk) -> None:
    url = url_of(tmp_path / "jobs.db")
    async with SqliteBroker(url) as client, SqliteBroker(url) as worker:
        await worker.heartbeat(WORKER, (), 60)
        await synced(disk, 1)
        disk.open.clear()
        enqueue = asyncio.ensure_future(put(client, "a"))
        await worker.wait(["default"], 5)
        assert len((await worker.turn((), Claim("w", ("default",), 10))).deliveries) == 1
        assert not enqueue.done()
        disk.open.set()
        await enqueue


async def test_a_disk_that_fails_behind_a_worker_s_turn_is_named_once_in_the_log(
    tmp_path: Path, disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    async with SqliteBroker(url_of(tmp_path / "jobs.db")) as broker:
        disk.fails = True
        for _ in range(3):
            await broker.heartbeat(WORKER, (), 60)
    assert [record.getMessage().count("the disk failed to store") for record in caplog.records] == [1]


async def test_when_the_disk_fails_the_outcome_is_unknown_and_a_repeat_stores_once(tmp_path: Path, disk: Disk) -> None:
    async with SqliteBroker(url_of(tmp_path / "jobs.db")) as broker:
        name = stamp()
        disk.fails = True
        for _ in range(2):
            with pytest.raises(OutcomeUnknown, match="the disk failed while storing"):
                await broker.enqueue([job("a")], name)
        disk.fails = False
        await broker.enqueue([job("a")], name)
        assert [found.job.id for found in await fetch(broker)] == ["a"]


async def test_after_the_disk_failed_nothing_counts_until_the_log_is_copied(tmp_path: Path, disk: Disk) -> None:
    path = tmp_path / "jobs.db"
    async with SqliteBroker(url_of(path)) as broker:
        disk.fails = True
        with pytest.raises(OutcomeUnknown):
            await put(broker, "a")
        disk.fails = False
        with raw(path) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM jobs").fetchone()  # it needs the log
            with pytest.raises(OutcomeUnknown, match="others still read the log"):
                await put(broker, "b")
            reader.execute("COMMIT")
        await put(broker, "c")
        assert path.with_name("jobs.db-wal").stat().st_size == 0
        assert [found.job.id for found in await fetch(broker)] == ["a", "b", "c"]


async def test_a_log_that_has_grown_is_copied_in_a_quiet_moment(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    async with SqliteBroker(url_of(path, "?synchronous=normal")) as broker:
        empty = path.stat().st_size
        for number in range(120):
            await put(broker, str(number))
        log_size = path.with_name("jobs.db-wal").stat().st_size
        assert log_size < 1000 * 4096, "SQLite would have copied it by itself"
        await until(lambda: path.stat().st_size > empty)
