"""Enqueuing in the caller's transaction: with it or not at all, whatever the connection is."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime
from importlib import import_module
from typing import Any

import psycopg
import pytest
from msgspec.structs import replace

from jobq import App, Client, Handler, Job, SyncClient
from jobq.errors import ConfigError, EncodeError, Unsupported
from jobq.model import Claim, Done, Fate, WorkerInfo
from jobq_memory import MemoryBroker
from jobq_postgres import PostgresBroker
from tests.postgres.connections import ASYNC, SYNC, django_connection

asyncpg: Any = import_module("asyncpg")
app = App()


class Rollback(Exception):
    """Raised to leave a transaction."""


@app.task(queue="mail")
async def greet(name: str, *, times: int = 1) -> None: ...


@pytest.fixture
async def broker(url: str) -> AsyncIterator[PostgresBroker]:
    async with PostgresBroker(url) as broker:
        yield broker


@pytest.fixture
async def client(broker: PostgresBroker) -> AsyncIterator[Client]:
    async with Client(broker) as client:
        yield client


class Orders:
    """A table of the application's, as others see it."""

    def __init__(self, connection: Any, name: str) -> None:
        self._connection = connection
        self.name = name

    async def count(self) -> int:
        return int(await self._connection.fetchval(f"SELECT count(*) FROM {self.name}"))


@pytest.fixture
async def orders(postgres_url: str, schema: str) -> AsyncIterator[Orders]:
    connection = await asyncpg.connect(postgres_url)
    await connection.execute(f"CREATE TABLE orders_{schema} (id integer)")
    yield Orders(connection, f"orders_{schema}")
    await connection.execute(f"DROP TABLE orders_{schema}")
    await connection.close()


async def claimed(broker: PostgresBroker, *queues: str) -> list[Job]:
    await broker.heartbeat(WorkerInfo(id="w", host="h"), [], 60)
    turn = await broker.turn([], Claim("w", queues or ("mail",), 5000))
    await broker.turn([Done(delivery.job.id, delivery.epoch) for delivery in turn.deliveries], Claim("w"))
    return [delivery.job for delivery in turn.deliveries]


each_async = pytest.mark.parametrize("kind", ASYNC)
each_sync = pytest.mark.parametrize("kind", SYNC)


@each_async
async def test_what_is_committed_together_is_there_together(
    kind: str, client: Client, broker: PostgresBroker, postgres_url: str, orders: Orders
) -> None:
    async with ASYNC[kind](postgres_url) as (connection, execute):
        await execute(f"INSERT INTO {orders.name} VALUES (1)")
        handle = await client.within(connection).perform_async(greet, "Ann \u0000 Ö", times=2)
        assert await claimed(broker) == []
        assert await orders.count() == 0
    assert await orders.count() == 1
    (job,) = await claimed(broker)
    assert (job.id, job.task, handle.fate) == (handle.id, "greet", Fate.STORED)
    assert greet.signature.decode(job.body) == (("Ann \u0000 Ö",), {"times": 2})


@each_async
async def test_what_is_rolled_back_together_never_was(
    kind: str, client: Client, broker: PostgresBroker, postgres_url: str, orders: Orders
) -> None:
    with suppress(Rollback):
        async with ASYNC[kind](postgres_url) as (connection, execute):
            await execute(f"INSERT INTO {orders.name} VALUES (1)")
            await client.within(connection).perform_async(greet, "Ann")
            raise Rollback
    assert await orders.count() == 0
    assert await claimed(broker) == []


@each_async
async def test_a_sleeping_worker_is_woken_by_the_commit_and_not_before(
    kind: str, client: Client, broker: PostgresBroker, postgres_url: str
) -> None:
    sleeping = asyncio.ensure_future(broker.wait(["mail"], 30))
    await asyncio.wait([sleeping], timeout=0.1)
    async with ASYNC[kind](postgres_url) as (connection, _):
        await client.within(connection).perform_async(greet, "Ann")
        await asyncio.wait([sleeping], timeout=0.1)
        assert not sleeping.done()
    async with asyncio.timeout(5):
        await sleeping
    assert len(await claimed(broker)) == 1


@each_sync
def test_synchronous_code_commits_together(kind: str, url: str, postgres_url: str, schema: str) -> None:
    with SyncClient(url) as client, psycopg.connect(postgres_url, autocommit=True) as other:
        other.execute(f"CREATE TABLE orders_{schema} (id integer)".encode())
        with SYNC[kind](postgres_url) as (connection, execute):
            execute(f"INSERT INTO orders_{schema} VALUES (1)")
            client.within(connection).perform_async(greet, "Ann")
            client.within(connection).perform_many([greet.call("Bea"), greet.call("Cem")])
            client.within(connection).perform_in(60, greet, "Dan")
            assert jobs_in(other, schema) == 0
        assert jobs_in(other, schema) == 4
        with suppress(Rollback), SYNC[kind](postgres_url) as (connection, execute):
            client.within(connection).perform_async(greet, "Eve")
            raise Rollback
        assert jobs_in(other, schema) == 4
        other.execute(f"DROP TABLE orders_{schema}".encode())


