"""Transactions of jobs. One of them keeps everybody else from writing to the file, so none may last for long."""

import asyncio
import math
import sqlite3
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Final

from jobq.clock import Clock
from jobq.errors import BrokerRefused, LeaseLost, OutcomeUnknown
from jobq.model import Token
from jobq_sqlite._connection import JobConnection
from jobq_sqlite._errors import primary_code, translate
from jobq_sqlite._open import connect_with, patiently
from jobq_sqlite._thread import Servant, resolve
from jobq_sqlite._url import Place
from jobq_sqlite._writer import Writer

LONGEST: Final = 5.0
SHARE: Final = 3
"""A transaction may last for this part of what is left of the lease, which nobody can renew meanwhile."""
_GAP: Final = 0.005
"""Seconds between two transactions in which others get the lock: who waits for it looks every 2 ms."""

_PRAGMAS: Final = "PRAGMA foreign_keys = ON; PRAGMA synchronous = {};"  # neither can be set in a transaction
_LEASE_END: Final = """
SELECT w.lease_end FROM jobs AS j JOIN workers AS w ON w.n = j.worker WHERE j.id = ? AND j.epoch = ? AND w.id = ?
"""
_SETTLE: Final = "DELETE FROM jobs WHERE id = ? AND epoch = ? AND worker = (SELECT n FROM workers WHERE id = ?)"
_BY_THE_JOB: Final = {sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_BUSY}
"""Why a commit fails for what the job has done: a deferred constraint, a statement that is not at its end."""

_Who = tuple[str, int, str]


class SqliteSettlement:
    """One job's transaction. `line` is held while it is open, so that those of one process come in order."""

    def __init__(
        self, opened: Callable[[], Writer], clock: Clock, line: asyncio.Lock, worker: str, token: Token
    ) -> None:
        self._opened = opened
        self._clock = clock
        self._line = line
        self._who = token.id, token.epoch, worker
        self._keeper: _Keeper | None = None

    async def begin(self) -> JobConnection:
        await self._line.acquire()
        try:
            writer = self._opened()
            writer.check()
            keeper = self._keeper = _Keeper(writer.place, self._clock, self._who, self._leave)
        except BaseException:
            self._line.release()
            raise
        return await keeper.begin()

    async def commit(self) -> None:
        assert self._keeper is not None
        await self._keeper.end(self._keeper.commit)

    async def rollback(self) -> None:
        assert self._keeper is not None
        await self._keeper.end(_roll_back)

    def _leave(self, held: float) -> None:
        asyncio.get_running_loop().call_later(min(held, _GAP), self._line.release)


class _Keeper:
    """The thread that begins a transaction, and ends it as it is told to, or by itself in time."""

    def __init__(self, place: Place, clock: Clock, who: _Who, leave: Callable[[float], None]) -> None:
        self._place = place
        self._clock = clock
        self._who = who
        self._leave = leave
        loop = asyncio.get_running_loop()
        self._begun: asyncio.Future[None] = loop.create_future()
        self._ended: asyncio.Future[None] = loop.create_future()
        self._ends = SimpleQueue[Callable[[], None]]()
        self._patience = math.inf
        self._servant = Servant("jobq-sqlite-transaction", self._run)
        self._servant.start()

    async def begin(self) -> JobConnection:
        """The connection, once the transaction is open."""
        try:
            await self._begun
        except asyncio.CancelledError:
            self._patience = -math.inf
            self._ends.put(_roll_back)
            raise
        return self._connection

    async def end(self, how: Callable[[], None]) -> None:
        """Do the last thing in the transaction. What is not committed by that is undone."""
        self._ends.put(how)
        await self._ended

    def commit(self) -> None:
        """Settle the job, and store that with what it has done."""
        path = self._place.path
        try:
            self._commit(self._connection)
        except sqlite3.Error as exc:
            code = primary_code(exc)
            if code in _BY_THE_JOB:
                raise
            if code == sqlite3.SQLITE_IOERR:
                raise OutcomeUnknown(f"{path}: the disk failed while storing ({exc})") from exc
            raise translate(exc, path, self._place.timeout) from exc

    def _commit(self, connection: JobConnection) -> None:
        with connection.use():
            if not connection.in_transaction:
                raise BrokerRefused(
                    f"SQLite has rolled back the transaction of job {self._who[0]} on {connection.path}, after an "
                    "error that the job has caught; nothing that it did there is stored"
                )
            if connection.execute(_SETTLE, self._who).rowcount != 1:
                raise self._lost()
            connection.execute("COMMIT")

    def _run(self) -> None:
        try:
            longest = self._open()
        except Exception as exc:  # noqa: BLE001 - raised where it is begun
            self._servant.post(self._leave, 0.0)
            self._servant.post(resolve, self._begun, exc)
        else:
            self._servant.post(resolve, self._begun, None)
            self._servant.post(resolve, self._ended, self._keep(longest))

    def _open(self) -> float:
        """Begin, and say for how many seconds it may last."""
        self._connection = connect_with(JobConnection, self._place, _PRAGMAS.format(self._place.synchronous))
        try:
            patiently(self._begin, self._place.timeout, lambda: self._patience)
            longest = min(LONGEST, self._lease_left() / SHARE)
        except BaseException as exc:
            self._connection.end()
            if isinstance(exc, sqlite3.Error):
                raise translate(exc, self._place.path, self._place.timeout) from exc
            raise
        self._connection.keep(time.monotonic() + longest, self._too_long(longest))
        return longest

    def _begin(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")

    def _lease_left(self) -> float:
        found = self._connection.execute(_LEASE_END, self._who).fetchone()
        left: float = 0.0 if found is None else found[0] - self._clock.time()
        if left <= 0:
            raise self._lost()
        return left

    def _keep(self, longest: float) -> BaseException | None:
        """Wait for its end, and see to it. Returns why it failed."""
        connection, began = self._connection, time.monotonic()
        try:
            how = self._ends.get(timeout=longest)
        except Empty:
            connection.end(late=True)
            self._servant.post(self._leave, longest)
            return _failure_of(self._ends.get())
        failure = _failure_of(how)
        connection.end()
        self._servant.post(self._leave, time.monotonic() - began)
        return failure

    def _too_long(self, longest: float) -> str:
        return (
            f"the transaction of job {self._who[0]} was rolled back after {longest:.2g} s: meanwhile nobody else can "
            f"write to {self._place.path}, so it may last for a third of the lease, and for {LONGEST:g} s at most. "
            "Do before it what takes long, and in it nothing but the writing"
        )

    def _lost(self) -> LeaseLost:
        name, epoch, _ = self._who
        return LeaseLost(f"job {name} is no longer held under epoch {epoch}; what this run did was rolled back")


def _roll_back() -> None:
    """Commit nothing."""


def _failure_of(act: Callable[[], None]) -> BaseException | None:
    try:
        act()
    except Exception as exc:  # noqa: BLE001 - raised where it was asked for
        return exc
    return None
