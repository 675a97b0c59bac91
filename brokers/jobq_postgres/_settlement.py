"""Transactions of jobs: on connections of their own, of which there is a fixed number, so that they starve nobody."""

import asyncio
from contextlib import suppress
from typing import Any, Final

from jobq.errors import LeaseLost
from jobq.model import Token
from jobq_postgres import _schema
from jobq_postgres._driver import ERRORS, Connection
from jobq_postgres._errors import failed, is_lost
from jobq_postgres._lines import Lines, farewell
from jobq_postgres._url import Target

_SETTLE: Final = "SELECT $SCHEMA.settle_1($1, $2, $3, $4)"


class Bench:
    """Connections for the transactions of jobs, on one event loop: at most `most`, and whoever comes later waits."""

    def __init__(self, lines: Lines, most: int) -> None:
        self._lines = lines
        self._idle: list[Connection] = []
        self._places = asyncio.Semaphore(most)
        self._closed = False

    def open(self) -> None:
        self._closed = False

    async def take(self) -> Connection:
        """One for the caller, as soon as there is one."""
        await self._places.acquire()
        try:
            while self._idle:
                connection = self._idle.pop()
                if not connection.is_closed():
                    return connection
            return await self._lines.connect_for_jobs()
        except BaseException:
            self._places.release()
            raise

    async def give_back(self, connection: Connection) -> None:
        """When its transaction has ended; what a job has set on it is unset. In doubt it is ended."""
        kept = False
        try:
            if not connection.is_closed() and not connection.is_in_transaction():
                await connection.reset()
                kept = not self._closed
        except ERRORS:
            pass
        finally:
            if kept:
                self._idle.append(connection)
            else:
                connection.terminate()
            self._places.release()

    async def close(self) -> None:
        """Close what is idle; what is in use is closed after its transaction."""
        self._closed = True
        idle, self._idle = self._idle, []
        await asyncio.gather(*map(farewell, idle))


class PostgresSettlement:
    """One job's transaction."""

    def __init__(self, bench: Bench, target: Target, worker: str, token: Token) -> None:
        self._bench = bench
        self._schema = target.schema
        self._url = target.masked
        self._keep = target.keep_done
        self._who = worker, token.id, token.epoch
        self._connection: Connection = None
        self._transaction: Any = None

    async def begin(self) -> Connection:
        connection = await self._bench.take()
        try:
            transaction = connection.transaction()
            await transaction.start()
        except ERRORS as exc:
            await self._bench.give_back(connection)
            raise failed(exc, self._url, self._schema) from exc
        except BaseException:
            connection.terminate()
            await self._bench.give_back(connection)
            raise
        self._connection, self._transaction = connection, transaction
        return connection

    async def commit(self) -> None:
        try:
            if not await self._connection.fetchval(_schema.quoted(self._schema, _SETTLE), *self._who, self._keep):
                await self._transaction.rollback()
                _, name, epoch = self._who
                raise LeaseLost(f"job {name} is no longer held under epoch {epoch}; what this run did was rolled back")
            await self._transaction.commit()
        except ERRORS as exc:
            if is_lost(exc):
                raise failed(exc, self._url, self._schema) from exc
            with suppress(*ERRORS):
                await self._transaction.rollback()
            raise
        finally:
            await self._bench.give_back(self._connection)

    async def rollback(self) -> None:
        try:
            await self._transaction.rollback()
        except ERRORS:
            self._connection.terminate()  # which is a rollback, too
        finally:
            await self._bench.give_back(self._connection)
