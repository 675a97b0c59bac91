"""Connections that are kept: each call has one for itself, and none is ever cut in the middle and used again."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, TypeVar, cast

from jobq.errors import BrokerRefused, BrokerUnavailable
from jobq_postgres import _schema
from jobq_postgres._driver import ERRORS, NOT_CONNECTED, Connection, Row, connect
from jobq_postgres._errors import failed, unreachable
from jobq_postgres._url import Target
from jobq_postgres._watch import Watch

T = TypeVar("T")

_MOST: Final = 4
"""Connections at once: a turn, an enqueue, a sweep, and one to spare."""
_GOODBYE: Final = 1.0
_SHARE: Final = 0.8
"""Of the timeout, after which the server gives up by itself: then it is certain that nothing was done."""
_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 5.0
_DOUBLINGS: Final = 10
_OLDEST_SERVER: Final = (12, 0)


class _Line:
    """A connection, and what has been prepared on it."""

    __slots__ = ("connection", "prepared")

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.prepared: dict[str, Any] = {}

    async def fetch(self, sql: str, args: Sequence[object]) -> Sequence[Row]:
        """The rows that a statement brings."""
        statement = self.prepared.get(sql) or await self._prepare(sql)
        return cast("Sequence[Row]", await statement.fetch(*args))

    async def execute(self, sql: str, args: Sequence[object]) -> str:
        """What a statement has done, as Postgres says it: `INSERT 0 1`."""
        statement = self.prepared.get(sql) or await self._prepare(sql)
        await statement.fetch(*args)
        return cast("str", statement.get_statusmsg())

    async def _prepare(self, sql: str) -> Any:
        statement = self.prepared[sql] = await self.connection.prepare(sql)
        return statement


_Ask = Callable[[_Line, str, Sequence[object]], Awaitable[T]]


class Lines:
    """A few connections on one event loop, opened when needed."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._watch = Watch(target.timeout)
        self._idle: list[_Line] = []
        self._slots = asyncio.Semaphore(_MOST)
        self._closed = True

    async def open(self) -> None:
        """Connect, look at the server, and see to the schema. Raises `BrokerUnavailable` or `BrokerRefused`."""
        self._closed = False
        connection = await self._connect(self._limits())
        try:
            async with asyncio.timeout(self._target.timeout), connection.transaction():
                await self._check(connection)
        except ERRORS as exc:
            connection.terminate()
            raise failed(exc, self._target.masked, self._target.schema) from exc
        except BaseException:
            connection.terminate()
            raise
        await self._keep(_Line(connection))

    async def call(self, sql: str, args: Sequence[object]) -> Sequence[Row]:
        """The rows that one statement brings. See `_on_line`."""
        return await self._on_line(self._fetch, sql, args)

    async def change(self, sql: str, args: Sequence[object]) -> int:
        """How many rows one statement has stored or changed. See `_on_line`."""
        status = await self._on_line(self._execute, sql, args)
        return int(status.rpartition(" ")[2])

    async def _on_line(self, ask: _Ask[T], sql: str, args: Sequence[object]) -> T:
        """What one statement answers.

        When the caller is cancelled the connection is closed, as nobody knows how far the server has come: it may have
        happened, as after a lost reply.
        """
        async with self._slots:
            line = self._take() or _Line(await self._connect(self._limits()))
            self._watch.begin(line.connection)
            try:
                answer = await ask(line, sql, args)
            except ERRORS as exc:
                cause = TimeoutError() if self._watch.end(line.connection) else exc
                error = failed(cause, self._target.masked, self._target.schema)
                if isinstance(error, BrokerUnavailable):
                    line.connection.terminate()
                else:
                    await self._keep(line)
                raise error from exc
            except BaseException:
                self._watch.end(line.connection)
                line.connection.terminate()
                raise
            self._watch.end(line.connection)
            await self._keep(line)
            return answer

    async def connect(self, on_end: Callable[[], None]) -> Connection:
        """A connection of the caller's own for our statements. `on_end` is called when it is lost."""
        connection = await self._connect(self._limits(), self._target.timeout)
        connection.add_termination_listener(partial(_call, on_end))
        return connection

    async def connect_for_jobs(self) -> Connection:
        """A connection for statements of the application's, with the server's own settings."""
        return await self._connect({})

    async def connect_alone(self, settings: Mapping[str, str], patience: float | None = None) -> Connection:
        """A connection for once, whether this is open or not. Each statement may take `patience` seconds."""
        try:
            async with asyncio.timeout(self._target.timeout):
                return await connect(
                    self._target.dsn,
                    timeout=self._target.timeout,
                    command_timeout=patience,
                    statement_cache_size=0 if self._target.pooled else 100,
                    server_settings={"application_name": "jobq", **({} if self._target.pooled else settings)},
                )
        except NOT_CONNECTED as exc:
            raise unreachable(exc, self._target.masked) from exc

    async def ask(self, connection: Connection, sql: str) -> None:
        """Run a statement on a connection of the caller's own."""
        try:
            await connection.fetch(sql)
        except ERRORS as exc:
            raise failed(exc, self._target.masked, self._target.schema) from exc

    async def listen(self, connection: Connection, channel: str, heard: Callable[..., None]) -> None:
        """Have `heard` called with the connection, the sender, the channel and the text of each notification."""
        try:
            await connection.add_listener(channel, heard)
        except ERRORS as exc:
            raise failed(exc, self._target.masked, self._target.schema) from exc

    async def close(self) -> None:
        """Close what is idle; what is in use is closed after its call, and no more calls are accepted."""
        self._closed = True
        idle, self._idle = self._idle, []
        await asyncio.gather(*(farewell(line.connection) for line in idle))

    def _take(self) -> _Line | None:
        while self._idle:
            line = self._idle.pop()
            if not line.connection.is_closed():
                return line
        return None

    async def _connect(self, settings: Mapping[str, str], patience: float | None = None) -> Connection:
        if self._closed:
            raise BrokerUnavailable(f"this broker on {self._target.masked} is closed; use it inside `async with`")
        return await self.connect_alone(settings, patience)

    def _limits(self) -> dict[str, str]:
        """What the server is to do by itself."""
        limit = str(round(self._target.timeout * _SHARE * 1000))
        return {
            "jit": "off",
            "plan_cache_mode": "force_generic_plan",
            "statement_timeout": limit,
            "lock_timeout": limit,
            "idle_in_transaction_session_timeout": limit,
        }

    async def _fetch(self, line: _Line, sql: str, args: Sequence[object]) -> Sequence[Row]:
        if not self._target.pooled:
            return await line.fetch(sql, args)
        async with line.connection.transaction():  # whose statements are all on one connection of the pooler's
            return cast("Sequence[Row]", await line.connection.fetch(sql, *args))

    async def _execute(self, line: _Line, sql: str, args: Sequence[object]) -> str:
        if not self._target.pooled:
            return await line.execute(sql, args)
        async with line.connection.transaction():
            return cast("str", await line.connection.execute(sql, *args))

    async def _keep(self, line: _Line) -> None:
        if self._closed:
            await farewell(line.connection)
        elif not line.connection.is_closed():
            self._idle.append(line)

    async def _check(self, connection: Connection) -> None:
        target = self._target
        version = connection.get_server_version()
        if version < _OLDEST_SERVER:
            raise BrokerRefused(f"Postgres at {target.masked} is {version.major}; jobq needs 12 or newer")
        if await connection.fetchval("SHOW server_encoding") != "UTF8":
            raise BrokerRefused(f"the database at {target.masked} is not encoded in UTF8, which jobq needs")
        lacking = await _schema.missing(connection, target.schema)
        if lacking is None:
            return
        if not target.applies:
            raise BrokerRefused(
                f"{lacking} at {target.masked}, and the URL says apply=no: jobq schema apply --broker URL"
            )
        await _schema.apply(connection, target.schema)


def _call(function: Callable[[], None], _: Connection) -> None:
    function()


async def farewell(connection: Connection) -> None:
    """Close it; a server that does not answer is not waited for."""
    try:
        await connection.close(timeout=_GOODBYE)
    except ERRORS:
        connection.terminate()


async def rest(attempt: int) -> None:
    """Pause before the next attempt, by chance: clients that were cut off together do not come back together."""
    await asyncio.sleep(random.uniform(0, min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(attempt, _DOUBLINGS))))
