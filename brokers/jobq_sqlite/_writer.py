"""The thread that owns a connection and puts the calls that are waiting into one transaction."""

import asyncio
import math
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from queue import Empty, SimpleQueue
from typing import Any, Final, TypeVar

from jobq.clock import Clock
from jobq.errors import BrokerRefused, BrokerUnavailable, OutcomeUnknown
from jobq_sqlite._errors import is_busy, primary_code, translate
from jobq_sqlite._log import Log
from jobq_sqlite._open import WAL_LIMIT, connect, patiently
from jobq_sqlite._ring import ring
from jobq_sqlite._sleepers import sleepers_of
from jobq_sqlite._sql import Tx
from jobq_sqlite._stamps import stamps_of
from jobq_sqlite._thread import Servant, resolve
from jobq_sqlite._turn import TURNS
from jobq_sqlite._url import Place
from jobq_sqlite._verb import Verb

T = TypeVar("T")

_MOST_JOBS: Final = 1000
"""In one transaction, so that other processes get their turn."""
_MOST_COMMITS: Final = 100
"""After so many, the log is copied into the database in a quiet moment, before SQLite does it within a call."""
_QUIET: Final = 0.002
_IDLE: Final = 1.0
_LAST: Final = 1.0
"""Seconds that a writer which is closed still waits for the locks of others: a worker has two for its whole end."""


AnyVerb = Verb[Any]


