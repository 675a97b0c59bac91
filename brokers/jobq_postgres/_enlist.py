"""Storing jobs in the caller's transaction, on whatever connection it has: one call with one parameter, a text."""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, Final

import msgspec

from jobq.codec import encode_job
from jobq.errors import ConfigError
from jobq.model import Answer, Job, Token
from jobq_postgres import _records
from jobq_postgres._schema import quoted
from jobq_postgres._settlement import Bench, PostgresSettlement
from jobq_postgres._url import Target

_CALL: Final = "SELECT $SCHEMA.enqueue_within_1({jobs}, {ring})"
_KINDS: Final = (
    "an asyncpg connection, also of a pool; a psycopg AsyncConnection; a SQLAlchemy AsyncSession or AsyncConnection"
)
_SYNC_KINDS: Final = "a psycopg Connection; a SQLAlchemy Session or Connection; Django's django.db.connection"
_CLOSED: Final = "there is no transaction open on this connection, so the job could not be rolled back with anything: "
_HINT: Final = (
    "jobq: is this the database that the workers use? If the schema {schema!r} is not in it: jobq schema apply"
)

Payload = tuple[str, bool]
Connection = Any
"""One of several libraries'; none of them has to be installed."""


class PostgresTransactions:
    """The facet; jobs' own transactions are on connections from `bench`."""

    def __init__(self, target: Target, bench: Bench) -> None:
        self._target = target
        self._schema = target.schema
        self._rings = target.listens
        self._bench = bench

    def settle(self, worker: str, token: Token) -> PostgresSettlement:
        return PostgresSettlement(self._bench, self._target, worker, token)

    def bars(self, connection: object) -> bool:
        return False

    def join(self, connection: object) -> "_Joined":
        call = _find(connection, _ASYNC)
        if call is None:
            raise TypeError(_wrong(connection, _KINDS, _SYNC, "a SyncClient"))
        return _Joined(connection, call, self._schema, rings=self._rings)

    def join_sync(self, connection: object) -> "_JoinedSync":
        call = _find(connection, _SYNC)
        if call is None:
            raise TypeError(_wrong(connection, _SYNC_KINDS, _ASYNC, "a Client"))
        return _JoinedSync(connection, call, self._schema, rings=self._rings)


class _Transaction:
    """What both have in common."""

    def __init__(self, connection: object, call: Callable[..., Any], schema: str, *, rings: bool) -> None:
        self._connection = connection
        self._call = call
        self._sql = quoted(schema, _CALL)
        self._hint = _HINT.format(schema=schema)
        self._rings = rings

    def _payload(self, jobs: Sequence[Job]) -> Payload:
        rows = [
            {
                "id": job.id,
                "queue": job.queue,
                "priority": job.priority,
                "due": job.due,
                "delay": job.delay,
                "envelope": encode_job(job).decode(),
            }
            for job in jobs
        ]
        return msgspec.json.encode(rows).decode(), self._rings


class _Joined(_Transaction):
    async def enqueue(self, jobs: Sequence[Job]) -> Sequence[Answer]:
        try:
            return _records.answers(jobs, await self._call(self._connection, self._sql, *self._payload(jobs)))
        except Exception as exc:
            exc.add_note(self._hint)
            raise


class _JoinedSync(_Transaction):
    def enqueue(self, jobs: Sequence[Job]) -> Sequence[Answer]:
        try:
            return _records.answers(jobs, self._call(self._connection, self._sql, *self._payload(jobs)))
        except Exception as exc:
            exc.add_note(self._hint)
            raise


async def _by_asyncpg(connection: Connection, sql: str, jobs: str, ring: bool) -> Any:  # noqa: FBT001
    if not connection.is_in_transaction():
        raise ConfigError(_CLOSED + "async with connection.transaction():")
    return await connection.fetchval(sql.format(jobs="$1", ring="$2"), jobs, ring)


async def _by_psycopg_async(connection: Connection, sql: str, jobs: str, ring: bool) -> Any:  # noqa: FBT001
    _check_psycopg(connection, "async with connection.transaction():")
    cursor = await connection.execute(sql.format(jobs="%s", ring="%s"), (jobs, ring))
    (found,) = await cursor.fetchone()
    return found


def _by_psycopg(connection: Connection, sql: str, jobs: str, ring: bool) -> Any:  # noqa: FBT001
    _check_psycopg(connection, "with connection.transaction():")
    (found,) = connection.execute(sql.format(jobs="%s", ring="%s"), (jobs, ring)).fetchone()
    return found


async def _by_sqlalchemy_async(connection: Connection, sql: str, jobs: str, ring: bool) -> Any:  # noqa: FBT001
    result = await connection.execute(_sqlalchemy_text(sql), {"jobs": jobs, "ring": ring})
    return result.scalar_one()


def _by_sqlalchemy(connection: Connection, sql: str, jobs: str, ring: bool) -> Any:  # noqa: FBT001
    return connection.execute(_sqlalchemy_text(sql), {"jobs": jobs, "ring": ring}).scalar_one()


def _by_django(connection: Connection, sql: str, jobs: str, ring: bool) -> Any:  # noqa: FBT001
    if not connection.in_atomic_block and connection.get_autocommit():
        raise ConfigError(_CLOSED + "with transaction.atomic():")
    with connection.cursor() as cursor:
        cursor.execute(sql.format(jobs="%s", ring="%s"), [jobs, ring])
        (found,) = cursor.fetchone()
    return found


def _check_psycopg(connection: Connection, remedy: str) -> None:
    """One that commits by itself begins no transaction by itself."""
    if connection.autocommit and connection.info.transaction_status.name == "IDLE":
        raise ConfigError(_CLOSED + remedy)


def _sqlalchemy_text(sql: str) -> Any:
    call = sql.format(jobs="CAST(:jobs AS text)", ring="CAST(:ring AS boolean)")
    return import_module("sqlalchemy").text(call)


_Calls = Mapping[tuple[str, str], Callable[..., Any]]
_ASYNC: Final[_Calls] = {
    ("asyncpg", "Connection"): _by_asyncpg,
    ("asyncpg", "PoolConnectionProxy"): _by_asyncpg,
    ("psycopg", "AsyncConnection"): _by_psycopg_async,
    ("sqlalchemy", "AsyncConnection"): _by_sqlalchemy_async,
    ("sqlalchemy", "AsyncSession"): _by_sqlalchemy_async,
    ("sqlalchemy", "async_scoped_session"): _by_sqlalchemy_async,
}
_SYNC: Final[_Calls] = {
    ("psycopg", "Connection"): _by_psycopg,
    ("sqlalchemy", "Connection"): _by_sqlalchemy,
    ("sqlalchemy", "Session"): _by_sqlalchemy,
    ("sqlalchemy", "scoped_session"): _by_sqlalchemy,
    ("django", "BaseDatabaseWrapper"): _by_django,
    ("django", "ConnectionProxy"): _by_django,
}


def _find(connection: object, calls: _Calls) -> Callable[..., Any] | None:
    """By the libraries and names of its classes."""
    names = [(kind.__module__.partition(".")[0], kind.__name__) for kind in type(connection).__mro__]
    return next((calls[name] for name in names if name in calls), None)


def _wrong(connection: object, kinds: str, others: _Calls, other_client: str) -> str:
    kind = type(connection)
    what = f"within() was given a {kind.__module__}.{kind.__qualname__}; it takes {kinds}"
    return f"{what}. That one is for {other_client}" if _find(connection, others) else what
