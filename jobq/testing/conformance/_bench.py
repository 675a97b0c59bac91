"""What the promises are tried out with: a bench that enqueues, and workers played by hand."""

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from typing import Any, Final

import pytest
import pytest_asyncio

from jobq.broker import Broker, Capability
from jobq.clock import Clock
from jobq.model import Answer, Beat, Claim, Delivery, Done, Job, Orders, Outcome, Stamp, Token, Turn, WorkerInfo
from jobq.testing._clock import ManualClock

OpenBroker = Callable[[Clock], Broker]
"""Makes a broker, not yet entered, that takes its time from the given clock."""

LEASE: Final = 30.0
PLENTY: Final = 5000
"""A limit that no test reaches."""


def ids(things: Iterable[Delivery | Answer | Token]) -> list[str]:
    """Job ids, in order."""
    return [thing.job.id if isinstance(thing, Delivery) else thing.id for thing in things]


def token(delivery: Delivery) -> Token:
    """What a write about this delivery has to name."""
    return Token(delivery.job.id, delivery.epoch)


def done(*deliveries: Delivery) -> list[Outcome]:
    """The outcome `Done` for each."""
    return [Done(delivery.job.id, delivery.epoch) for delivery in deliveries]


def job(id: str, **columns: Any) -> Job:  # noqa: A002 - the field's name
    """A job of the task `t`."""
    return Job(id=id, task="t", **columns)


class Hand:
    """A worker, played by hand. It remembers the highest epoch that it has received."""

    def __init__(self, broker: Broker, info: WorkerInfo) -> None:
        self.broker = broker
        self.info = info
        self.received = 0

    async def beat(self, *deliveries: Delivery, lease: float = LEASE) -> Orders:
        """Heartbeat, with these deliveries as the beats, and without a word about what was received."""
        return await self.reconcile(*deliveries, resume=0, lease=lease)

    async def reconcile(self, *deliveries: Delivery, resume: int | None = None, lease: float = LEASE) -> Orders:
        """Heartbeat, with these deliveries as the beats for all that was received so far, or up to `resume`."""
        beats = [Beat(delivery.job.id, delivery.epoch) for delivery in deliveries]
        return await self.broker.heartbeat(self.info, beats, lease, self.received if resume is None else resume)

    async def lose_turn(
        self, *outcomes: Outcome, limit: int = 0, queues: Sequence[str] = ("default",), suspects: bool = False
    ) -> Turn:
        """Take a turn whose answer, from the worker's point of view, is lost on the way."""
        return await self.broker.turn(outcomes, Claim(self.info.id, queues, limit, suspects, self.received))

    async def turn(
        self, *outcomes: Outcome, limit: int = 0, queues: Sequence[str] = ("default",), suspects: bool = False
    ) -> Turn:
        """Take a turn."""
        turn = await self.lose_turn(*outcomes, limit=limit, queues=queues, suspects=suspects)
        assert turn.resume == max([0, *(delivery.epoch for delivery in turn.deliveries)])
        self.received = max(self.received, turn.resume)
        return turn

    async def claim(self, limit: int = PLENTY, *queues: str, suspects: bool = False) -> Sequence[Delivery]:
        """Take a turn without outcomes, and return what it brings."""
        return (await self.turn(limit=limit, queues=queues or ("default",), suspects=suspects)).deliveries

    async def claim_one(self, *queues: str, suspects: bool = False) -> Delivery:
        """Claim exactly one job; fail if there is none."""
        deliveries = await self.claim(1, *queues, suspects=suspects)
        assert len(deliveries) == 1, "there was no job to claim"
        return deliveries[0]

    async def settle(self, *outcomes: Outcome) -> list[Token]:
        """Take a turn without a claim, and return what was refused."""
        return list((await self.turn(*outcomes)).refused)

    async def drain(self, *queues: str) -> list[str]:
        """Claim and finish all that is ready in these queues; the ids in the order in which they came."""
        deliveries = await self.claim(PLENTY, *queues)
        assert await self.settle(*done(*deliveries)) == []
        return ids(deliveries)


class Bench:
    """One empty namespace under test, its clock, and a first broker on it."""

    def __init__(self, open_broker: OpenBroker, stack: AsyncExitStack) -> None:
        self.clock = ManualClock()
        self._open_broker = open_broker
        self._stack = stack
        self._stamps = 0
        self._broker: Broker | None = None

    @property
    def broker(self) -> Broker:
        """The first broker, entered."""
        assert self._broker is not None
        return self._broker

    async def start(self) -> None:
        """Open the first broker."""
        self._broker = await self.connect()

    def unopened(self, clock: Clock | None = None) -> Broker:
        """One more broker object on the same data, not yet entered."""
        return self._open_broker(clock or self.clock)

    async def connect(self, clock: Clock | None = None) -> Broker:
        """One more broker object on the same data, entered until the test ends."""
        return await self._stack.enter_async_context(self.unopened(clock))

    def needs(self, capability: Capability) -> None:
        """Skip the test if the broker does not declare `capability`."""
        if capability not in self.broker.capabilities:
            pytest.skip(f"{type(self.broker).__name__} does not declare {capability}")

    def stamp(self, client: str = "bench") -> Stamp:
        """A stamp that is newer than all before."""
        self._stamps += 1
        return Stamp(client, self._stamps)

    async def enqueue(self, *jobs: Job) -> Sequence[Answer]:
        """Enqueue these in one chunk."""
        return await self.broker.enqueue(jobs, self.stamp())

    async def put(self, *job_ids: str, **columns: Any) -> Sequence[Answer]:
        """Enqueue jobs with these ids, alike in all the rest, in one chunk."""
        return await self.enqueue(*(job(job_id, **columns) for job_id in job_ids))

    async def worker(
        self, name: str = "w1", *, broker: Broker | None = None, lease: float = LEASE, host: str = "here"
    ) -> Hand:
        """A worker with a lease."""
        hand = Hand(broker or self.broker, WorkerInfo(id=name, host=host))
        await hand.beat(lease=lease)
        return hand

    async def sweep(self, limit: int = PLENTY, dead: Sequence[str] = ()) -> int:
        """Sweep, and return how many jobs were reclaimed."""
        return (await self.broker.sweep("here", limit, dead)).reclaimed

    async def crash(self, hand: Hand) -> None:
        """Let the worker's lease run out, and sweep."""
        await hand.beat(lease=1)
        self.clock.advance(1)
        await self.sweep()


class Promises:
    """Base of the promises: the fixtures."""

    pytestmark = pytest.mark.asyncio

    @pytest.fixture
    def open_broker(self) -> OpenBroker:
        """To be overridden by the broker's tests."""
        raise NotImplementedError("override the fixture open_broker: see jobq.testing.conformance")

    @pytest_asyncio.fixture
    async def bench(self, open_broker: OpenBroker) -> AsyncIterator[Bench]:
        """A bench on a fresh namespace."""
        async with AsyncExitStack() as stack:
            bench = Bench(open_broker, stack)
            await bench.start()
            yield bench