class Writer:
    """Runs verbs in its own thread, several callers in one transaction, and answers each once it is committed.

    If a transaction fails, its verbs are run again one by one, so that each fails only for its own reasons.
    """

    def __init__(self, place: Place, clock: Clock) -> None:
        self.place = place
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._calls = SimpleQueue[AnyVerb | None]()
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._closing = False
        self._latest = math.inf
        self._dirty = False
        self._commits = 0
        self._unsynced = False
        self._pid = os.getpid()
        self._servant = Servant("jobq-sqlite-writer", self._run)

    async def start(self) -> None:
        """Connect. Raises what `connect` raises."""
        self._servant.start()
        try:
            await self._opened
        except asyncio.CancelledError:
            self._calls.put(None)
            raise

    async def call(self, verb: Verb[T]) -> T:
        """Run `verb` and return its answer once it is on the disk. Being cancelled does not stop it."""
        self.check()
        future: asyncio.Future[None] = self._loop.create_future()
        verb.future = future
        self._calls.put(verb)
        await future
        return verb.answer

    async def close(self) -> None:
        """Finish what was called, if others let us within a second, and end the thread."""
        if self._closing or os.getpid() != self._pid:
            return
        self._closing = True
        self._latest = time.monotonic() + _LAST
        self._calls.put(None)
        await self._servant.ended()

    def check(self) -> None:
        """Raise what any call would raise without trying."""
        if os.getpid() != self._pid:
            raise BrokerRefused(
                f"{self.place.path} was opened before this process was forked, and SQLite does not survive a fork. "
                "Open the broker after forking"
            )
        if self._closing:
            raise BrokerUnavailable(f"{self.place.path} is closed: the broker is used outside its `async with`")

    def _run(self) -> None:
        try:
            db = self._connect()
        except BaseException as exc:  # noqa: BLE001 - raised where the broker is entered
            self._servant.post(resolve, self._opened, exc)
            return
        with closing(db), closing(self._log):
            self._servant.post(resolve, self._opened, None)
            while batch := self._next_batch(db):
                self._serve(db, batch)
                self._finish(db, batch)

    def _connect(self) -> sqlite3.Connection:
        path = self.place.path.resolve()
        self.place = replace(self.place, path=path)
        self.sleepers = sleepers_of(path)
        self.stamps = stamps_of(path)
        db = connect(self.place, TURNS)
        try:
            self._log = Log(path)
        except OSError as exc:
            db.close()
            raise BrokerUnavailable(f"cannot open the log beside {path} ({exc.strerror})") from exc
        return db

    def _next_batch(self, db: sqlite3.Connection) -> list[AnyVerb]:
        """Wait for calls and take those that are there; nothing means the end."""
        verb = self._first(db)
        batch: list[AnyVerb] = []
        weight = 0
        while verb is not None:
            batch.append(verb)
            weight += verb.weight
            if weight >= _MOST_JOBS or self._calls.empty():
                break
            verb = self._calls.get_nowait()  # nobody else takes any
        else:
            self._calls.put(None)  # the end is for the next look
        return batch

    def _first(self, db: sqlite3.Connection) -> AnyVerb | None:
        while True:
            crowded = self._commits >= _MOST_COMMITS
            try:
                return self._calls.get(timeout=_QUIET if crowded else _IDLE if self._dirty else None)
            except Empty:
                if crowded:
                    self._empty_log(db, "PASSIVE")
                else:
                    self._dirty = not self._shrink_log(db)

    def _shrink_log(self, db: sqlite3.Connection) -> bool:
        """Shorten a log that has outgrown its limit, if no reader needs it any more. Returns whether it is small."""
        if self._log.size() <= WAL_LIMIT:
            return True
        self._empty_log(db, "TRUNCATE")
        return False

    def _empty_log(self, db: sqlite3.Connection, how: str) -> None:
        self._commits = 0
        with suppress(sqlite3.Error):
            db.execute(f"PRAGMA wal_checkpoint({how})").fetchone()

    def _finish(self, db: sqlite3.Connection, batch: Sequence[AnyVerb]) -> None:
        """Answer the calls, as soon as they are on the disk or, if that can wait, before."""
        stored = [verb for verb in batch if verb.failure is None]
        durable = [verb for verb in stored if verb.durable]
        if any(verb.wakes for verb in stored):
            self.sleepers.wake()  # before the callers know, who may go to sleep themselves
            ring(self._log.path, self._log.fileno())
        if durable:
            self._sync(db, durable)
            self._servant.post(_answer, batch)
        else:
            self._servant.post(_answer, batch)
            self._sync(db)

    def _sync(self, db: sqlite3.Connection, verbs: Sequence[AnyVerb] = ()) -> None:
        if not self._unsynced or self.place.synchronous != "full":
            return
        try:
            self._log.sync(db)
            self._unsynced = False
        except OutcomeUnknown as exc:
            self._fail(verbs, exc)

    def _serve(self, db: sqlite3.Connection, batch: Sequence[AnyVerb]) -> None:
        try:
            patiently(lambda: self._attempt(db, batch), self.place.timeout, lambda: self._latest)
        except Exception as exc:  # noqa: BLE001 - the callers' business
            everybody = isinstance(exc, OutcomeUnknown) or (isinstance(exc, sqlite3.Error) and is_busy(exc))
            if everybody or len(batch) == 1:
                self._fail(batch, exc)
                return
            for verb in batch:
                self._serve(db, [verb])

    def _fail(self, batch: Sequence[AnyVerb], exc: Exception) -> None:
        for verb in batch:
            if isinstance(exc, sqlite3.Error):
                verb.failure = translate(exc, self.place.path, self.place.timeout)
                verb.failure.__cause__ = exc
            else:
                verb.failure = exc

    def _attempt(self, db: sqlite3.Connection, batch: Sequence[AnyVerb]) -> None:
        tx = Tx(db, self._clock.time())
        writing = [verb for verb in batch if not verb.glance(tx)]
        if not writing:
            return
        self._dirty = self._unsynced = True
        kind = type(writing[0])
        alike = len(writing) == 1 or all(type(verb) is kind for verb in writing)
        if not (alike and self._storing(lambda: kind.at_once(tx, writing))):
            self._transact(db, writing)
        for verb in writing:
            verb.stored()
        self._commits += 1

    def _transact(self, db: sqlite3.Connection, verbs: Sequence[AnyVerb]) -> None:
        kinds: dict[type[AnyVerb], list[AnyVerb]] = {
            kind: [verb for verb in verbs if type(verb) is kind] for kind in map(type, verbs)
        }
        db.execute("BEGIN IMMEDIATE")
        try:
            tx = Tx(db, self._clock.time())
            for kind, alike in kinds.items():
                if len(kinds) == 1 or not kind.at_once(tx, alike):
                    kind.run_all(tx, alike)
            self._storing(lambda: db.execute("COMMIT"))
        finally:
            if db.in_transaction:
                with suppress(sqlite3.Error):
                    db.execute("ROLLBACK")

    def _storing(self, act: Callable[[], T]) -> T:
        try:
            return act()
        except sqlite3.OperationalError as exc:
            if primary_code(exc) != sqlite3.SQLITE_IOERR:
                raise
            raise OutcomeUnknown(f"{self.place.path}: the disk failed while storing ({exc})") from exc


def _answer(batch: Iterable[AnyVerb]) -> None:
    for verb in batch:
        if verb.future is not None:
            resolve(verb.future, verb.failure)
