"""Jobs that are done: gone at once, or kept for a chosen time."""

import asyncio
from collections.abc import AsyncIterator
from importlib import import_module
from typing import Any

import pytest

from jobq import App, Client, Discard
from jobq.codec import decode_job
from jobq.errors import ConfigError
from jobq.model import Claim, Done, WorkerInfo
from jobq.testing import ManualClock
from jobq.worker import Worker
from jobq_postgres import PostgresBroker

asyncpg: Any = import_module("asyncpg")
HOUR = 3600.0


@pytest.fixture
async def db(postgres_url: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(postgres_url)
    yield connection
    await connection.close()


async def run(url: str, *calls: Any, app: App, clock: ManualClock | None = None) -> None:
    async with PostgresBroker(url, clock=clock) as broker, Client(broker) as client:
        await client.perform_many(calls)
        async with asyncio.timeout(20):
            await Worker(app, broker, burst=True).run()


def make_app() -> App:
    app = App()

    @app.task(queue="mail", priority=3)
    async def plain(number: int) -> None: ...

    @app.task(transaction=True)
    async def whole(number: int) -> None: ...

    @app.task
    async def dropped() -> None:
        raise Discard("not wanted")

    return app


async def test_a_job_that_is_done_is_gone(url: str, schema: str, db: Any) -> None:
    app = make_app()
    await run(url, app.registry.tasks["make_app.<locals>.plain"].call(1), app=app)
    assert await db.fetchval(f"SELECT count(*) FROM {schema}.jobs") == 0
    assert await db.fetchval(f"SELECT count(*) FROM {schema}.done") == 0


@pytest.mark.parametrize("name", ["plain", "whole"])
async def test_a_job_that_is_done_is_kept_for_the_chosen_time(url: str, schema: str, db: Any, name: str) -> None:
    app = make_app()
    task = app.registry.tasks[f"make_app.<locals>.{name}"]
    await run(f"{url}&keep_done={HOUR}", task.options(id="mine").call(1), app=app)
    (row,) = await db.fetch(f"SELECT *, extract(epoch FROM until - ended)::float AS kept FROM {schema}.done")
    job = decode_job(row["envelope"])
    assert (row["id"], job.id, job.task, row["queue"], row["kept"]) == ("mine", "mine", task.name, job.queue, HOUR)
    assert await db.fetchval(f"SELECT count(*) FROM {schema}.jobs") == 0


async def test_what_was_discarded_is_not_kept(url: str, schema: str, db: Any) -> None:
    app = make_app()
    await run(f"{url}&keep_done=60", app.registry.tasks["make_app.<locals>.dropped"].call(), app=app)
    assert await db.fetchval(f"SELECT count(*) FROM {schema}.done") == 0


async def test_an_id_that_is_done_is_free_again(url: str, schema: str, db: Any) -> None:
    app = make_app()
    task = app.registry.tasks["make_app.<locals>.plain"].options(id="mine")
    await run(f"{url}&keep_done=60", task.call(1), app=app)
    await run(f"{url}&keep_done=60", task.call(2), app=app)
    assert await db.fetchval(f"SELECT count(*) FROM {schema}.done") == 2


async def test_a_sweep_prunes_what_is_kept_no_longer_in_bounded_steps(url: str, schema: str, db: Any) -> None:
    clock = ManualClock()
    app = make_app()
    plain = app.registry.tasks["make_app.<locals>.plain"]
    async with PostgresBroker(f"{url}&keep_done=60", clock=clock) as broker, Client(broker, clock=clock) as client:
        await client.perform_many([plain.call(number) for number in range(25)])
        await settle_all(broker)
        clock.advance(59)
        await broker.sweep("h", 10)
        assert await db.fetchval(f"SELECT count(*) FROM {schema}.done") == 25
        clock.advance(1)
        left = list[int]()
        more = True
        while more:
            more = (await broker.sweep("h", 10)).more
            left.append(await db.fetchval(f"SELECT count(*) FROM {schema}.done"))
    assert left == [15, 5, 0]


async def settle_all(broker: PostgresBroker) -> None:
    worker = WorkerInfo(id="w", host="h", hostname="h", pid=1, queues=("mail",), concurrency=99, started=0)
    await broker.heartbeat(worker, [], 600)
    turn = await broker.turn([], Claim("w", ["mail"], 99))
    done = [Done(delivery.job.id, delivery.epoch) for delivery in turn.deliveries]
    assert not (await broker.turn(done, Claim("w", (), 0))).refused


async def test_a_time_that_makes_no_sense_is_refused() -> None:
    for wrong in ("-1", "nan", "inf", "always"):
        with pytest.raises(ConfigError):
            PostgresBroker(f"postgresql://h/d?keep_done={wrong}")
