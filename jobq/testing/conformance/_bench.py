"""What the promises are tried out with: a bench that enqueues, and workers played by hand."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from typing import Any, Final

import msgspec
import pytest
import pytest_asyncio

from jobq.broker import Broker, Capability
from jobq.clock import Clock
from jobq.model import (
    SUSPECT_AFTER,
    Answer,
    Beat,
    Claim,
    Delivery,
    Done,
    Job,
    Orders,
    Outcome,
    Stamp,
    Token,
    Turn,
    WorkerInfo,
)
from jobq.testing._clock import ManualClock

OpenBroker = Callable[[Clock], Broker]
"""Makes a broker, not yet entered, that takes its time from the given clock."""

LEASE: Final = 30.0
PLENTY: Final = 5000
"""A limit that no test reaches."""
SOON: Final = 0.25
"""A delay, for promises that hold for any: without `Capability.CLOCK` it passes in real time."""
GUARD: Final = 10.0
"""Seconds after which nothing more is hoped for."""


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

    async def claim(
        self, limit: int = PLENTY, *queues: str, suspects: bool = False, least: int = 0
    ) -> Sequence[Delivery]:
        """Claim what there is, in one turn.

        From a broker that is not greedy in as many as it takes; `least` are then those that are known to come.
        """
        names = queues or ("default",)
        found = list((await self.turn(limit=limit, queues=names, suspects=suspects)).deliveries)
        if Capability.GREEDY not in self.broker.capabilities:
            async with asyncio.timeout(GUARD):
                await self._claim_the_rest(found, limit, names, suspects=suspects, least=least)
        return found

    async def _claim_the_rest(
        self, found: list[Delivery], limit: int, queues: Sequence[str], *, suspects: bool, least: int
    ) -> None:
        while len(found) < limit:
            wanted = suspects and not any(len(delivery.crashes) >= SUSPECT_AFTER for delivery in found)
            turn = await self.turn(limit=limit - len(found), queues=queues, suspects=wanted)
            found += turn.deliveries
            if turn.deliveries:
                continue
            if len(found) < least:
                await self.broker.wait(queues, GUARD)
            elif not turn.leased or await self._was_all(queues, suspects=wanted):
                return

    async def _was_all(self, queues: Sequence[str], *, suspects: bool) -> bool:
        """Whether a worker that holds nothing finds nothing: then that is certain. What it finds it gives back."""
        other = Hand(self.broker, msgspec.structs.replace(self.info, id=f"{self.info.id}-beside"))
        await other.beat()
        turn = await other.turn(limit=1, queues=queues, suspects=suspects)
        await other.reconcile(lease=0)
        return not turn.deliveries

    async def claim_one(self, *queues: str, suspects: bool = False) -> Delivery:
        """Claim exactly one job; fail if there is none."""
        deliveries = await self.claim(1, *queues, suspects=suspects, least=1)
        assert len(deliveries) == 1, "there was no job to claim"
        return deliveries[0]

    async def settle(self, *outcomes: Outcome) -> list[Token]:
        """Take a turn without a claim, and return what was refused."""
        return list((await self.turn(*outcomes)).refused)

    async def drain(self, *queues: str, least: int = 0) -> list[str]:
        """Claim and finish all that is ready in these queues; the ids in the order in which they came."""
        deliveries = await self.claim(PLENTY, *queues, least=least)
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
        self._lives: list[tuple[Broker, AsyncExitStack]] = []

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
        life = await self._stack.enter_async_context(AsyncExitStack())
        broker = await life.enter_async_context(self.unopened(clock))
        self._lives.append((broker, life))
        return broker

    async def beside(self, hand: Hand) -> Broker:
        """One more broker object that `hand` may use, too: its own, if its connection is its lease."""
        return await self.connect() if self.has(Capability.LEASE) else hand.broker

    def has(self, capability: Capability) -> bool:
        """Whether the broker declares `capability`."""
        return capability in self.broker.capabilities

    def needs(self, capability: Capability) -> None:
        """Skip the test if the broker does not declare `capability`."""
        if not self.has(capability):
            pytest.skip(f"{type(self.broker).__name__} does not declare {capability}")

    def now(self) -> float:
        """The broker's time; no more than roughly, if it does not keep the time."""
        return self.clock.time() if self.has(Capability.CLOCK) else time.time()

    def pass_time(self, seconds: float) -> None:
        """Let so much time pass. On a broker that does not keep the time, claims wait for what is due then."""
        if self.has(Capability.CLOCK):
            self.clock.advance(seconds)

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
        hand = Hand(broker or self.broker, WorkerInfo(id=name, host=host, concurrency=PLENTY))
        await hand.beat(lease=lease)
        return hand

    async def sweep(self, limit: int = PLENTY, dead: Sequence[str] = ()) -> int:
        """Sweep, and return how many jobs were reclaimed."""
        return (await self.broker.sweep("here", limit, dead)).reclaimed

    async def crash(self, hand: Hand) -> None:
        """Let the worker's lease run out, and sweep; if its connection is the lease, end that for all who use it."""
        if self.has(Capability.LEASE):
            await hand.beat(lease=1)
            self.clock.advance(1)
            await self.sweep()
        else:
            await self._disconnect(hand.broker)

    def assert_charged(self, back: Delivery, *lost: Delivery) -> None:
        """Check that `back` has a crash for each of these deliveries, and no other."""
        assert len(back.crashes) == len(lost)
        if self.has(Capability.LEASE):
            assert [crash.epoch for crash in back.crashes] == [delivery.epoch for delivery in lost]

    async def _disconnect(self, broker: Broker) -> None:
        for each, life in self._lives:
            if each is broker:
                await life.aclose()
        if broker is self._broker:
            await self.start()


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
