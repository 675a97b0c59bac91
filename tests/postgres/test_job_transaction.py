"""A job's writes and its end are one: committed together, or not at all."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import suppress
from importlib import import_module
from typing import Any

import pytest

import jobq
from jobq import App, Client, Retry
from jobq.errors import ConfigError, LeaseLost, NoCurrentJob, Unsupported
from jobq.model import Beat, Claim, Token, WorkerInfo
from jobq.worker import Worker
from jobq_postgres import PostgresBroker

asyncpg: Any = import_module("asyncpg")
OPTIONS: dict[str, Any] = {"lease": 2.0, "renew": 0.5, "sweep": 0.1, "grace": 1.0}
PATIENCE = 20.0


class Accounts:
    """A table of the application's, as others see it."""

    def __init__(self, connection: Any, name: str, schema: str) -> None:
        self._connection = connection
        self._turn = asyncio.Lock()
        self.name = name
        self._schema = schema

    async def sum(self) -> int:
        ((amount,),) = await self._ask(f"SELECT coalesce(sum(amount), 0) FROM {self.name}")
        return int(amount)

    async def jobs(self) -> int:
        ((count,),) = await self._ask(f"SELECT count(*) FROM {self._schema}.jobs")
        return int(count)

    async def is_whole(self, number: int) -> bool:
        """Whether each of so many jobs is there or has paid, and none has done both or neither."""
        jobs, paid = f"SELECT count(*) FROM {self._schema}.jobs", f"SELECT count(*) FROM {self.name}"
        ((found,),) = await self._ask(f"SELECT ({jobs}) + ({paid})")
        return bool(found == number)

    async def dead(self) -> list[bytes]:
        return [trail for (trail,) in await self._ask(f"SELECT trail FROM {self._schema}.dead")]

    async def _ask(self, sql: str) -> Any:
        async with self._turn:
            return await self._connection.fetch(sql)

    async def steal(self) -> None:
        """Have the jobs held by nobody, as if their leases had ended."""
        await self._connection.execute(f"UPDATE {self._schema}.jobs SET worker = NULL, epoch = NULL")


@pytest.fixture
async def accounts(postgres_url: str, schema: str) -> AsyncIterator[Accounts]:
    connection = await asyncpg.connect(postgres_url)
    await connection.execute(f"CREATE TABLE accounts_{schema} (amount integer)")
    yield Accounts(connection, f"accounts_{schema}", schema)
    await connection.execute(f"DROP TABLE accounts_{schema}")
    await connection.close()


@pytest.fixture
async def broker(url: str) -> AsyncIterator[PostgresBroker]:
    async with PostgresBroker(url) as broker:
        yield broker


async def run(app: App, broker: PostgresBroker, *calls: Any, **options: Any) -> None:
    """Enqueue the calls, and run all jobs to their ends."""
    async with Client(broker) as client:
        await client.perform_many(calls)
    async with asyncio.timeout(PATIENCE):
        await Worker(app, broker, burst=True, **{**OPTIONS, **options}).run()


async def test_a_jobs_writes_are_committed_with_its_end(broker: PostgresBroker, accounts: Accounts) -> None:
    app = App()
    before = list[bool]()

    @app.task
    async def pay(amount: int) -> None:
        async with jobq.current().transaction() as connection:
            await connection.execute(f"INSERT INTO {accounts.name} VALUES ($1)", amount)
            assert jobq.current().connection is connection
            before.append(await accounts.is_whole(30))

    await run(app, broker, *(pay.call(1) for _ in range(30)), concurrency=10)
    assert (await accounts.sum(), await accounts.jobs(), await accounts.dead()) == (30, 0, [])
    assert before == [True] * 30


async def test_a_jobs_writes_are_rolled_back_when_it_fails_and_it_runs_again(
    broker: PostgresBroker, accounts: Accounts
) -> None:
    app = App()

    @app.task(retry=Retry(max_retries=2, backoff=lambda _: 0))
    async def pay() -> None:
        async with jobq.current().transaction() as connection:
            await connection.execute(f"INSERT INTO {accounts.name} VALUES (1)")
            if jobq.current().attempt < 3:
                raise ValueError("not yet")

    await run(app, broker, pay.call())
    assert (await accounts.sum(), await accounts.jobs()) == (1, 0)


async def test_a_whole_body_runs_in_a_transaction_if_its_task_says_so(
    broker: PostgresBroker, accounts: Accounts
) -> None:
    app = App()

    @app.task(transaction=True, retry=Retry(max_retries=1, backoff=lambda _: 0))
    async def pay(amount: int) -> None:
        await jobq.current().connection.execute(f"INSERT INTO {accounts.name} VALUES ($1)", amount)
        if jobq.current().attempt == 1:
            raise ValueError("not yet")

    await run(app, broker, pay.call(7))
    assert (await accounts.sum(), await accounts.jobs(), await accounts.dead()) == (7, 0, [])


