"""The protocol: each verb is one call to the writer's thread."""

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from jobq.broker import Capability, DeadLetters
from jobq.clock import SYSTEM_CLOCK, Clock
from jobq.errors import BrokerUnavailable
from jobq.model import Answer, Beat, Claim, Job, Orders, Outcome, Stamp, Swept, Turn, WorkerInfo
from jobq_sqlite._dead import SqliteDeadLetters
from jobq_sqlite._enlist import SqliteTransactions
from jobq_sqlite._enqueue import Enqueue
from jobq_sqlite._lease import Heartbeat, Sweep
from jobq_sqlite._sleepers import Sleeper
from jobq_sqlite._turn import TakeTurn
from jobq_sqlite._url import parse
from jobq_sqlite._watch import Watcher
from jobq_sqlite._writer import Writer


class SqliteBroker:
    """Jobs in one file, for any number of processes on one machine; nothing to install, nothing to run.

    `sqlite:///relative.db` or `sqlite:////absolute.db`, with `?synchronous=normal` to trade the last moments before a
    power cut for speed, and `?timeout=5` for how long a call waits for other writers. What was answered is on the
    disk.
    """

    capabilities = Capability.ALL
    ahead = 3

    def __init__(self, url: str, *, clock: Clock | None = None) -> None:
        self.url = url
        self._place = parse(url)
        self._clock = clock or SYSTEM_CLOCK
        self._writer: Writer | None = None
        self._watcher: Watcher | None = None
        self._entered = 0
        self._door = asyncio.Lock()
        self._line = asyncio.Lock()

    @property
    def dead_letters(self) -> DeadLetters:
        return SqliteDeadLetters(self._open)

    @property
    def transactions(self) -> SqliteTransactions:
        return SqliteTransactions(self._open, self._clock, self._line)

    @property
    def schema(self) -> None:
        return None

    def twin(self) -> "SqliteBroker":
        other = SqliteBroker(self.url, clock=self._clock)
        other._place = self._place  # a relative path stays where it was when it was opened
        return other

    async def __aenter__(self) -> Self:
        """May be entered several times, by a client and a worker for instance; the last to leave closes it."""
        async with self._door:
            if not self._entered:
                writer = Writer(self._place, self._clock)
                await writer.start()
                self._writer, self._place = writer, writer.place
            self._entered += 1
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None, /
    ) -> None:
        async with self._door:
            self._entered -= 1
            if not self._entered:
                await self._close()

    async def _close(self) -> None:
        writer, watcher = self._writer, self._watcher
        self._writer = self._watcher = None
        if watcher is not None:
            await watcher.close()
        if writer is not None:
            await writer.close()

    async def enqueue(self, jobs: Sequence[Job], stamp: Stamp) -> Sequence[Answer]:
        writer = self._open()
        return await writer.call(Enqueue(jobs, stamp, writer.stamps))

    async def turn(self, outcomes: Sequence[Outcome], claim: Claim) -> Turn:
        found = await self._open().call(TakeTurn(outcomes, claim))
        return found.turn()

    async def wait(self, queues: Sequence[str], timeout: float) -> None:  # noqa: ASYNC109 - the protocol's word
        writer = self._open()
        writer.check()
        watcher = self._watcher = self._watcher or Watcher(self._place, self._clock)
        sleeper = Sleeper(queues)
        writer.sleepers.add(sleeper)
        watcher.add(sleeper)
        try:
            await self._clock.wait(sleeper.event, timeout)
        finally:
            writer.sleepers.discard(sleeper)
            watcher.discard(sleeper)

    async def heartbeat(self, worker: WorkerInfo, beats: Sequence[Beat], lease: float, resume: int = 0) -> Orders:
        return await self._open().call(Heartbeat(worker, beats, lease, resume))

    async def sweep(self, host: str, limit: int, dead: Sequence[str] = ()) -> Swept:
        return await self._open().call(Sweep(host, limit, dead))

    def _open(self) -> Writer:
        if self._writer is None:
            raise BrokerUnavailable(f"this broker on {self.url} is closed; use it inside `async with`")
        return self._writer
