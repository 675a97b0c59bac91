"""One connection that hears notifications, made again when it is lost; it says whether somebody here sleeps."""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from jobq.errors import BrokerError
from jobq_postgres import _schema
from jobq_postgres._driver import Connection
from jobq_postgres._lines import Lines, farewell, rest

_SLEEP: Final = "SELECT $SCHEMA.sleep_1()"
_AWAKE: Final = "SELECT $SCHEMA.awake_1()"

log = logging.getLogger("jobq.postgres")


class Ears:
    """Calls `heard` with what each notification says, and `changed` when it begins or ceases to hear.

    While `sleep` is in force others ring for this process, as they see the lock that it holds.
    """

    def __init__(self, lines: Lines, schema: str, heard: Callable[[str], None], changed: Callable[[], None]) -> None:
        self._lines = lines
        self._channel = f"jobq:{schema}"
        self._sleep_sql, self._awake_sql = _schema.quoted(schema, _SLEEP), _schema.quoted(schema, _AWAKE)
        self._heard = heard
        self._changed = changed
        self._connection: Connection | None = None
        self._asleep = False
        self._changing = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Begin, if it has not begun."""
        if self._task is None:
            self._task = asyncio.create_task(self._keep(), name="jobq postgres notifications")

    async def sleep(self) -> bool:
        """Have others ring from now on; False if nothing is heard at the moment."""
        if self._asleep:
            return True
        return await self._change(self._sleep_sql, asleep=True)

    async def awake(self) -> None:
        """Have nobody ring any more."""
        if self._asleep:
            await self._change(self._awake_sql, asleep=False)

    async def close(self) -> None:
        """Hear nothing more."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _change(self, sql: str, *, asleep: bool) -> bool:
        async with self._changing:
            connection = self._connection
            if connection is None or asleep == self._asleep:
                return self._asleep
            self._asleep = False  # for the case that this goes wrong
            try:
                await self._lines.ask(connection, sql)
            except BrokerError:
                connection.terminate()  # a new one holds nothing
                return False
            self._asleep = asleep and connection is self._connection
            return self._asleep

    async def _keep(self) -> None:
        attempt = 0
        while True:
            try:
                await self._session()
                attempt = 0
            except BrokerError:
                attempt += 1
            except Exception:  # whatever it was, the next connection may be better
                log.exception("listening for notifications failed; trying again")
                attempt += 1
            await rest(attempt)

    async def _session(self) -> None:
        """One connection, until it is lost."""
        lost = asyncio.Event()
        connection = await self._lines.connect(lost.set)
        try:
            await self._lines.listen(connection, self._channel, self._hear)
            self._connection = connection
            self._changed()
            await lost.wait()
        finally:
            self._connection, self._asleep = None, False
            self._changed()
            await farewell(connection)

    def _hear(self, _connection: Connection, _sender: int, _channel: str, queue: str) -> None:
        self._heard(queue)
