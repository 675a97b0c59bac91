"""Waking those who wait: by a call within the process, by watching the file for what other processes write."""

import logging
import selectors
import socket
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from types import TracebackType
from typing import Final, Self

from jobq.clock import Clock
from jobq.errors import BrokerError
from jobq_sqlite._errors import is_busy
from jobq_sqlite._inotify import WRITTEN, watch
from jobq_sqlite._open import connect
from jobq_sqlite._ring import Ear
from jobq_sqlite._sleepers import Sleeper
from jobq_sqlite._thread import Servant
from jobq_sqlite._url import Place

_POLL: Final = 0.002
"""Between two looks at whether the file has changed, where it cannot be watched: a look takes some microseconds."""
_SLOW_POLL: Final = 0.05
"""The same where it can: only in case that something was missed."""
_SETTLING: Final = (*[0.001] * 20, *[_POLL] * 500)
"""Seconds between looks after a write by somebody who may not ring: it is seen before it is on the disk, and only then
is it a change. No more often, for each look during a commit makes it longer."""

_AGAIN: Final = 0.5

_DUE: Final = "SELECT min(due) FROM jobs INDEXED BY scheduled WHERE due IS NOT NULL"
_READY: Final = """
SELECT EXISTS (SELECT 1 FROM jobs INDEXED BY ready WHERE queue = ? AND due IS NULL AND epoch IS NULL)
"""

_log = logging.getLogger("jobq.sqlite")


class Watcher:
    """A thread with a connection of its own that wakes sleepers when the file gets work for them."""

    def __init__(self, place: Place, clock: Clock) -> None:
        self._place = place
        self._clock = clock
        self._sleepers = set[Sleeper]()
        self._closing = False
        self._poker, self._poked = socket.socketpair()
        for end in (self._poker, self._poked):
            end.settimeout(0)
        self._servant = Servant("jobq-sqlite-watcher", self._run)
        self._servant.start()

    def add(self, sleeper: Sleeper) -> None:
        """Wake it when there is something for it, perhaps at once."""
        self._sleepers.add(sleeper)
        self._poke()

    def discard(self, sleeper: Sleeper) -> None:
        """Leave it alone."""
        self._sleepers.discard(sleeper)

    async def close(self) -> None:
        """End the thread."""
        self._closing = True
        self._poke()
        await self._servant.ended()
        self._poker.close()
        self._poked.close()

    def _poke(self) -> None:
        with suppress(BlockingIOError):  # it has been poked often enough
            self._poker.send(b"!")

    def _run(self) -> None:
        while not self._closing:
            try:
                with closing(connect(self._place)) as db, _Bell(self._poked, f"{self._place.path}-wal") as bell:
                    self._watch(db, bell)
            except (BrokerError, sqlite3.Error, OSError):
                _log.warning("cannot watch %s; trying again", self._place.path, exc_info=True)
                time.sleep(_AGAIN)

    def _watch(self, db: sqlite3.Connection, bell: "_Bell") -> None:
        before = None
        while not self._closing:
            bell.listen(on=bool(self._sleepers))
            try:
                version = db.execute("PRAGMA data_version").fetchone()
                self._look(db, everybody=version != before)
            except sqlite3.OperationalError as exc:
                if not is_busy(exc):
                    raise
                version = None
            bell.wait(changed=version != before, anybody=bool(self._sleepers))
            before = version

    def _look(self, db: sqlite3.Connection, *, everybody: bool) -> None:
        for sleeper in tuple(self._sleepers):
            if everybody or not sleeper.seen:
                self._consider(db, sleeper)

    def _consider(self, db: sqlite3.Connection, sleeper: Sleeper) -> None:
        due: float | None = db.execute(_DUE).fetchone()[0]
        ready = any(db.execute(_READY, (queue,)).fetchone()[0] for queue in sleeper.queues)
        earlier = sleeper.seen and due is not None and (sleeper.next_due is None or due < sleeper.next_due)
        if ready or earlier or (due is not None and due <= self._clock.time()):
            sleeper.wake()
        sleeper.seen, sleeper.next_due = True, due


class _Bell:
    """When to look again: poked, rung at, the file was written to, or it is time."""

    def __init__(self, poked: socket.socket, log: str) -> None:
        self._poked = poked
        self._ear = Ear(log)
        self._written = watch(log, WRITTEN)
        self._settling: Iterator[float] = iter(())

    def __enter__(self) -> Self:
        self._poke, self._told, self._any = (selectors.DefaultSelector() for _ in range(3))
        for selector, sources in (
            (self._poke, (self._poked,)),
            (self._told, (self._poked, self._ear.heard)),
            (self._any, (self._poked, self._ear.heard, self._written)),
        ):
            for source in sources:
                if source is not None:
                    selector.register(source, selectors.EVENT_READ)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None, /
    ) -> None:
        for selector in (self._poke, self._told, self._any):
            selector.close()
        self._ear.close()
        if self._written is not None:
            self._written.close()

    def listen(self, *, on: bool) -> None:
        """Let others know whether to ring. Who begins has to look after that."""
        self._ear.listen(on=on)

    def wait(self, *, changed: bool, anybody: bool) -> None:
        """Return when it is time for another look; never, if there is nobody to wake and nobody pokes."""
        if changed:
            self._settling = iter(())
        if not anybody:
            self._poke.select()
        elif self._ear.heard is None or self._written is None:
            self._poke.select(_POLL)
        elif (pause := next(self._settling, None)) is not None:
            self._told.select(pause)  # not at each of many writes
        elif any(key.fileobj is self._written for key, _ in self._any.select(_SLOW_POLL)):
            self._settling = iter(_SETTLING)
        self._clear()

    def _clear(self) -> None:
        for file in (self._ear.heard, self._written):
            if file is not None:
                file.clear()
        with suppress(BlockingIOError):
            self._poked.recv(4096)
