"""The protocol: each verb runs on the loop that the connections live on."""

import asyncio
import threading
from collections.abc import Collection, Sequence
from concurrent.futures import Future
from functools import partial
from types import TracebackType
from typing import Self

from jobq.broker import Capability, DeadLetters
from jobq.clock import Clock
from jobq.errors import BrokerError, BrokerUnavailable
from jobq.model import Answer, Beat, Claim, DeadJob, Job, Orders, Outcome, Stamp, Swept, Turn, WorkerInfo
from jobq_rmq._engine import Engine
from jobq_rmq._home import Home
from jobq_rmq._url import Target, parse


class _Shared:
    """What a broker and its twins have in common: the connections are the lease of all that is held."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._lock = threading.Lock()
        self._users = 0
        self._opening: Future[tuple[Home, Engine]] | None = None

    async def enter(self) -> None:
        """Connect, unless somebody else has or is about to."""
        with self._lock:
            self._users += 1
            first = self._opening is None
            opening = self._opening = self._opening or Future()
        try:
            if first:
                opening.set_result(await self._open())
            else:
                await asyncio.shield(asyncio.wrap_future(opening))
        except BaseException as exc:
            with self._lock:
                self._users -= 1
                if first:
                    self._opening = None
            if first:
                opening.set_exception(exc if isinstance(exc, BrokerError) else BrokerUnavailable("it was not opened"))
            raise

    async def leave(self) -> None:
        """Close the connections, if nobody else uses them."""
        with self._lock:
            self._users -= 1
            if self._users or self._opening is None:
                return
            opening, self._opening = self._opening, None
        home, engine = opening.result()
        try:
            await home.call(engine.close)
        finally:
            await home.close()

    def opened(self) -> tuple[Home, Engine]:
        """What is there between entering and leaving. Raises `BrokerUnavailable` before and after."""
        opening = self._opening
        if opening is None or not opening.done():
            raise BrokerUnavailable(f"the broker on {self.target.masked} is closed; use it inside `async with`")
        return opening.result()

    async def _open(self) -> tuple[Home, Engine]:
        home = Home()
        try:
            return home, await home.call(partial(_opened, self.target))
        except BaseException:
            await home.close()
            raise


class RmqBroker:
    """Jobs in RabbitMQ; the package explains the URL. It has no clock of its own: delays go by that of the server."""

    capabilities = Capability.PRIORITY

    def __init__(self, url: str, *, clock: Clock | None = None) -> None:
        self._shared = _Shared(parse(url))

    @property
    def url(self) -> str:
        return self._shared.target.masked

    @property
    def dead_letters(self) -> DeadLetters:
        return _DeadLetters(self._shared)

    @property
    def transactions(self) -> None:
        return None

    @property
    def schema(self) -> None:
        return None

    def twin(self) -> "RmqBroker":
        """The same connections, for another event loop: whoever loses them loses what is held."""
        other = object.__new__(type(self))
        other._shared = self._shared
        return other

    async def __aenter__(self) -> Self:
        """May be entered several times, by a client and a worker for instance; the last to leave closes it."""
        await self._shared.enter()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None, /
    ) -> None:
        await self._shared.leave()

    async def enqueue(self, jobs: Sequence[Job], stamp: Stamp) -> Sequence[Answer]:
        home, engine = self._shared.opened()
        post = await home.call(partial(engine.post, jobs, stamp))
        if post is None or not post.is_stored:
            await home.call(partial(engine.store, jobs, stamp, post))
        return [Answer(job.id) for job in jobs]

    async def turn(self, outcomes: Sequence[Outcome], claim: Claim) -> Turn:
        home, engine = self._shared.opened()
        turn = engine.turn_at_once(outcomes, claim)
        if turn is None:
            return await home.call(partial(engine.turn, outcomes, claim))
        if outcomes:
            home.soon(engine.flush)
        return turn

    async def wait(self, queues: Sequence[str], timeout: float) -> None:  # noqa: ASYNC109 - the protocol's word
        _, engine = self._shared.opened()
        await engine.wait(queues, timeout)

    async def heartbeat(self, worker: WorkerInfo, beats: Sequence[Beat], lease: float, resume: int = 0) -> Orders:
        home, engine = self._shared.opened()
        return await home.call(partial(engine.heartbeat, worker, beats, lease, resume))

    async def sweep(self, host: str, limit: int, dead: Sequence[str] = ()) -> Swept:
        """Nothing to do: the server itself makes due jobs ready, and takes back what a dead worker held."""
        self._shared.opened()
        return Swept()


class _DeadLetters:
    """The facet. Whoever is no longer waiting for what is taken away is not to have it."""

    def __init__(self, shared: _Shared) -> None:
        self._shared = shared

    async def count(self, queue: str) -> int:
        home, engine = self._shared.opened()
        return await home.wait(engine.graves.count(queue))

    async def peek(self, queue: str, limit: int) -> Sequence[DeadJob]:
        home, engine = self._shared.opened()
        return await home.wait(engine.graves.peek(queue, limit))

    async def replay(self, queue: str, limit: int | None = None, ids: Collection[str] | None = None) -> int:
        home, engine = self._shared.opened()
        return await home.wait(engine.graves.replay(queue, limit, ids))

    async def pop(self, queue: str, limit: int) -> Sequence[DeadJob]:
        home, engine = self._shared.opened()
        return await home.wait(engine.graves.pop(queue, limit))

    async def purge(self, queue: str) -> int:
        home, engine = self._shared.opened()
        return await home.call(partial(engine.graves.purge, queue))


async def _opened(target: Target) -> Engine:
    engine = Engine(target)
    await engine.open()
    return engine
