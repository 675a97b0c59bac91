"""Brokers that are away: workers wait for them, and can be told to stop meanwhile."""

import re
import signal
import sqlite3
from collections.abc import Generator
from contextlib import closing, contextmanager

import pytest

from tests.faults.app import gate, nap, now
from tests.faults.conftest import Make
from tests.faults.field import GRACE, Field, until
from tests.faults.ledger import SECOND
from tests.servers import Server

SPARE = 2.0
SOON = 3.0


@contextmanager
def locked(field: Field) -> Generator[None]:
    """Nobody else can write to the file."""
    with closing(sqlite3.connect(field.url.removeprefix("sqlite:///"), isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        yield
        db.execute("ROLLBACK")


async def stopped(field: Field, number: int = signal.SIGTERM) -> int:
    """Stop the only worker, which has to be in time."""
    (worker,) = field.programs
    sent = now()
    worker.send(number)
    code = await worker.exit_code()
    assert worker.ended is not None
    assert worker.ended - sent < (GRACE + SPARE) * SECOND, worker.log
    return code


async def test_a_worker_waits_for_a_redis_that_is_away_says_so_and_begins(make: Make, server: Server) -> None:
    field = make(server.url)
    server.stop()
    worker = field.worker()
    await worker.says(f"cannot reach Redis at redis://127.0.0.1:{server.port}/0")
    await worker.says("trying again in 0.4 s")
    assert worker.ended is None
    server.start()
    await field.enqueue(nap, 0, count=10)
    await field.settled()


async def test_a_worker_begins_when_a_locked_file_is_free(on_sqlite: Field) -> None:
    await on_sqlite.enqueue(nap, 0, count=10)
    with locked(on_sqlite):
        worker = on_sqlite.worker(url=f"{on_sqlite.url}?timeout=0.2")
        await worker.says("is locked: another process has been writing to it")
        assert not on_sqlite.ledger.runs()
    await on_sqlite.settled()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_worker_that_waits_for_its_broker_can_be_stopped(
    make: Make, server: Server, number: signal.Signals
) -> None:
    field = make(server.url)
    server.stop()
    worker = field.worker()
    await worker.says("trying again")
    assert await stopped(field, number) == 0


async def test_stopping_while_redis_is_away_is_in_time_and_loses_nothing(make: Make, server: Server) -> None:
    field = make(server.url)
    await field.enqueue(gate, "out", count=5)
    worker = field.worker()
    await field.started(5)
    server.kill()
    await worker.says("trying again")
    assert await stopped(field) == 0
    server.start()
    field.open("out")
    field.worker()
    field.oracle.killed.add(worker.pid)
    await field.settled()


async def test_stopping_while_redis_is_silent_is_in_time(make: Make, server: Server) -> None:
    field = make(server.url)
    await field.enqueue(gate, "out", count=5)
    worker = field.worker()
    await field.started(5)
    server.pause()
    assert await stopped(field) == 0
    server.resume()
    field.open("out")
    field.worker()
    field.oracle.killed.add(worker.pid)
    await field.settled()


async def test_stopping_while_the_file_is_locked_is_in_time(on_sqlite: Field) -> None:
    await on_sqlite.enqueue(gate, "out", count=5)
    worker = on_sqlite.worker()
    await on_sqlite.started(5)
    with locked(on_sqlite):
        await stopped(on_sqlite)
    on_sqlite.oracle.killed.add(worker.pid)
    on_sqlite.open("out")
    on_sqlite.worker()
    await on_sqlite.settled()


async def test_an_idle_worker_notices_soon_that_its_broker_is_back(make: Make, server: Server) -> None:
    field = make(server.url)
    await field.enqueue(nap, 0)
    worker = field.worker()
    await field.quiet()  # an outage is longer than the lease where machines are slow: what is held would run again
    server.kill()
    # what it was about to do when the server went is a turn or a wait, and that is what it repeats
    await until(lambda: len(re.findall(r" (?:wake-up|turn): ", worker.log)) >= 7, "several attempts")
    server.start()
    await field.enqueue(nap, 0)
    back = now()
    runs = await field.started(2)
    assert runs[-1].start - back < SOON * SECOND
    pauses = [float(pause) for pause in re.findall(r"(?:wake-up|sweep): .*trying again in ([\d.]+) s", worker.log)]
    assert max(pauses) < SOON
    await field.settled()
