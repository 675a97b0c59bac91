"""Receiving jobs: a receiver for each queue and band, and what has arrived and was not claimed yet."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Sequence
from threading import RLock
from typing import Final

from jobq.errors import BrokerError
from jobq.model import DEFAULT_PRIORITY
from jobq_rmq._declare import BROKEN, declare, open_channel
from jobq_rmq._errors import undeclared
from jobq_rmq._inbox import Inbox
from jobq_rmq._link import Link
from jobq_rmq._receiver import Arrival, Receiver, Source
from jobq_rmq._topology import BANDS, Band, Topology
from jobq_rmq._url import Target
from jobq_rmq._wire import Line

_PRIORITY: Final[dict[Band, int]] = {
    "high": DEFAULT_PRIORITY + 1,
    "normal": DEFAULT_PRIORITY,
    "low": DEFAULT_PRIORITY - 1,
}

_ROUNDS: Final = 2
_PORTION: Final = 50
"""The least number of messages that a queue sends between two answers, if it has them."""

log = logging.getLogger("jobq.rmq")


class Consumers:
    """The consuming connection. Lives on one event loop.

    What has arrived is changed with the `lock`, which guards all that a turn in another thread may change.
    `known` is asked about every message: True if it is none to be claimed. `on_down` is called when a channel is lost,
    and with it the right to settle what came through it; with what of that nobody has claimed.
    """

    def __init__(
        self,
        target: Target,
        topology: Topology,
        lock: RLock,
        known: Callable[[Arrival], bool],
        on_down: Callable[[Iterable[Arrival]], None],
    ) -> None:
        self._target = target
        self._topology = topology
        self._lock = lock
        self._known = known
        self._lost = on_down
        self._link = Link(target, "consuming", self._consume_again, self._on_down)
        self._inboxes: dict[str, Inbox] = {}
        self._receivers: dict[tuple[str, Band], Receiver] = {}
        self._retired: list[Receiver] = []
        """They receive nothing any more; what came from them can still be settled."""
        self._sleepers = set[asyncio.Event]()
        self._starting = asyncio.Lock()
        self._tasks = set[asyncio.Task[None]]()
        self._fence: asyncio.Task[None] | None = None
        """Under way."""
        self._fence_after: asyncio.Task[None] | None = None
        """Has not begun yet, so that it will do for whoever comes now."""
        self._prefetch = 0
        self._came = 0
        """How many messages have arrived."""

    async def open(self) -> None:
        """Connect. Raises `BrokerUnavailable` or `BrokerRefused`."""
        await self._link.open()

    async def close(self) -> None:
        """End the connection: the server takes back what was not settled. Who waits is woken."""
        self._wake()
        with self._lock:
            self._inboxes, receivers, self._receivers = {}, self._receivers, {}
            for receiver in (*receivers.values(), *self._retired):
                receiver.lose()
        await self._link.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def check(self) -> None:
        """Raise `BrokerUnavailable` if the connection is lost."""
        _ = self._link.now

    async def consume(self, queues: Sequence[str], prefetch: int) -> bool:
        """Have jobs of these queues delivered, at most `prefetch` unsettled ones for each queue and band.

        False if they were all along. Makes queues that are not there. Raises `BrokerUnavailable` or `BrokerRefused`.
        """
        if self.are_consumed(queues):
            return False
        async with self._starting:
            self._prefetch = prefetch
            with self._lock:
                for queue in queues:
                    self._inboxes.setdefault(queue, Inbox())
            return await self._start_missing(self._link.now)

    def are_consumed(self, queues: Sequence[str]) -> bool:
        """Whether jobs of these queues are delivered already."""
        with self._lock:
            return self._inboxes.keys() >= set(queues) and not self._missing() and not self._starting.locked()

    async def stop(self) -> list[Arrival]:
        """Have no more jobs delivered. Returns those that were not claimed, which are to be given back."""
        async with self._starting:
            for receiver in tuple(self._receivers.values()):
                await receiver.stop(self._target.timeout)
            with self._lock:
                self._retired += self._receivers.values()
                self._receivers.clear()
                inboxes, self._inboxes = self._inboxes, {}  # not before, for some may have been on their way
            return [arrival for inbox in inboxes.values() for arrival in inbox.all()]

    def take(self, queue: str) -> Arrival | None:
        """The next job of a queue, if one has arrived. Whoever calls this has the lock."""
        inbox = self._inboxes.get(queue)
        return None if inbox is None else inbox.pop()

    def take_suspect(self, queue: str) -> Arrival | None:
        """The next suspect of a queue, if one has arrived. Whoever calls this has the lock."""
        inbox = self._inboxes.get(queue)
        return inbox.suspects.popleft() if inbox is not None and inbox.suspects else None

    def untake(self, arrivals: Sequence[Arrival]) -> None:
        """Undo a moment later what was taken. Whoever calls this has had the lock all the time."""
        for arrival in reversed(arrivals):
            self._inboxes[arrival.stored.queue].add_first(arrival)

    def put_back(self, arrival: Arrival) -> bool:
        """Make it the next job of its queue; False if that is no longer consumed here."""
        with self._lock:
            inbox = self._inboxes.get(arrival.stored.queue)
            if inbox is None or arrival.receiver.is_closed:
                return False
            inbox.add_first(arrival)
        self._wake()
        return True

    async def fence(self) -> None:
        """Return when all has arrived that was in the queues before, as far as the prefetch allows."""
        await asyncio.wait([self._next_fence()])

    async def look(self, queues: Sequence[str]) -> None:
        """Return when a job of these queues has arrived, or it is certain that none was there."""
        fence, arrived = self._next_fence(), asyncio.Event()
        fence.add_done_callback(lambda _: arrived.set())
        self._sleepers.add(arrived)
        try:
            while not (fence.done() or self.has_any(queues)):
                arrived.clear()
                await arrived.wait()
        finally:
            self._sleepers.discard(arrived)

    def flush(self) -> None:
        """Send the acknowledgements."""
        with self._lock:
            for receiver in (*self._receivers.values(), *self._retired):
                receiver.flush()
            settled = [one for one in self._retired if one.is_settled]
        for receiver in settled:
            self._retired.remove(receiver)
            self._spawn(receiver.close(self._target.timeout))

    def has_any(self, queues: Iterable[str]) -> bool:
        """Whether a job of these queues has arrived."""
        with self._lock:
            return any(not self._inboxes[queue].is_empty for queue in queues if queue in self._inboxes)

    async def wait(self, queues: Sequence[str], seconds: float) -> None:
        """Return when a job has arrived, or after `seconds`."""
        sleeper = asyncio.Event()
        self._sleepers.add(sleeper)
        try:
            if not self.has_any(queues):
                async with asyncio.timeout(seconds):
                    await sleeper.wait()
        except TimeoutError:
            pass
        finally:
            self._sleepers.discard(sleeper)

    def _next_fence(self) -> asyncio.Task[None]:
        if self._fence_after is None:
            self._fence_after = self._spawn(self._begin_fence(self._fence))
        return self._fence_after

    async def _begin_fence(self, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait([before])
        self._fence, self._fence_after = self._fence_after, None
        await self._ask_all()

    async def _ask_all(self) -> None:
        """What a server answers on a channel comes after what it has delivered there before.

        What a queue sends while it answers for the first time comes before the second answer; and a classic queue waits
        when 200 messages are on their way, until some of them have been sent.
        """
        names = [(self._topology.ready(*key), receiver) for key, receiver in self._receivers.items()]
        came = -1
        for number in range(_ROUNDS + self._prefetch // _PORTION):
            if number >= _ROUNDS and came == self._came:
                break
            came = self._came
            await asyncio.gather(*(receiver.fence(name, self._target.timeout) for name, receiver in names))

    def _missing(self) -> list[tuple[str, Band]]:
        return [(queue, band) for queue in self._inboxes for band in BANDS if (queue, band) not in self._receivers]

    async def _start_missing(self, line: Line) -> bool:
        missing = self._missing()
        for queue in dict.fromkeys(queue for queue, _ in missing):
            await declare(line, self._topology.of_queue(queue), self._target)
        for queue, band in missing:
            try:
                await self._start(line, queue, band)
            except BROKEN as exc:
                raise undeclared(exc, self._target) from exc
        return bool(missing)

    async def _start(self, line: Line, queue: str, band: Band) -> None:
        channel = await open_channel(line, self._target)
        receiver = Receiver(line.wire, channel, Source(queue, _PRIORITY[band]), self._arrive(queue, band), self._ended)
        try:
            await receiver.start(self._topology.ready(queue, band), self._prefetch, self._target.timeout)
        except BROKEN:
            self._abandon(queue, receiver)
            raise
        if receiver.is_over:
            self._abandon(queue, receiver)
            return
        with self._lock:
            self._receivers[queue, band] = receiver

    def _abandon(self, queue: str, receiver: Receiver) -> None:
        """What has come from it comes again."""
        receiver.lose()
        with self._lock:
            if queue in self._inboxes:
                self._lost(self._inboxes[queue].drop(receiver))
        self._spawn(receiver.close(self._target.timeout))

    def _arrive(self, queue: str, band: Band) -> Callable[[Arrival], None]:
        def arrive(arrival: Arrival) -> None:
            self._came += 1
            with self._lock:
                if arrival.receiver.is_closed:
                    self._lost([arrival])
                    return
                if self._known(arrival):
                    return
                inbox = self._inboxes.get(queue)
                if inbox is not None:
                    inbox.add(arrival)
            if inbox is None:  # it was on its way when `stop` was called
                self._spawn(arrival.receiver.nack([arrival]))
            self._wake()

        return arrive

    def _ended(self, receiver: Receiver) -> None:
        """Its queue was deleted, or its channel was closed: go on with another."""
        key = next((key for key, other in self._receivers.items() if other is receiver), None)
        if key is None:
            return
        with self._lock:
            del self._receivers[key]
            if receiver.is_closed:
                self._lost(self._inboxes[key[0]].drop(receiver))
            else:
                self._retired.append(receiver)
        if not receiver.is_closed:
            self._spawn(receiver.stop(self._target.timeout))
        log.warning("jobs of queue %r no longer came in; consuming it again", key[0])
        self._spawn(self._repair())

    async def _repair(self) -> None:
        try:
            async with self._starting:
                await self._start_missing(self._link.now)
        except BrokerError as exc:
            log.warning("%s", exc)
        self._wake()  # if it could not be done, whoever asks for jobs next will try again, and tell

    async def _consume_again(self, line: Line) -> None:
        async with self._starting:
            await self._start_missing(line)

    def _on_down(self) -> None:
        with self._lock:
            for receiver in (*self._receivers.values(), *self._retired):
                receiver.lose()
            self._receivers.clear()
            self._retired.clear()
            self._lost([arrival for inbox in self._inboxes.values() for arrival in inbox.all()])
            for queue in self._inboxes:
                self._inboxes[queue] = Inbox()
        self._wake()

    def _wake(self) -> None:
        for sleeper in self._sleepers:
            sleeper.set()

    def _spawn(self, coroutine: Coroutine[object, object, None]) -> asyncio.Task[None]:
        self._tasks.add(task := asyncio.create_task(coroutine))
        task.add_done_callback(self._tasks.discard)
        return task