async def test_an_error_after_the_commit_is_logged_and_the_job_does_not_run_again(
    broker: PostgresBroker, accounts: Accounts, caplog: pytest.LogCaptureFixture
) -> None:
    app = App()
    runs = list[int]()

    @app.task
    async def pay() -> None:
        runs.append(jobq.current().attempt)
        async with jobq.current().transaction() as connection:
            await connection.execute(f"INSERT INTO {accounts.name} VALUES (1)")
        raise ValueError("too late")

    with caplog.at_level(logging.WARNING, "jobq.worker"):
        await run(app, broker, pay.call())
    assert (runs, await accounts.sum(), await accounts.jobs(), await accounts.dead()) == ([1], 1, 0, [])
    assert [record.message for record in caplog.records if "its transaction has committed" in record.message]


async def test_a_body_may_go_on_for_longer_than_its_lease_after_the_commit(
    broker: PostgresBroker, accounts: Accounts, caplog: pytest.LogCaptureFixture
) -> None:
    app = App()
    ended = list[bool]()

    @app.task
    async def pay() -> None:
        async with jobq.current().transaction() as connection:
            await connection.execute(f"INSERT INTO {accounts.name} VALUES (1)")
        await asyncio.sleep(1.5)  # several heartbeats, which find the job gone
        ended.append(True)

    await run(app, broker, pay.call(), lease=1.0, renew=0.2)
    assert (ended, await accounts.sum(), caplog.text) == ([True], 1, "")


async def test_a_run_that_has_lost_its_job_commits_nothing(broker: PostgresBroker, accounts: Accounts) -> None:
    app = App()
    stolen = list[bool]()
    caught = list[str]()

    @app.task
    async def pay() -> None:
        try:
            async with jobq.current().transaction() as connection:
                await connection.execute(f"INSERT INTO {accounts.name} VALUES (1)")
                if not stolen:
                    stolen.append(True)
                    await accounts.steal()
        except LeaseLost as exc:
            caught.append(str(exc))
            raise

    await run(app, broker, pay.call())
    assert (len(caught), await accounts.sum(), await accounts.jobs()) == (1, 1, 0)
    assert "no longer held under epoch" in caught[0]


async def test_a_job_has_one_transaction(broker: PostgresBroker, accounts: Accounts) -> None:
    app = App()
    errors = list[type[Exception]]()

    @app.task
    async def pay() -> None:
        with pytest.raises(NoCurrentJob):
            print(jobq.current().connection)
        with suppress(ZeroDivisionError):
            async with jobq.current().transaction() as connection:
                await connection.execute(f"INSERT INTO {accounts.name} VALUES (1)")
                print(1 / 0)
        try:
            async with jobq.current().transaction():
                pass
        except ConfigError as exc:
            errors.append(type(exc))

    await run(app, broker, pay.call())
    assert (errors, await accounts.sum(), await accounts.jobs()) == ([ConfigError], 0, 0)


async def test_a_deferred_constraint_fails_the_job_and_not_the_worker(
    broker: PostgresBroker, accounts: Accounts
) -> None:
    app = App()

    @app.task(retry=Retry(max_retries=0))
    async def pay() -> None:
        async with jobq.current().transaction() as connection:
            await connection.execute(
                f"ALTER TABLE {accounts.name} ADD CONSTRAINT once UNIQUE (amount) DEFERRABLE INITIALLY DEFERRED"
            )
            await connection.execute(f"INSERT INTO {accounts.name} VALUES (1), (1)")

    await run(app, broker, pay.call())
    (trail,) = await accounts.dead()
    assert b"UniqueViolationError" in trail
    assert await accounts.sum() == 0


async def test_what_a_job_sets_on_its_connection_is_unset_for_the_next_one(url: str, accounts: Accounts) -> None:
    app = App()
    seen = list[str]()

    @app.task(transaction=True)
    async def look() -> None:
        connection = jobq.current().connection
        seen.append(await connection.fetchval("SHOW application_name"))
        await connection.execute("SET application_name = 'theirs'")

    async with PostgresBroker(f"{url}&transactions=1") as broker:
        await run(app, broker, look.call(), look.call(), concurrency=5)
    assert seen == ["jobq", "jobq"]
    assert await accounts.jobs() == 0