def jobs_in(connection: psycopg.Connection, schema: str) -> int:
    row = connection.execute(f"SELECT count(*) FROM {schema}.jobs".encode()).fetchone()
    assert row is not None
    return int(row[0])


async def test_every_perform_is_there(client: Client, broker: PostgresBroker, postgres_url: str) -> None:
    async with ASYNC["asyncpg"](postgres_url) as (connection, _):
        within = client.within(connection)
        await within.perform_in(3, greet, "in")  # by then the others have been claimed
        await within.perform_at(datetime(2020, 1, 1, tzinfo=UTC), greet, "at")
        handles = await within.perform_many([greet.call(str(n)) for n in range(2500)])
        again = await within.perform_async(greet.options(id=handles[0].id), "again")
        assert again.fate is Fate.DUPLICATE
    names = [greet.signature.decode(job.body)[0][0] for job in await claimed(broker)]
    assert names == ["at", *map(str, range(2500))]
    async with asyncio.timeout(15):
        while not (late := await claimed(broker)):
            await broker.wait(["mail"], 5)
    assert [greet.signature.decode(job.body)[0][0] for job in late] == ["in"]


async def test_an_error_in_the_transaction_is_the_librarys_own_and_says_what_may_be_wrong(
    client: Client, postgres_url: str
) -> None:
    async with ASYNC["asyncpg"](postgres_url) as (connection, execute):
        with pytest.raises(asyncpg.PostgresError):
            await execute("SELECT 1 / 0")
        with pytest.raises(asyncpg.InFailedSQLTransactionError) as caught:
            await client.within(connection).perform_async(greet, "Ann")
    assert "jobq schema apply" in caught.value.__notes__[0]


async def test_a_bad_argument_leaves_the_transaction_as_it_is(
    client: Client, broker: PostgresBroker, postgres_url: str
) -> None:
    async with ASYNC["asyncpg"](postgres_url) as (connection, _):
        with pytest.raises(EncodeError):
            await client.within(connection).perform_async(greet, object())  # type: ignore[arg-type]
        await client.within(connection).perform_async(greet, "Ann")
    assert len(await claimed(broker)) == 1


async def test_without_a_transaction_there_is_nothing_to_be_with(client: Client, postgres_url: str) -> None:
    connection = await asyncpg.connect(postgres_url)
    with pytest.raises(ConfigError, match=r"no transaction open .*async with connection.transaction\(\):"):
        await client.within(connection).perform_async(greet, "Ann")
    await connection.close()
    async with await psycopg.AsyncConnection.connect(postgres_url, autocommit=True) as other:
        with pytest.raises(ConfigError, match="no transaction open"):
            await client.within(other).perform_async(greet, "Ann")


def test_without_a_transaction_there_is_nothing_to_be_with_in_synchronous_code(url: str, postgres_url: str) -> None:
    with SyncClient(url) as client, psycopg.connect(postgres_url, autocommit=True) as connection:
        with pytest.raises(ConfigError, match=r"with connection.transaction\(\):"):
            client.within(connection).perform_async(greet, "Ann")
        with pytest.raises(ConfigError, match=r"with transaction.atomic\(\):"):
            client.within(django_connection(postgres_url)).perform_async(greet, "Ann")
        django_connection(postgres_url).close()


async def test_a_wrong_object_is_a_type_error_that_names_the_right_ones(client: Client, postgres_url: str) -> None:
    with pytest.raises(TypeError, match=r"builtins.str; it takes an asyncpg connection.*AsyncSession"):
        client.within("postgresql://localhost")
    with (
        psycopg.connect(postgres_url) as sync,
        pytest.raises(TypeError, match=r"it takes an asyncpg .*That one is for a SyncClient"),
    ):
        client.within(sync)


def test_a_wrong_object_is_a_type_error_in_synchronous_code(url: str) -> None:
    wanted = r"it takes a psycopg Connection.*django\.db\.connection"
    with SyncClient(url) as client, pytest.raises(TypeError, match=wanted):
        client.within(None)


async def test_a_broker_that_is_no_database_says_so() -> None:
    async with MemoryBroker() as broker, Client(broker) as client:
        with pytest.raises(Unsupported, match="postgresql:// can"):
            client.within(object())


other = App()


@other.task
async def work() -> None: ...


@other.enqueue_middleware
async def tag(job: Job, call_next: Handler) -> object:
    await asyncio.sleep(0)
    return await call_next(replace(job, headers={"tag": "x"}))


async def test_enqueue_middleware_is_passed(client: Client, broker: PostgresBroker, postgres_url: str) -> None:
    async with ASYNC["asyncpg"](postgres_url) as (connection, _):
        await client.within(connection).perform_async(work)
    assert [job.headers for job in await claimed(broker, "default")] == [{"tag": "x"}]


def test_enqueue_middleware_is_passed_in_synchronous_code(url: str, postgres_url: str, schema: str) -> None:
    with SyncClient(url) as client, psycopg.connect(postgres_url) as connection:
        client.within(connection).perform_async(work)
        row = connection.execute(f"SELECT convert_from(envelope, 'UTF8') FROM {schema}.jobs".encode()).fetchone()
        assert row is not None
        assert '"headers":{"tag":"x"}' in row[0]
