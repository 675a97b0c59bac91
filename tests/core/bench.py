"""Tools of the core's tests: a broker with faults, and waiting with a deadline."""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self, TypeVar

from jobq import App
from jobq._ids import new_id
from jobq.broker import Broker, Capability, DeadLetters
from jobq.errors import BrokerUnavailable, OutcomeUnknown
from jobq.model import Answer, Beat, Claim, Job, Orders, Outcome, Stamp, Swept, Turn, WorkerInfo
from jobq.testing import ManualClock
from jobq.testing._clock import FrozenHere
from jobq.worker import Worker
from jobq_memory import MemoryBroker
from jobq_memory._state import State

__all__ = ["Faults", "Faulty", "FrozenHere", "crash", "flying", "pump", "state_of", "until"]

T = TypeVar("T")


async def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Return when `condition()` holds; fail after `seconds`."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.001)


def state_of(broker: MemoryBroker) -> State:
    """What is in a memory broker, open or closed."""
    return broker._here.state


class Faults:
    """What goes wrong with the calls of a broker, by verb."""

    def __init__(self) -> None:
        self.down = False
        """Every call fails: nobody is there."""
        self.calls: Counter[str] = Counter()
        self.jobs_per_call: list[int] = []
        self.slow: dict[str, float] = {}
        """Seconds that a verb takes."""
        self.gates: dict[str, asyncio.Event] = {}
        """A call of the verb waits for the event first."""
        self.stamps: list[Stamp] = []
        self.turns: list[tuple[list[Outcome], Claim, Turn | None]] = []
        self._plan: dict[str, deque[tuple[bool, Exception]]] = {}

    def fail(self, verb: str, times: int = 1, error: Exception | None = None) -> None:
        """The next calls of `verb` do nothing and raise."""
        self._add(verb, times, before=True, error=error or BrokerUnavailable("injected: away"))

    def lose_reply(self, verb: str, times: int = 1) -> None:
        """The next calls of `verb` happen, and raise."""
        self._add(verb, times, before=False, error=OutcomeUnknown("injected: reply lost"))

    def forget(self) -> None:
        """The next calls go well."""
        self._plan.clear()

    def _add(self, verb: str, times: int, *, before: bool, error: Exception) -> None:
        self._plan.setdefault(verb, deque()).extend([(before, error)] * times)

    async def around(self, verb: str, call: Callable[[], Awaitable[T]]) -> T:
        self.calls[verb] += 1
        if (gate := self.gates.get(verb)) is not None:
            await gate.wait()
        if verb in self.slow:
            await asyncio.sleep(self.slow[verb])
        plan = self._plan.get(verb)
        before, error = plan.popleft() if plan else (False, None)
        if self.down:
            raise BrokerUnavailable("injected: down")
        if error is not None and before:
            raise error
        result = await call()
        if error is not None:
            raise error
        return result


class Faulty:
    """A broker whose calls, and those of its twin, go wrong as told."""

    def __init__(self, broker: Broker, faults: Faults | None = None) -> None:
        self._broker = broker
        self.faults = faults or Faults()
        self.twin_faults = Faults()

    @property
    def url(self) -> str:
        return self._broker.url

    @property
    def capabilities(self) -> Capability:
        return self._broker.capabilities

    @property
    def ahead(self) -> int:
        return self._broker.ahead

    @property
    def transactions(self) -> None:
        return None

    @property
    def schema(self) -> None:
        return None

    @property
    def dead_letters(self) -> DeadLetters | None:
        return self._broker.dead_letters

    def twin(self) -> Broker | None:
        twin = self._broker.twin()
        return None if twin is None else Faulty(twin, self.twin_faults)

    async def __aenter__(self) -> Self:
        async def enter() -> object:
            return await self._broker.__aenter__()

        await self.faults.around("enter", enter)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None, /
    ) -> None:
        await self._broker.__aexit__(kind, exc, tb)

    async def enqueue(self, jobs: Sequence[Job], stamp: Stamp) -> Sequence[Answer]:
        self.faults.jobs_per_call.append(len(jobs))
        self.faults.stamps.append(stamp)
        return await self.faults.around("enqueue", lambda: self._broker.enqueue(jobs, stamp))

    async def turn(self, outcomes: Sequence[Outcome], claim: Claim) -> Turn:
        sent = list(outcomes)

        async def call() -> Turn:
            answer = await self._broker.turn(sent, claim)
            self.faults.turns.append((sent, claim, answer))
            return answer

        return await self.faults.around("turn", call)

    async def wait(self, queues: Sequence[str], timeout: float) -> None:
        await self.faults.around("wait", lambda: self._broker.wait(queues, timeout))

    async def heartbeat(self, worker: WorkerInfo, beats: Sequence[Beat], lease: float, resume: int = 0) -> Orders:
        return await self.faults.around("heartbeat", lambda: self._broker.heartbeat(worker, beats, lease, resume))

    async def sweep(self, host: str, limit: int, dead: Sequence[str] = ()) -> Swept:
        return await self.faults.around("sweep", lambda: self._broker.sweep(host, limit, dead))

    def outcomes(self) -> list[Any]:
        """Every outcome that was sent, in order, repeats included."""
        return [outcome for sent, _, _ in self.faults.turns for outcome in sent]


async def pump(clock: ManualClock, step: float = 0.05) -> None:
    """Let time fly, until cancelled."""
    while True:
        clock.advance(step)
        await asyncio.sleep(0)


@asynccontextmanager
async def flying(app: App, broker: Broker, clock: FrozenHere, **options: Any) -> AsyncGenerator[Worker]:
    """A worker whose time flies, but for its lease, which lasts for ages."""
    options = {"lease": 1e9, "renew": 2.5e8, "max_lag": 1e9, "grace": 5.0} | options
    flight = asyncio.create_task(pump(clock))
    try:
        async with Worker(app, broker, clock=clock, **options) as worker:
            yield worker
    finally:
        flight.cancel()


async def crash(broker: Broker, times: int = 1, queues: Sequence[str] = ("default",)) -> None:
    """Claim all that is ready with workers that die at once, `times` times."""
    for n in range(times):
        worker = WorkerInfo(f"killed-{id(broker)}-{n}-{new_id()}", "elsewhere")
        await broker.heartbeat(worker, (), 60)
        resume = 0
        while deliveries := (
            await broker.turn((), Claim(worker.id, queues, 1000, suspects=True, resume=resume))
        ).deliveries:
            resume = max(delivery.epoch for delivery in deliveries)
        await broker.sweep("elsewhere", 1000, (worker.id,))
