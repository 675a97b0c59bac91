"""The protocol over `State`: a lock for twins on other threads, and wake-ups."""

import asyncio
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from jobq.broker import Capability, DeadLetters
from jobq.clock import SYSTEM_CLOCK, Clock
from jobq.errors import BrokerUnavailable, ConfigError
from jobq.model import Answer, Beat, Claim, Job, Orders, Outcome, Stamp, Swept, Turn, WorkerInfo
from jobq_memory._dead import MemoryDeadLetters
from jobq_memory._state import State


class _Shared:
    """What twins and namesakes have in common."""

    def __init__(self) -> None:
        self.state = State()
        self.lock = threading.Lock()
        self.sleepers: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()

    def wake(self) -> None:
        for loop, event in tuple(self.sleepers):
            loop.call_soon_threadsafe(event.set)


_named: dict[str, _Shared] = {}


class MemoryBroker:
    """Jobs in memory. `memory://` is a place of its own; `memory://name` is shared within the process.

    Nothing survives the process, so a client and its worker must live in the same one.
    """

    capabilities = Capability.ALL
    ahead = 1

    def __init__(self, url: str = "memory://", *, clock: Clock | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme != "memory" or parts.path.strip("/") or parts.query:
            raise ConfigError(f"not a memory URL: {url!r}; it is memory:// or memory://name")
        self.url = url
        self._clock = clock or SYSTEM_CLOCK
        self._here = _named.setdefault(parts.netloc, _Shared()) if parts.netloc else _Shared()
        self._entered = 0
        self._closed = False

    @property
    def dead_letters(self) -> DeadLetters:
        return MemoryDeadLetters(self._lend, self._here.wake)

    @property
    def transactions(self) -> None:
        return None

    @property
    def schema(self) -> None:
        return None

    def twin(self) -> "MemoryBroker":
        other = MemoryBroker("memory://", clock=self._clock)
        other.url, other._here = self.url, self._here
        return other

    @property
    def _shared(self) -> _Shared:
        if self._closed:
            raise BrokerUnavailable(f"this broker on {self.url} was closed")
        return self._here

    @contextmanager
    def _lend(self) -> Generator[tuple[State, float]]:
        with self._shared.lock:
            yield self._shared.state, self._clock.time()

    async def __aenter__(self) -> Self:
        """May be entered several times, by a client and a worker for instance; the last to leave closes it."""
        self._entered += 1
        self._closed = False
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None, /
    ) -> None:
        self._entered -= 1
        self._closed = self._entered == 0

    async def enqueue(self, jobs: Sequence[Job], stamp: Stamp) -> Sequence[Answer]:
        with self._shared.lock:
            answers = self._shared.state.enqueue(jobs, stamp, self._clock.time())
        self._shared.wake()
        return answers

    async def turn(self, outcomes: Sequence[Outcome], claim: Claim) -> Turn:
        with self._shared.lock:
            turn = self._shared.state.turn(outcomes, claim, self._clock.time())
        if outcomes:
            self._shared.wake()
        return turn

    async def wait(self, queues: Sequence[str], timeout: float) -> None:  # noqa: ASYNC109 - the protocol's word
        event = asyncio.Event()
        sleeper = (asyncio.get_running_loop(), event)
        shared = self._shared
        shared.sleepers.add(sleeper)
        try:
            with shared.lock:
                ready = shared.state.has_work(queues, self._clock.time())
            if not ready:
                await self._clock.wait(event, timeout)
        finally:
            shared.sleepers.discard(sleeper)

    async def heartbeat(self, worker: WorkerInfo, beats: Sequence[Beat], lease: float, resume: int = 0) -> Orders:
        with self._shared.lock:
            orders = self._shared.state.heartbeat(worker, beats, lease, resume, self._clock.time())
        if orders.returned:
            self._shared.wake()
        return orders

    async def sweep(self, host: str, limit: int, dead: Sequence[str] = ()) -> Swept:
        with self._shared.lock:
            swept = self._shared.state.sweep(host, limit, dead, self._clock.time())
        if swept.promoted or swept.reclaimed:
            self._shared.wake()
        return swept
