"""The protocol: each verb runs on the loop that its connection lives on."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial
from types import TracebackType
from typing import Self

from jobq.broker import Capability, DeadLetters
from jobq.clock import Clock
from jobq.model import Answer, Beat, Claim, DeadJob, Job, Orders, Outcome, Stamp, Swept, Turn, WorkerInfo
from jobq_rmq._engine import Engine
from jobq_rmq._home import Home
from jobq_rmq._local import Local
from jobq_rmq._sender import enqueue
from jobq_rmq._shared import Shared
from jobq_rmq._url import parse


class RmqBroker:
    """Jobs in RabbitMQ; the package explains the URL. It has no clock of its own: delays go by that of the server."""

    capabilities = Capability.PRIORITY
    ahead = 1

    def __init__(self, url: str, *, clock: Clock | None = None) -> None:
        self._prepare(Shared(parse(url)))

    def _prepare(self, shared: Shared) -> None:
        self._shared = shared
        self._users = 0
        self._local: Local | None = None
        self._opening_local = asyncio.Lock()
        self._retired: Local | None = None

    @property
    def url(self) -> str:
        return self._shared.target.masked

    @property
    def dead_letters(self) -> DeadLetters:
        return _DeadLetters(self._work)

    @property
    def transactions(self) -> None:
        return None

    @property
    def schema(self) -> None:
        return None

    def twin(self) -> "RmqBroker":
        """The same connections, for another event loop: whoever loses them loses what is held."""
        other = object.__new__(type(self))
        other._prepare(self._shared)
        self._shared.has_twins = True
        return other

    async def __aenter__(self) -> Self:
        """May be entered several times, by a client and a worker for instance; the last to leave closes it."""
        self._shared.enter()
        if not self._users:
            self._opening_local = asyncio.Lock()  # on this loop, which may be another than the last time
        self._users += 1
        try:
            await (self._work() if self._shared.works else self._open_local())
        except BaseException:
            await self._leave()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None, /
    ) -> None:
        await self._leave()

    async def enqueue(self, jobs: Sequence[Job], stamp: Stamp) -> Sequence[Answer]:
        if self._local is not None and not self._shared.works:
            await self._local.enqueue(jobs, stamp)
        else:
            home, engine = await self._work()
            await enqueue(home.call, engine.sender, jobs, stamp)
        return [Answer(job.id) for job in jobs]

    async def turn(self, outcomes: Sequence[Outcome], claim: Claim) -> Turn:
        home, engine = await self._work()
        turn = engine.turn_at_once(outcomes, claim)
        if turn is None:
            return await home.call(partial(engine.turn, outcomes, claim))
        if outcomes:
            home.soon(engine.flush)
        return turn

    async def wait(self, queues: Sequence[str], timeout: float) -> None:  # noqa: ASYNC109 - the protocol's word
        _, engine = await self._work()
        await engine.wait(queues, timeout)

    async def heartbeat(self, worker: WorkerInfo, beats: Sequence[Beat], lease: float, resume: int = 0) -> Orders:
        home, engine = await self._work()
        return await home.call(partial(engine.heartbeat, worker, beats, lease, resume))

    async def sweep(self, host: str, limit: int, dead: Sequence[str] = ()) -> Swept:
        """Nothing to do: the server itself makes due jobs ready, and takes back what a dead worker held."""
        self._shared.check()
        return Swept()

    async def _work(self) -> tuple[Home, Engine]:
        """A worker's connections. New jobs go by them, too, from now on."""
        opened = await self._shared.work()
        if self._local is not None:
            self._retired, self._local = self._local, None
            self._retired.retire()
        return opened

    async def _open_local(self) -> None:
        async with self._opening_local:
            if self._local is None and not self._shared.works:
                local = Local(self._shared.target, self._shared.stamps)
                await local.open()
                self._local = local

    async def _leave(self) -> None:
        self._users -= 1
        try:
            if not self._users:
                await self._close_local()
        finally:
            await self._shared.leave()

    async def _close_local(self) -> None:
        for local in (self._local, self._retired):
            if local is not None:
                await local.close()
        self._local = self._retired = None


class _DeadLetters:
    """The facet. Whoever is no longer waiting for what is taken away is not to have it."""

    def __init__(self, work: Callable[[], Awaitable[tuple[Home, Engine]]]) -> None:
        self._work = work

    async def count(self, queue: str) -> int:
        home, engine = await self._work()
        return await home.wait(engine.graves.count(queue))

    async def peek(self, queue: str, limit: int) -> Sequence[DeadJob]:
        home, engine = await self._work()
        return await home.wait(engine.graves.peek(queue, limit))

    async def replay(self, queue: str, limit: int | None = None, ids: Collection[str] | None = None) -> int:
        home, engine = await self._work()
        return await home.wait(engine.graves.replay(queue, limit, ids))

    async def pop(self, queue: str, limit: int) -> Sequence[DeadJob]:
        home, engine = await self._work()
        return await home.wait(engine.graves.pop(queue, limit))

    async def purge(self, queue: str) -> int:
        home, engine = await self._work()
        return await home.call(partial(engine.graves.purge, queue))
