"""What goes wrong with SQLite alone: effects in the file, in transactions that lock it."""

import os
import random
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.faults.app import nap, spend
from tests.faults.field import LEASE, Field, Program, after, until

SEED = int(os.environ.get("JOBQ_SEED", "7"))
KILLS = 8
TABLE = "effects"


@pytest.fixture
def field(on_sqlite: Field) -> Field:
    return on_sqlite


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "jobs.db"


def effects(file: Path) -> list[str]:
    """The ids of jobs that had their effect, once for each time."""
    with closing(sqlite3.connect(file)) as db:
        return [str(row[0]) for row in db.execute(f"SELECT id FROM {TABLE} ORDER BY id").fetchall()]


async def make_table(field: Field, file: Path) -> None:
    await field.client()
    with closing(sqlite3.connect(file, isolation_level=None)) as db:
        db.execute(f"CREATE TABLE {TABLE} (id TEXT)")


async def test_the_effects_of_jobs_in_transactions_in_the_file_are_there_exactly_once_however_workers_are_killed(
    field: Field, file: Path
) -> None:
    print(f"JOBQ_SEED={SEED}")
    fate = random.Random(SEED)
    await make_table(field, file)
    names = await field.enqueue(spend, TABLE, 0.02, count=200)
    workers: list[Program] = [field.worker(), field.worker()]
    for _ in range(KILLS):
        seen = len(field.ledger.runs())
        await field.started(seen + 10)
        await after(fate.uniform(0, 0.05))
        workers.append(field.worker())
        workers.pop(0).kill()
    await field.quiet(90)
    await field.stop()
    field.store.check()
    assert effects(file) == sorted(names)


async def test_the_effects_of_jobs_in_transactions_in_the_file_are_there_exactly_once_though_a_zombie_comes_back(
    field: Field, file: Path
) -> None:
    await make_table(field, file)
    names = await field.enqueue(spend, TABLE, 0.05, "effect", count=10)
    zombie = field.worker()
    await field.started(10)
    zombie.send(signal.SIGSTOP)
    field.worker()
    for name in names:
        await field.restarted(name, LEASE + 10)
    field.open("effect")
    zombie.send(signal.SIGCONT)
    await field.quiet()
    await until(lambda: all(run.finish for run in field.ledger.runs()), "every run has ended")
    await field.stop()
    assert effects(file) == sorted(names)


async def test_a_worker_that_is_killed_in_a_transaction_leaves_the_file_to_the_others_at_once(
    field: Field, file: Path
) -> None:
    await make_table(field, file)
    (name,) = await field.enqueue(spend, TABLE, 0.5)
    worker = field.worker(lease=20)
    await field.started(1)
    await until(lambda: is_locked(file), "the transaction")
    worker.kill()
    await until(lambda: not is_locked(file), "the end of the transaction", 1)
    assert effects(file) == []
    field.worker()
    await field.enqueue(nap, 0)
    await field.quiet()
    await field.stop()
    assert effects(file) == [name]


def is_locked(file: Path) -> bool:
    """Whether somebody is writing to it."""
    with closing(sqlite3.connect(file, timeout=0, isolation_level=None)) as db:
        try:
            db.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return True
        return False
