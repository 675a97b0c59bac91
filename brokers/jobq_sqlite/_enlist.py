"""Transactions that other work is in, too: those of jobs, and storing jobs in those of the caller."""

import asyncio
import sqlite3
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from jobq.clock import Clock
from jobq.errors import ConfigError
from jobq.model import Answer, Job, Token
from jobq_sqlite._connection import JobConnection
from jobq_sqlite._enqueue import store_in
from jobq_sqlite._settlement import SqliteSettlement
from jobq_sqlite._sql import Tx
from jobq_sqlite._writer import Writer

_FILE: Final = "SELECT file FROM pragma_database_list WHERE name = 'main'"


class SqliteTransactions:
    """The facet, on the writer that `opened` returns; of jobs' transactions, one is open at a time: `line` is held."""

    def __init__(self, opened: Callable[[], Writer], clock: Clock, line: asyncio.Lock) -> None:
        self._opened = opened
        self._clock = clock
        self._line = line

    def settle(self, worker: str, token: Token) -> SqliteSettlement:
        return SqliteSettlement(self._opened, self._clock, self._line, worker, token)

    def bars(self, connection: object) -> bool:
        return isinstance(connection, JobConnection) and connection.path == self._path

    def join(self, connection: object) -> "_Joined":
        if not isinstance(connection, JobConnection):
            raise TypeError(
                f"within() was given a {_name(connection)}; on SQLite a Client takes what the transaction of a running "
                "job is open on, jobq.current().connection. A connection of the module sqlite3 blocks the event loop: "
                "use it, and a SyncClient, in a thread"
            )
        return _Joined(self._joined(connection))

    def join_sync(self, connection: object) -> "_JoinedSync":
        if not isinstance(connection, sqlite3.Connection):
            raise TypeError(
                f"within() was given a {_name(connection)}; it takes a connection of the module sqlite3 to the file of "
                "the broker. Of SQLAlchemy and Django, that is what their connections have inside"
            )
        return self._joined(connection)

    def _joined(self, connection: sqlite3.Connection) -> "_JoinedSync":
        return _JoinedSync(connection, self._path, self._clock)

    @property
    def _path(self) -> Path:
        return self._opened().place.path


class _JoinedSync:
    def __init__(self, connection: sqlite3.Connection, path: Path, clock: Clock) -> None:
        self._connection = connection
        self._path = path
        self._clock = clock

    def enqueue(self, jobs: Sequence[Job]) -> Sequence[Answer]:
        with _plain(self._connection) as db:
            if not db.in_transaction:
                raise ConfigError(
                    "there is no transaction open on this connection, so the job could not be rolled back with "
                    'anything: connection.execute("BEGIN IMMEDIATE")'
                )
            (file,) = db.execute(_FILE).fetchone()
            if not file or not self._path.samefile(file):
                raise ConfigError(f"this connection is to {file or 'no file'}, and the workers use {self._path}")
            return store_in(Tx(db, self._clock.time()), jobs)


class _Joined:
    def __init__(self, joined: _JoinedSync) -> None:
        self._joined = joined

    async def enqueue(self, jobs: Sequence[Job]) -> Sequence[Answer]:
        return await asyncio.to_thread(self._joined.enqueue, jobs)


@contextmanager
def _plain(connection: sqlite3.Connection) -> Generator[sqlite3.Connection]:
    """While rows are tuples, and texts are strings, on it."""
    kept = connection.row_factory, connection.text_factory
    connection.row_factory, connection.text_factory = None, str
    try:
        yield connection
    finally:
        connection.row_factory, connection.text_factory = kept


def _name(thing: object) -> str:
    return f"{type(thing).__module__}.{type(thing).__qualname__}"
