"""The protocol: each verb runs on the loop that the connections live on."""

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from jobq.broker import Capability
from jobq.clock import Clock
from jobq.errors import BrokerUnavailable
from jobq.model import Answer, Beat, Claim, Job, Orders, Outcome, Stamp, Swept, Turn, WorkerInfo
from jobq_rmq._engine import Engine
from jobq_rmq._home import Home
from jobq_rmq._url import Target, parse


class _Shared:
    """What a broker and its twins have in common: the connections are the lease of all that is held."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.entered = 0
        self.home: Home | None = None
        self.engine: Engine | None = None


class RmqBroker:
    """Jobs in RabbitMQ; the package explains the URL. It has no clock of its own: delays go by that of the server."""

    capabilities = Capability.PRIORITY

    def __init__(self, url: str, *, clock: Clock | None = None) -> None:
        self._shared = _Shared(parse(url))

    @property
    def url(self) -> str:
        return self._shared.target.masked

    def twin(self) -> "RmqBroker":
        """The same connections, for another event loop: whoever loses them loses what is held."""
        other = object.__new__(RmqBroker)
        other._shared = self._shared
        return other

    async def __aenter__(self) -> Self:
        """May be entered several times, by a client and a worker for instance; the last to leave closes it."""
        shared = self._shared
        shared.entered += 1
        if shared.entered > 1:
            return self
        home = Home()
        try:
            shared.engine, shared.home = await home.call(_opened(shared.target)), home
        except BaseException:
            shared.entered -= 1
            await home.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None, /
    ) -> None:
        shared = self._shared
        shared.entered -= 1
        if shared.entered or shared.home is None or shared.engine is None:
            return
        home, engine = shared.home, shared.engine
        shared.home = shared.engine = None
        await home.call(engine.close())
        await home.close()

    async def enqueue(self, jobs: Sequence[Job], stamp: Stamp) -> Sequence[Answer]:
        home, engine = self._open()
        return await home.call(engine.enqueue(jobs, stamp))

    async def turn(self, outcomes: Sequence[Outcome], claim: Claim) -> Turn:
        home, engine = self._open()
        return await home.call(engine.turn(outcomes, claim))

    async def wait(self, queues: Sequence[str], timeout: float) -> None:  # noqa: ASYNC109 - the protocol's word
        home, engine = self._open()
        await home.wait(engine.wait(queues, timeout))

    async def heartbeat(self, worker: WorkerInfo, beats: Sequence[Beat], lease: float, resume: int = 0) -> Orders:
        home, engine = self._open()
        return await home.call(engine.heartbeat(worker, beats, lease, resume))

    async def sweep(self, host: str, limit: int, dead: Sequence[str] = ()) -> Swept:
        """Nothing to do: the server itself makes due jobs ready, and takes back what a dead worker held."""
        self._open()
        return Swept()

    def _open(self) -> tuple[Home, Engine]:
        if self._shared.home is None or self._shared.engine is None:
            raise BrokerUnavailable(f"this broker on {self.url} is closed; use it inside `async with`")
        return self._shared.home, self._shared.engine


async def _opened(target: Target) -> Engine:
    engine = Engine(target)
    await engine.open()
    return engine
