"""A job's writes and its end are one: committed together, or not at all; and nobody is kept waiting for long."""

import asyncio
import gc
import logging
import sqlite3
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import jobq
from jobq import App, Client, Retry
from jobq.errors import BrokerRefused, BrokerUnavailable, ConfigError, JobTimeout, LeaseLost
from jobq.model import Claim, Done, Token
from jobq.worker import Worker
from jobq_sqlite import SqliteBroker
from tests.sqlite.tools import WORKER, claim, put, raw, url_of

OPTIONS: dict[str, Any] = {"lease": 3.0, "renew": 0.5, "sweep": 0.1, "grace": 1.0}
PATIENCE = 20.0
FOR_EVER = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
PAY = "INSERT INTO accounts VALUES (?)"
once = Retry(max_retries=0)
soon = Retry(max_retries=3, backoff=lambda _: 0)


class Accounts:
    """A table of the application's in the file, as others see it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    async def sum(self) -> int:
        ((amount,),) = await self.do("SELECT coalesce(sum(amount), 0) FROM accounts")
        return int(amount)

    async def jobs(self) -> int:
        ((count,),) = await self.do("SELECT count(*) FROM jobs")
        return int(count)

    async def is_whole(self, number: int) -> bool:
        """Whether each of so many jobs is there or has paid, and none has done both or neither."""
        ((found,),) = await self.do("SELECT (SELECT count(*) FROM jobs) + (SELECT count(*) FROM accounts)")
        return bool(found == number)

    async def dead(self) -> list[str]:
        return [bytes(trail).decode() for (trail,) in await self.do("SELECT trail FROM dead")]

    async def steal(self) -> None:
        """Have the jobs held by nobody, as if their leases had ended."""
        await self.do("UPDATE jobs SET worker = NULL, epoch = NULL")

    async def do(self, sql: str) -> list[tuple[Any, ...]]:
        """In a thread, and as soon as nobody else writes."""

        def do() -> list[tuple[Any, ...]]:
            with raw(self.path) as db:
                return db.execute(sql).fetchall()

        return await asyncio.to_thread(do)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobs.db"


@pytest.fixture
async def broker(path: Path) -> AsyncIterator[SqliteBroker]:
    async with SqliteBroker(url_of(path)) as broker:
        yield broker


@pytest.fixture
async def accounts(broker: SqliteBroker, path: Path) -> Accounts:
    accounts = Accounts(path)
    await accounts.do("CREATE TABLE accounts (amount INTEGER)")
    return accounts


async def run(app: App, broker: SqliteBroker, *calls: Any, **options: Any) -> None:
    """Enqueue the calls, and run all jobs to their ends."""
    async with Client(broker) as client:
        await client.perform_many(calls)
    async with asyncio.timeout(PATIENCE):
        await Worker(app, broker, burst=True, **{**OPTIONS, **options}).run()


async def test_a_jobs_writes_are_committed_with_its_end(broker: SqliteBroker, accounts: Accounts) -> None:
    app = App()
    before = list[bool]()

    @app.task
    async def pay(amount: int) -> None:
        async with jobq.current().transaction() as connection:
            connection.execute(PAY, (amount,))
            assert jobq.current().connection is connection
            before.append(await accounts.is_whole(30))

    await run(app, broker, *(pay.call(1) for _ in range(30)), concurrency=10)
    assert (await accounts.sum(), await accounts.jobs(), await accounts.dead()) == (30, 0, [])
    assert before == [True] * 30


async def test_a_jobs_writes_are_rolled_back_when_it_fails_and_it_runs_again(
    broker: SqliteBroker, accounts: Accounts
) -> None:
    app = App()

    @app.task(retry=soon)
    async def pay() -> None:
        async with jobq.current().transaction() as connection:
            connection.execute(PAY, (1,))
            if jobq.current().attempt < 3:
                raise ValueError("not yet")

    await run(app, broker, pay.call())
    assert (await accounts.sum(), await accounts.jobs()) == (1, 0)


async def test_a_whole_body_runs_in_a_transaction_if_its_task_says_so(broker: SqliteBroker, accounts: Accounts) -> None:
    app = App()

    @app.task(transaction=True, retry=soon)
    async def pay(amount: int) -> None:
        jobq.current().connection.execute(PAY, (amount,))
        if jobq.current().attempt == 1:
            raise ValueError("not yet")

    await run(app, broker, pay.call(7))
    assert (await accounts.sum(), await accounts.jobs(), await accounts.dead()) == (7, 0, [])


async def test_an_error_after_the_commit_is_logged_and_the_job_does_not_run_again(
    broker: SqliteBroker, accounts: Accounts, caplog: pytest.LogCaptureFixture
) -> None:
    app = App()
    runs = list[int]()

    @app.task
    async def pay() -> None:
        runs.append(jobq.current().attempt)
        async with jobq.current().transaction() as connection:
            connection.execute(PAY, (1,))
        raise ValueError("too late")

    with caplog.at_level(logging.WARNING, "jobq.worker"):
        await run(app, broker, pay.call())
    assert (runs, await accounts.sum(), await accounts.jobs(), await accounts.dead()) == ([1], 1, 0, [])
    assert [record.message for record in caplog.records if "its transaction has committed" in record.message]


async def test_a_body_may_go_on_for_longer_than_its_lease_after_the_commit(
    broker: SqliteBroker, accounts: Accounts, caplog: pytest.LogCaptureFixture
) -> None:
    app = App()
    ended = list[bool]()

    @app.task
    async def pay() -> None:
        async with jobq.current().transaction() as connection:
            connection.execute(PAY, (1,))
        await asyncio.sleep(1.5)  # several heartbeats, which find the job gone
        ended.append(True)

    await run(app, broker, pay.call(), lease=1.0, renew=0.2)
    assert (ended, await accounts.sum(), caplog.text) == ([True], 1, "")


async def test_a_run_that_has_lost_its_job_has_no_transaction(broker: SqliteBroker, accounts: Accounts) -> None:
    app = App()
    stolen, caught = list[bool](), list[str]()

    @app.task
    async def pay() -> None:
        if not stolen:
            stolen.append(True)
            await accounts.steal()
        try:
            async with jobq.current().transaction() as connection:
                connection.execute(PAY, (1,))
        except LeaseLost as exc:
            caught.append(str(exc))
            raise

    await run(app, broker, pay.call())
    assert (len(caught), await accounts.sum(), await accounts.jobs()) == (1, 1, 0)
    assert "no longer held under epoch" in caught[0]


async def test_what_is_not_held_at_the_commit_is_not_settled_and_nothing_is_written(
    broker: SqliteBroker, accounts: Accounts
) -> None:
    await put(broker, "a")
    (held,) = await claim(broker)
    token = Token("a", held.epoch)
    settlement = broker.transactions.settle("w", token)
    connection = await settlement.begin()
    connection.execute(PAY, (1,))
    connection.execute("UPDATE jobs SET epoch = epoch + 1")
    with pytest.raises(LeaseLost):
        await settlement.commit()
    assert (await accounts.sum(), await accounts.jobs()) == (0, 1)
    for worker, stale in (("w", Token("a", held.epoch - 1)), ("w", Token("b", held.epoch)), ("v", token)):
        with pytest.raises(LeaseLost):
            await broker.transactions.settle(worker, stale).begin()
    settlement = broker.transactions.settle("w", token)
    (await settlement.begin()).execute(PAY, (1,))
    await settlement.commit()
    assert (await accounts.sum(), await accounts.jobs()) == (1, 0)
    turn = await broker.turn((Done("a", held.epoch),), Claim("w"))
    assert [refused.id for refused in turn.refused] == ["a"]


async def test_a_worker_whose_lease_has_ended_has_no_transaction(broker: SqliteBroker, accounts: Accounts) -> None:
    await put(broker, "a")
    (held,) = await claim(broker)
    await accounts.do("UPDATE workers SET lease_end = 0")
    with pytest.raises(LeaseLost):
        await broker.transactions.settle("w", Token("a", held.epoch)).begin()
    await broker.heartbeat(WORKER, (), 60)


async def test_a_transaction_that_takes_too_long_is_rolled_back_for_others_to_write(
    broker: SqliteBroker, accounts: Accounts
) -> None:
    app = App()
    errors = list[str]()

    @app.task(retry=soon)
    async def pay() -> None:
        if errors:
            return
        try:
            async with jobq.current().transaction() as connection:
                connection.execute(PAY, (1,))
                cursor = connection.execute("SELECT 1 UNION SELECT 2")
                await accounts.do("INSERT INTO accounts VALUES (100)")  # waits for the end of the transaction
                for use in (cursor.fetchone, lambda: connection.execute(PAY, (2,)), lambda: next(cursor)):
                    with pytest.raises(JobTimeout):
                        use()
        except JobTimeout as exc:
            errors.append(str(exc))
            raise

    await run(app, broker, pay.call(), lease=1.0, renew=0.2)
    assert (await accounts.sum(), await accounts.jobs(), len(errors)) == (100, 0, 1)
    assert "was rolled back after 0.3" in errors[0]
    assert "a third of the lease, and for 5 s at most" in errors[0]


async def test_a_statement_that_takes_too_long_is_interrupted(broker: SqliteBroker, accounts: Accounts) -> None:
    app = App()
    runs = list[int]()

    @app.task(retry=soon)
    async def pay() -> None:
        runs.append(1)
        async with jobq.current().transaction() as connection:
            connection.execute(PAY, (1,))
            if len(runs) == 1:
                await asyncio.to_thread(lambda: connection.execute(FOR_EVER).fetchone())
            if len(runs) == 2:
                connection.execute(f"INSERT INTO accounts {FOR_EVER}")

    await run(app, broker, pay.call(), lease=1.0, renew=0.2)
    assert (len(runs), await accounts.sum(), await accounts.jobs()) == (3, 1, 0)


async def test_transactions_of_jobs_come_one_after_the_other_and_others_in_between(
    broker: SqliteBroker, accounts: Accounts
) -> None:
    app = App()
    is_open, runs, others = list[int](), list[str](), list[int]()

    @app.task
    async def pay() -> None:
        runs.append(jobq.current().id)
        async with jobq.current().transaction() as connection:
            is_open.append(1)
            connection.execute(PAY, (len(is_open),))
            await asyncio.sleep(0.2)
            is_open.pop()

    @app.task
    async def other(number: int) -> None:
        others.append(number)

    calls = [call for number in range(12) for call in (pay.call(), other.call(number))]
    await run(app, broker, *calls, concurrency=8, lease=1.2, renew=0.2)
    assert (await accounts.sum(), await accounts.jobs()) == (12, 0)
    assert (len(set(runs)), sorted(others)) == (12, list(range(12)))
    assert len(runs) == 12, "a lease was lost: it could not be renewed between two transactions"


async def test_jobs_of_two_workers_wait_for_each_other(broker: SqliteBroker, path: Path, accounts: Accounts) -> None:
    app = App()

    @app.task(transaction=True)
    async def pay() -> None:
        jobq.current().connection.execute(PAY, (1,))
        await asyncio.sleep(0.02)

    async with SqliteBroker(url_of(path)) as second:
        await asyncio.gather(
            run(app, broker, *(pay.call() for _ in range(10)), concurrency=5),
            run(app, second, *(pay.call() for _ in range(10)), concurrency=5),
        )
    assert (await accounts.sum(), await accounts.jobs()) == (20, 0)


def commit_by_name(connection: Any) -> None:
    connection.execute("COMMIT")


def commit_by_release(connection: Any) -> None:
    connection.execute("END")


def commit_by_method(connection: Any) -> None:
    connection.commit()


def commit_by_block(connection: Any) -> None:
    with connection:
        pass


def commit_by_script(connection: Any) -> None:
    connection.executescript("INSERT INTO accounts VALUES (1)")


def roll_back_by_name(connection: Any) -> None:
    connection.execute("ROLLBACK")


def roll_back_by_method(connection: Any) -> None:
    connection.rollback()


@pytest.mark.parametrize(
    "end",
    [
        *(commit_by_name, commit_by_release, commit_by_method, commit_by_block, commit_by_script),
        *(roll_back_by_name, roll_back_by_method),
    ],
)
async def test_a_body_cannot_end_its_transaction_by_itself(
    broker: SqliteBroker, accounts: Accounts, end: Callable[[Any], None]
) -> None:
    app = App()

    @app.task(retry=soon)
    async def pay() -> None:
        async with jobq.current().transaction() as connection:
            connection.execute(PAY, (1,))
            if jobq.current().attempt == 1:
                end(connection)
            with pytest.raises((sqlite3.DatabaseError, ConfigError)):
                end(connection)

    await run(app, broker, pay.call())
    assert (await accounts.sum(), await accounts.jobs(), await accounts.dead()) == (1, 0, [])


async def test_what_follows_a_rollback_by_sqlite_is_not_stored_and_the_job_not_settled(
    broker: SqliteBroker, accounts: Accounts
) -> None:
    app = App()
    errors = list[str]()
    await accounts.do("CREATE UNIQUE INDEX once ON accounts (amount)")

    @app.task(retry=soon)
    async def pay() -> None:
        try:
            async with jobq.current().transaction() as connection:
                connection.execute(PAY, (1,))
                if not errors:
                    with pytest.raises(sqlite3.IntegrityError):
                        connection.execute("INSERT OR ROLLBACK INTO accounts VALUES (1)")
                    for sql in (PAY, "SAVEPOINT a", "SELECT ?"):
                        with suppress(sqlite3.ProgrammingError), pytest.raises(sqlite3.DatabaseError, match="auth"):
                            connection.execute(sql, (2,))
        except BrokerRefused as exc:
            errors.append(str(exc))
            raise

    await run(app, broker, pay.call())
    assert (await accounts.sum(), await accounts.jobs(), len(errors)) == (1, 0, 1)
    assert "after an error that the job has caught" in errors[0]


async def test_a_body_that_closes_its_connection_has_stored_nothing(broker: SqliteBroker, accounts: Accounts) -> None:
    app = App()

    @app.task(retry=once)
    async def pay() -> None:
        async with jobq.current().transaction() as connection:
            connection.execute(PAY, (1,))
            connection.close()

    await run(app, broker, pay.call())
    (trail,) = await accounts.dead()
    assert "closed database" in trail
    assert await accounts.sum() == 0


async def test_a_deferred_constraint_fails_the_job_and_not_the_worker(broker: SqliteBroker, accounts: Accounts) -> None:
    app = App()
    await accounts.do("CREATE TABLE parts (amount INTEGER REFERENCES accounts (amount) DEFERRABLE INITIALLY DEFERRED)")
    await accounts.do("CREATE UNIQUE INDEX once ON accounts (amount)")

    errors = list[str]()

    @app.task(retry=once)
    async def pay() -> None:
        try:
            async with jobq.current().transaction() as connection:
                connection.execute("INSERT INTO parts VALUES (5)")
        except sqlite3.IntegrityError as exc:
            errors.append(str(exc))
            raise

    await run(app, broker, pay.call(), pay.call())
    assert (errors, len(await accounts.dead())) == (["FOREIGN KEY constraint failed"] * 2, 2)
    assert await accounts.do("SELECT * FROM parts") == []


async def test_a_statement_that_is_not_at_its_end_fails_the_job_and_locks_nothing(
    broker: SqliteBroker, accounts: Accounts
) -> None:
    app = App()
    cursors = list[Any]()

    @app.task(retry=soon)
    async def pay() -> None:
        async with jobq.current().transaction() as connection:
            cursor = connection.execute("INSERT INTO accounts VALUES (1), (2) RETURNING amount")
            if cursors:
                assert cursor.fetchall() == [(1,), (2,)]
            cursors.append(cursor)

    await run(app, broker, pay.call())
    assert (len(cursors), await accounts.sum(), await accounts.jobs()) == (2, 3, 0)


async def test_savepoints_are_the_bodys_own(broker: SqliteBroker, accounts: Accounts) -> None:
    app = App()

    @app.task(transaction=True)
    async def pay() -> None:
        connection = jobq.current().connection
        connection.execute("SAVEPOINT try")
        connection.execute(PAY, (1,))
        connection.execute("ROLLBACK TO try")
        connection.execute(PAY, (2,))
        connection.execute("RELEASE try")

    await run(app, broker, pay.call())
    assert (await accounts.sum(), await accounts.jobs()) == (2, 0)


async def test_a_job_that_enqueues_beside_its_open_transaction_is_told_so_at_once(
    broker: SqliteBroker, accounts: Accounts
) -> None:
    app = App()
    errors = list[str]()

    @app.task(retry=once)
    async def follow() -> None: ...

    @app.task(retry=once)
    async def pay() -> None:
        client = jobq.current().client
        async with jobq.current().transaction() as connection:
            connection.execute(PAY, (1,))
            for enqueue in (client.perform_async(follow), client.perform_many([follow.call()])):
                try:
                    await enqueue
                except ConfigError as exc:
                    errors.append(str(exc))
            assert await accounts.sum() == 0
        await client.perform_async(follow)

    await run(app, broker, pay.call())
    assert (await accounts.sum(), await accounts.jobs(), await accounts.dead()) == (1, 0, [])
    assert len(errors) == 2
    assert "client.within(jobq.current().connection)" in errors[0]


async def test_a_job_that_enqueues_in_its_transaction_has_done_so_once_or_not_at_all(
    broker: SqliteBroker, accounts: Accounts
) -> None:
    app = App()
    followed = list[int]()

    @app.task
    async def follow(attempt: int) -> None:
        followed.append(attempt)

    @app.task(retry=soon)
    async def pay() -> None:
        job = jobq.current()
        async with job.transaction() as connection:
            connection.row_factory = sqlite3.Row
            connection.execute(PAY, (1,))
            await job.client.within(connection).perform_async(follow, job.attempt)
            await job.client.within(connection).perform_many([follow.call(job.attempt)] * 1500)
            assert connection.execute("SELECT 1 AS one").fetchone()["one"] == 1
            if job.attempt == 1:
                raise ValueError("not yet")

    await run(app, broker, pay.call())
    assert (await accounts.sum(), await accounts.jobs(), followed) == (1, 0, [2] * 1501)


async def test_a_job_that_is_cancelled_while_it_commits_is_done_or_not_but_not_half(
    broker: SqliteBroker, accounts: Accounts
) -> None:
    app = App()
    runs = list[int]()

    @app.task(retry=Retry(max_retries=50, backoff=lambda _: 0), timeout=0.02)
    async def pay() -> None:
        runs.append(1)
        async with jobq.current().transaction() as connection:
            connection.execute(PAY, (1,))
            await asyncio.sleep(0.0005 * (len(runs) % 40))

    await run(app, broker, *(pay.call() for _ in range(20)), concurrency=2)
    assert await accounts.sum() + len(await accounts.dead()) == 20
    assert await accounts.jobs() == 0


async def test_a_job_that_is_cancelled_while_it_waits_for_its_transaction_locks_nothing(
    broker: SqliteBroker, accounts: Accounts
) -> None:
    await put(broker, "a")
    (held,) = await claim(broker)
    with raw(accounts.path) as other:
        other.execute("BEGIN IMMEDIATE")
        waiting = [
            asyncio.ensure_future(broker.transactions.settle("w", Token("a", held.epoch)).begin()) for _ in range(3)
        ]
        await asyncio.wait(waiting, timeout=0.1)
        for one in waiting:
            one.cancel()
        await asyncio.wait(waiting)
        other.execute("COMMIT")
    settlement = broker.transactions.settle("w", Token("a", held.epoch))
    async with asyncio.timeout(PATIENCE):
        await settlement.begin()
        await settlement.commit()
    assert await accounts.jobs() == 0


async def test_a_job_that_is_cancelled_as_its_transaction_begins_locks_nothing(
    broker: SqliteBroker, accounts: Accounts
) -> None:
    await put(broker, "a")
    (held,) = await claim(broker)
    with raw(accounts.path) as other:
        other.execute("BEGIN IMMEDIATE")
        waiting = asyncio.ensure_future(broker.transactions.settle("w", Token("a", held.epoch)).begin())
        await asyncio.wait([waiting], timeout=0.1)
        waiting.cancel()
        other.execute("COMMIT")
        time.sleep(0.1)  # so that it learns of both at once
        await asyncio.wait([waiting])
    async with asyncio.timeout(2):  # it would be open for longer
        await put(broker, "b")
    assert waiting.cancelled()


async def test_a_file_that_stays_locked_is_an_error_and_the_next_one_in_line_has_its_turn(path: Path) -> None:
    async with SqliteBroker(url_of(path, "?timeout=0.1")) as broker:
        await put(broker, "a")
        (held,) = await claim(broker)
        with raw(path) as other:
            other.execute("BEGIN IMMEDIATE")
            for _ in range(2):
                with pytest.raises(BrokerUnavailable, match="is locked"):
                    await broker.transactions.settle("w", Token("a", held.epoch)).begin()
            other.execute("COMMIT")
        settlement = broker.transactions.settle("w", Token("a", held.epoch))
        await settlement.begin()
        await settlement.rollback()
    with pytest.raises(BrokerUnavailable, match="closed"):
        await broker.transactions.settle("w", Token("a", held.epoch)).begin()


async def test_a_transaction_leaves_neither_a_thread_nor_a_connection_behind(
    broker: SqliteBroker, accounts: Accounts
) -> None:
    app = App()
    connections = list["weakref.ref[object]"]()

    @app.task(retry=once)
    async def pay(*, fails: bool) -> None:
        async with jobq.current().transaction() as connection:
            connections.append(weakref.ref(connection))
            connection.execute(PAY, (1,))
            if fails:
                raise ValueError("as told")

    await run(app, broker, pay.call(fails=False), pay.call(fails=True))
    async with asyncio.timeout(PATIENCE):
        while any(thread.name == "jobq-sqlite-transaction" for thread in threading.enumerate()):
            await asyncio.sleep(0.001)
    gc.collect()
    assert [connection() for connection in connections] == [None, None]
    assert await accounts.sum() == 1


async def test_a_job_has_one_transaction(broker: SqliteBroker, accounts: Accounts) -> None:
    app = App()
    errors = list[str]()

    @app.task
    async def pay() -> None:
        with suppress(ZeroDivisionError):
            async with jobq.current().transaction() as connection:
                connection.execute(PAY, (1,))
                print(1 / 0)
        try:
            async with jobq.current().transaction():
                pass
        except ConfigError as exc:
            errors.append(str(exc))

    await run(app, broker, pay.call())
    assert (len(errors), await accounts.sum(), await accounts.jobs()) == (1, 0, 0)
