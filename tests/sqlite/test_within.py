"""Jobs that are enqueued in the caller's own transaction: stored with it, or never."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from jobq import App, Client, SyncClient
from jobq.errors import ConfigError
from jobq.model import Fate
from jobq_sqlite import SqliteBroker
from tests.sqlite.tools import fetch, raw, url_of

app = App()


@app.task
async def greet(name: str) -> None: ...


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobs.db"


@pytest.fixture
async def broker(path: Path) -> AsyncIterator[SqliteBroker]:
    async with SqliteBroker(url_of(path)) as broker:
        yield broker


@pytest.fixture
def client(path: Path) -> Iterator[SyncClient]:
    with SyncClient(url_of(path)) as client:
        yield client


def jobs_in(path: Path) -> int:
    with raw(path) as db:
        return int(db.execute("SELECT count(*) FROM jobs").fetchone()[0])


@pytest.mark.parametrize("level", [None, "DEFERRED"])
def test_what_is_committed_together_is_there_together(client: SyncClient, path: Path, level: Any) -> None:
    with closing(sqlite3.connect(path, isolation_level=level)) as db:
        db.row_factory = lambda _, row: {"row": row}
        db.text_factory = bytes
        db.execute("CREATE TABLE orders (id INTEGER)")
        if level is None:
            db.execute("BEGIN IMMEDIATE")
        db.execute("INSERT INTO orders VALUES (1)")
        within = client.within(db)
        first = within.perform_async(greet, "Ann \u0000 Ö")
        again = within.perform_async(greet.options(id=first.id), "again")
        within.perform_many([greet.call(str(n)) for n in range(1500)])
        within.perform_in(60, greet, "Dan")
        assert (jobs_in(path), again.fate) == (0, Fate.DUPLICATE)
        assert db.execute("SELECT 1").fetchone() == {"row": (1,)}
        db.execute("COMMIT")
        assert jobs_in(path) == 1502


def test_what_is_rolled_back_together_never_was(client: SyncClient, path: Path) -> None:
    with raw(path) as db:
        db.execute("BEGIN IMMEDIATE")
        client.within(db).perform_async(greet, "Ann")
        db.execute("ROLLBACK")
    assert jobs_in(path) == 0


async def test_a_sleeping_worker_is_woken_by_the_commit_and_not_before(broker: SqliteBroker, path: Path) -> None:
    told, go_on = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def enqueue() -> None:
        with SyncClient(url_of(path)) as client, raw(path) as db:
            db.execute("BEGIN IMMEDIATE")
            client.within(db).perform_async(greet, "Ann")
            loop.call_soon_threadsafe(told.set)
            asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result()
            db.execute("COMMIT")

    sleeping = asyncio.ensure_future(broker.wait(["default"], 30))
    thread = asyncio.ensure_future(asyncio.to_thread(enqueue))
    await told.wait()
    await asyncio.wait([sleeping], timeout=0.1)
    assert not sleeping.done()
    go_on.set()
    async with asyncio.timeout(5):
        await sleeping
    await thread
    assert len(await fetch(broker)) == 1


def test_without_a_transaction_there_is_nothing_to_be_with(client: SyncClient, path: Path) -> None:
    with raw(path) as db, pytest.raises(ConfigError, match=r'no transaction open .*execute\("BEGIN IMMEDIATE"\)'):
        client.within(db).perform_async(greet, "Ann")


@pytest.mark.parametrize("other", ["other.db", ":memory:"])
def test_a_connection_to_another_file_is_refused(client: SyncClient, tmp_path: Path, other: str) -> None:
    with closing(sqlite3.connect(tmp_path / other if other.endswith("db") else other, isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        with pytest.raises(ConfigError, match=r"this connection is to .*, and the workers use .*jobs\.db"):
            client.within(db).perform_async(greet, "Ann")


async def test_a_wrong_object_is_a_type_error_that_says_what_to_do(broker: SqliteBroker, path: Path) -> None:
    async with Client(broker) as client:
        for wrong in (None, sqlite3.connect(":memory:")):
            with pytest.raises(TypeError, match=r"jobq\.current\(\)\.connection.*a SyncClient, in a thread"):
                client.within(wrong)
            if wrong is not None:
                wrong.close()


def test_a_wrong_object_is_a_type_error_in_synchronous_code(client: SyncClient) -> None:
    with pytest.raises(TypeError, match=r"builtins\.str; it takes a connection of the module sqlite3"):
        client.within("jobs.db")
