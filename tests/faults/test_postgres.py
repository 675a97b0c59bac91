"""What goes wrong with Postgres alone: servers that are killed, connections that are ended, effects in the database."""

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import psycopg
import pytest

from tests.faults.app import nap, pay
from tests.faults.conftest import on_postgres_at
from tests.faults.field import LEASE, Field, Program, after, until
from tests.faults.stores import PostgresStore
from tests.faults.test_restarted import Load
from tests.servers import Server
from tests.services import POSTGRES

SEED = int(os.environ.get("JOBQ_SEED", "7"))
RESTARTS = 3
KILLS = 8
TERMINATIONS = 12
TABLE = "effects"


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(POSTGRES) as server:
        yield server


@pytest.fixture
async def field(server: Server, tmp_path: Path) -> AsyncIterator[Field]:
    """On a server of its own, which may be harmed."""
    async with AsyncExitStack() as stack:
        yield on_postgres_at(server.url, tmp_path, stack)


def effects(server: Server) -> list[str]:
    """The ids of jobs that had their effect, once for each time."""
    with psycopg.connect(server.url, autocommit=True) as db:
        return [str(row[0]) for row in db.execute(f"SELECT id FROM {TABLE} ORDER BY id".encode()).fetchall()]


def make_table(server: Server) -> None:
    with psycopg.connect(server.url, autocommit=True) as db:
        db.execute(f"CREATE TABLE {TABLE} (id text)".encode())


def terminate(server: Server) -> int:
    """End all connections of ours; says how many there were."""
    with psycopg.connect(server.url, autocommit=True) as db:
        ended = db.execute(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'jobq'"
        ).fetchone()
    assert ended is not None
    return int(ended[0])


def halt(server: Server, how: str) -> None:
    """Stop the server: as when its machine loses power, at once, or in order."""
    if how == "immediate":
        assert server.process is not None
        server.process.send_signal(signal.SIGQUIT)
        server.process.wait()
    (server.stop if how == "planned" else server.kill)()


@pytest.mark.parametrize("how", ["killed", "immediate", "planned"])
async def test_a_restarted_postgres_has_lost_nothing_and_everybody_comes_back(
    field: Field, server: Server, how: str
) -> None:
    workers = [field.worker(lease=20), field.worker(lease=20)]
    async with Load(field):
        for _ in range(RESTARTS):
            seen = len(field.ledger.runs())
            await field.started(seen + 50)
            await asyncio.to_thread(halt, server, how)
            server.start()
            assert isinstance(field.store, PostgresStore)
            field.store.connect()
        for worker in workers:
            seen = len(field.ledger.by(worker.pid))
            await field.started(seen + 10, worker.pid)
    await field.settled()
    runs = field.ledger.runs()
    assert len(runs) == len({run.id for run in runs}), "a lease outlives a short restart, so nothing runs twice"


async def test_connections_that_are_terminated_twice_a_second_stop_nothing(field: Field, server: Server) -> None:
    worker = field.worker(concurrency=20, lease=20)
    async with Load(field):
        await field.started(50)
        for _ in range(TERMINATIONS):
            await after(0.5)
            seen = len(field.ledger.runs())
            assert await asyncio.to_thread(terminate, server) > 0
            await field.started(seen + 5, worker.pid)
    await field.settled()
    runs = field.ledger.runs()
    assert len(runs) == len({run.id for run in runs})


async def test_the_effects_of_jobs_in_transactions_are_there_exactly_once_however_workers_are_killed(
    field: Field, server: Server
) -> None:
    print(f"JOBQ_SEED={SEED}")
    fate = random.Random(SEED)
    make_table(server)
    names = await field.enqueue(pay, TABLE, 0.02, count=600)
    workers: list[Program] = [field.worker(), field.worker()]
    for _ in range(KILLS):
        seen = len(field.ledger.runs())
        await field.started(seen + 20)
        await after(fate.uniform(0, 0.05))
        workers.append(field.worker())
        workers.pop(0).kill()
    await field.quiet(60)
    await field.stop()
    field.store.check()
    assert effects(server) == sorted(names)


async def test_the_effects_of_jobs_in_transactions_are_there_exactly_once_though_a_zombie_comes_back(
    field: Field, server: Server
) -> None:
    make_table(server)
    names = await field.enqueue(pay, TABLE, 0.5, count=10)
    zombie = field.worker()
    await field.started(10)
    zombie.send(signal.SIGSTOP)
    field.worker()
    for name in names:
        await field.restarted(name, LEASE + 10)
    zombie.send(signal.SIGCONT)
    await field.quiet()
    await until(lambda: all(run.finish for run in field.ledger.runs()), "every run has ended")
    await field.stop()
    assert effects(server) == sorted(names)


async def test_a_full_server_is_waited_for(tmp_path: Path) -> None:
    with Server(POSTGRES, arguments=()) as server:
        async with AsyncExitStack() as stack:
            field = on_postgres_at(server.url, tmp_path, stack)
            await field.enqueue(nap, 0.01, count=20)
            crowd = [psycopg.connect(server.url) for _ in range(free_places(server))]
            worker = field.worker()
            await worker.says("takes no connection now")
            for connection in crowd:
                connection.close()
            await field.settled()


def free_places(server: Server) -> int:
    """How many more connections an ordinary user gets."""
    with psycopg.connect(server.url, autocommit=True) as db:
        row = db.execute(
            "SELECT current_setting('max_connections')::integer - count(*) FROM pg_stat_activity "
            "WHERE backend_type = 'client backend'"
        ).fetchone()
    assert row is not None
    return int(row[0]) + 1