async def test_jobs_that_use_up_all_connections_wait_and_leases_are_renewed(url: str, accounts: Accounts) -> None:
    app = App()

    @app.task(transaction=True)
    async def pay() -> None:
        await jobq.current().connection.execute(f"INSERT INTO {accounts.name} SELECT 1 FROM pg_sleep(0.5)")

    async with PostgresBroker(f"{url}&transactions=2") as broker:
        await run(app, broker, *(pay.call() for _ in range(10)), concurrency=10, lease=1.0, renew=0.2)
    assert (await accounts.sum(), await accounts.jobs()) == (10, 0)


async def test_a_job_that_is_cancelled_while_it_commits_is_done_or_not_but_not_half(
    broker: PostgresBroker, accounts: Accounts
) -> None:
    app = App()
    runs = list[int]()

    @app.task(retry=Retry(max_retries=50, backoff=lambda _: 0), timeout=0.02)
    async def pay() -> None:
        runs.append(1)
        async with jobq.current().transaction() as connection:
            await connection.execute(f"INSERT INTO {accounts.name} VALUES (1)")
            await asyncio.sleep(0.0001 * len(runs))

    await run(app, broker, *(pay.call() for _ in range(40)), concurrency=20)
    assert await accounts.sum() + len(await accounts.dead()) == 40
    assert await accounts.jobs() == 0


async def test_a_transaction_whose_connection_is_lost_is_rolled_back_and_the_job_runs_again(
    broker: PostgresBroker, accounts: Accounts
) -> None:
    app = App()
    runs = list[int]()

    @app.task(transaction=True, retry=Retry(max_retries=3, backoff=lambda _: 0))
    async def pay() -> None:
        connection = jobq.current().connection
        runs.append(1)
        await connection.execute(f"INSERT INTO {accounts.name} VALUES (1)")
        if len(runs) == 1:
            with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                await connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    await run(app, broker, pay.call())
    assert (len(runs), await accounts.sum(), await accounts.jobs()) == (2, 1, 0)


async def test_a_job_whose_transaction_is_open_is_named_by_heartbeats(broker: PostgresBroker) -> None:
    info = WorkerInfo(id="w", host="h")
    await broker.heartbeat(info, [], 60)
    async with Client(broker) as client:
        app = App()

        @app.task
        async def pay() -> None: ...

        await client.perform_async(pay)
    (delivery,) = (await broker.turn([], Claim("w", ["default"], 1))).deliveries
    settlement = broker.transactions.settle("w", Token(delivery.job.id, delivery.epoch))
    await settlement.begin()
    beats = [Beat(delivery.job.id, delivery.epoch)]
    assert list((await broker.heartbeat(info, beats, 60, delivery.epoch)).lost) == []
    await settlement.commit()
    assert [token.id for token in (await broker.heartbeat(info, beats, 60, delivery.epoch)).lost] == [delivery.job.id]


async def test_a_transaction_is_for_async_tasks() -> None:
    app = App()
    with pytest.raises(ConfigError, match="it must be an async def"):

        @app.task(transaction=True)
        def pay() -> None: ...


async def test_a_broker_that_is_no_database_has_none(memory: Any) -> None:
    app = App()
    errors = list[str]()

    @app.task
    async def pay() -> None:
        try:
            async with jobq.current().transaction():
                pass
        except Unsupported as exc:
            errors.append(str(exc))

    async with Client(memory) as client:
        await client.perform_async(pay)
    await Worker(app, memory, burst=True).run()
    assert "postgresql:// can" in errors[0]


async def test_a_burst_does_not_end_before_the_job_that_a_transaction_left_behind(url: str) -> None:
    app, ran = App(), list[str]()
    runs, asked, committed = asyncio.Event(), asyncio.Event(), asyncio.Event()

    class Slow(PostgresBroker):
        async def turn(self, outcomes: Any, claim: Claim) -> Any:
            """The answer to what is asked while the first job runs comes when that has ended."""
            turn = await super().turn(outcomes, claim)
            if runs.is_set() and not asked.is_set():
                asked.set()
                await committed.wait()
            return turn

    @app.task
    async def first() -> None:
        runs.set()
        worker._turner.look()
        await asked.wait()
        job = jobq.current()
        async with job.transaction() as connection:
            await job.client.within(connection).perform_async(second)
        ran.append("first")
        committed.set()

    @app.task
    async def second() -> None:
        ran.append("second")

    async with Slow(url) as broker, Client(broker) as client, asyncio.timeout(PATIENCE):
        await client.perform_async(first)
        worker = Worker(app, broker, burst=True, **OPTIONS)
        await worker.run()
    assert ran == ["first", "second"]
