"""Receiving jobs: a receiver for each queue and band, and what has arrived and was not claimed yet."""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from functools import partial
from threading import RLock
from typing import Final

from jobq.errors import BrokerError
from jobq.model import DEFAULT_PRIORITY
from jobq_rmq._declare import BROKEN, MOURNING, declare, is_missing, open_channel
from jobq_rmq._errors import undeclared
from jobq_rmq._fences import Fences, ask_until_quiet
from jobq_rmq._inbox import Inboxes
from jobq_rmq._link import Link
from jobq_rmq._messages import stored, stored_with_holder
from jobq_rmq._receiver import Arrival, Read, Receiver
from jobq_rmq._sleepers import Sleepers
from jobq_rmq._topology import BANDS, Band, Topology
from jobq_rmq._url import Target
from jobq_rmq._wire import Line

_PRIORITY: Final[dict[Band, int]] = {
    "high": DEFAULT_PRIORITY + 1,
    "normal": DEFAULT_PRIORITY,
    "low": DEFAULT_PRIORITY - 1,
    "suspects": DEFAULT_PRIORITY,
}

_SURELY: Final = 0.05
"""Seconds in which the next jobs arrive if there are any: until then the server is not asked, which costs CPU time."""

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
        inboxes: Inboxes,
        *,
        known: Callable[[Arrival], bool],
        on_down: Callable[[Iterable[Arrival]], None],
    ) -> None:
        self._target = target
        self._topology = topology
        self._lock = lock
        self._inboxes = inboxes
        self._known = known
        self._lost = on_down
        self._link = Link(target, "consuming", self._consume_again, self._on_down)
        self._receivers: dict[tuple[str, Band], Receiver] = {}
        self._retired: list[Receiver] = []
        """They receive nothing any more; what came from them can still be settled."""
        self._holder: tuple[str, Callable[[Arrival], None]] | None = None
        self._holding: Receiver | None = None
        """Receives what this process has published to itself."""
        self._sleepers = Sleepers()
        self._starting = asyncio.Lock()
        self._tasks = set[asyncio.Task[None]]()
        self._fences = Fences(self._ask_all, self._spawn)
        self._prefetch = 0
        self._mourning_until = 0.0
        """If somebody deletes one queue, others may be gone of which we have not been told."""
        self._came = 0
        """How many messages have arrived."""

    async def open(self) -> None:
        """Connect. Raises `BrokerUnavailable` or `BrokerRefused`."""
        await self._link.open()

    async def close(self) -> None:
        """End the connection: the server takes back what was not settled. Who waits is woken."""
        self._sleepers.wake()
        with self._lock:
            for receiver in self._all():
                receiver.lose()
            self._inboxes.close()
            self._receivers.clear()
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
                self._inboxes.open(queues)
            return await self._start_missing(self._link.now)

    def are_consumed(self, queues: Sequence[str]) -> bool:
        """Whether jobs of these queues are delivered already."""
        with self._lock:
            return set(queues) <= self._inboxes.queues and not self._missing() and not self._starting.locked()

    async def stop(self) -> list[Arrival]:
        """Have no more jobs delivered. Returns those that were not claimed, which are to be given back."""
        async with self._starting:
            await asyncio.gather(*(receiver.stop(self._target.timeout) for receiver in self._receivers.values()))
            with self._lock:
                self._retired += self._receivers.values()
                self._receivers.clear()
                return self._inboxes.close()  # not before, for some may have been on their way

    async def hold(self, holder: str, on_arrival: Callable[[Arrival], None]) -> None:
        """Have delivered what is published to this `holder`. Raises `BrokerUnavailable` or `BrokerRefused`."""
        async with self._starting:
            self._holder = holder, on_arrival
            await self._start_holding(self._link.now)

    async def let_go(self) -> None:
        """Delete the holder's queue, if nothing can be in it."""
        async with self._starting:
            holder, self._holder, receiver = self._holder, None, self._holding
            if holder is not None and receiver is not None and receiver.is_settled and not receiver.is_closed:
                await receiver.delete(self._target.timeout)

    def put_back(self, arrival: Arrival) -> bool:
        """Make it the next job of its queue; False if that is no longer consumed here."""
        with self._lock:
            if arrival.receiver.is_closed or not self._inboxes.add_first(arrival):
                return False
        self._sleepers.wake()
        return True

    async def fence(self) -> None:
        """Return when all has arrived that was in the queues before, as far as the prefetch allows."""
        await asyncio.wait([self._fences.next()])

    async def look(self, queues: Sequence[str]) -> None:
        """Return when a job of these queues has arrived, or it is certain that none was there."""
        arrival = self._spawn(self._sleepers.until(lambda: self.has_any(queues)))
        try:
            await asyncio.wait([arrival], timeout=_SURELY)
            if not arrival.done():
                await asyncio.wait([self._fences.next(), arrival], return_when=asyncio.FIRST_COMPLETED)
        finally:
            arrival.cancel()  # nobody else is woken: who was would look, too, and wake others in turn

    def flush(self) -> None:
        """Send the acknowledgements."""
        with self._lock:
            for receiver in self._all():
                receiver.flush()
            settled = [one for one in self._retired if one.is_settled]
        for receiver in settled:
            self._retired.remove(receiver)
            self._spawn(receiver.close(self._target.timeout))

    def has_any(self, queues: Iterable[str]) -> bool:
        """Whether a job of these queues has arrived."""
        with self._lock:
            return self._inboxes.has_any(queues)

    async def wait(self, queues: Sequence[str], seconds: float) -> None:
        """Return when a job has arrived, or after `seconds`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._sleepers.once(unless=lambda: self.has_any(queues))

    async def _ask_all(self) -> None:
        receivers = list(self._receivers.values())

        async def ask() -> None:
            await asyncio.gather(*(receiver.fence(self._target.timeout) for receiver in receivers))

        await ask_until_quiet(ask, lambda: self._came, self._prefetch)

    def _missing(self) -> list[tuple[str, Band]]:
        queues = self._inboxes.queues
        return [(queue, band) for queue in queues for band in BANDS if (queue, band) not in self._receivers]

    async def _start_missing(self, line: Line) -> bool:
        await asyncio.sleep(self._mourning_until - time.monotonic())
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
        read = partial(stored, queue=queue, priority=_PRIORITY[band])
        name = self._topology.ready(queue, band)
        prefetch = 1 if band == "suspects" else self._prefetch  # whoever dies with one takes no other along
        receiver = await self._receive(line, name, read, self._arrive, prefetch)
        if receiver is not None:
            with self._lock:
                self._receivers[queue, band] = receiver

    async def _start_holding(self, line: Line) -> None:
        if self._holder is None or self._holding is not None:
            return
        holder, on_arrival = self._holder
        await declare(line, self._topology.of_holder(holder), self._target)
        try:
            receiver = await self._receive(line, self._topology.held(holder), stored_with_holder, on_arrival, 0)
        except BROKEN as exc:
            raise undeclared(exc, self._target) from exc
        with self._lock:
            self._holding = receiver

    async def _receive(
        self, line: Line, name: str, read: Read, on_arrival: Callable[[Arrival], None], prefetch: int
    ) -> Receiver | None:
        """A receiver, unless it has already ended."""
        channel = await open_channel(line, self._target)
        receiver = Receiver(line.wire, channel, name, read, on_arrival=on_arrival, on_end=self._ended)
        try:
            await receiver.start(prefetch, self._target.timeout)
        except BROKEN:
            self._abandon(receiver)
            raise
        if receiver.is_over:
            self._abandon(receiver)
            return None
        return receiver

    def _abandon(self, receiver: Receiver) -> None:
        """What has come from it comes again."""
        receiver.lose()
        with self._lock:
            self._lost(self._inboxes.take_all(lambda arrival: arrival.receiver is receiver))
        self._spawn(receiver.close(self._target.timeout))

    def _all(self) -> Iterable[Receiver]:
        holding = () if self._holding is None else (self._holding,)
        return (*self._receivers.values(), *self._retired, *holding)

    def _arrive(self, arrival: Arrival) -> None:
        self._came += 1
        with self._lock:
            if arrival.receiver.is_closed:
                self._lost([arrival])
                return
            if self._known(arrival):
                return
            if not self._inboxes.add(arrival):  # it was on its way when `stop` was called
                arrival.receiver.nack([arrival])
        self._sleepers.wake()

    def _ended(self, receiver: Receiver) -> None:
        """Go on with another."""
        with self._lock:
            if not self._forget(receiver):
                return
            if receiver.is_closed:
                self._lost(self._inboxes.take_all(lambda arrival: arrival.receiver is receiver))
            else:
                self._mourning_until = time.monotonic() + MOURNING
                self._retired.append(receiver)
        self._spawn(self._repair(receiver))

    async def _look_after(self, receiver: Receiver) -> None:
        """The server has cancelled it: settle what it has received, unless the server has taken that back.

        It does if it lost patience with a job (from RabbitMQ 4.3 on; those before close the channel), and does not if
        the queue was deleted: then it is for us alone to store the next attempt.
        """
        try:
            deleted = await is_missing(self._link.now, receiver.queue, self._target)
        except BrokerError:  # the connection is lost, and all with it
            return
        if deleted:
            await receiver.stop(self._target.timeout)
            return
        with self._lock:
            if receiver in self._retired:
                self._retired.remove(receiver)
                self._abandon(receiver)

    def _forget(self, receiver: Receiver) -> bool:
        """Whether it was one that should receive."""
        if receiver is self._holding:
            self._holding = None
            return True
        key = next((key for key, other in self._receivers.items() if other is receiver), None)
        if key is None:
            return False
        del self._receivers[key]
        log.warning("jobs of queue %r no longer came in; consuming it again", key[0])
        return True

    async def _repair(self, ended: Receiver) -> None:
        if not ended.is_closed:
            await self._look_after(ended)
        try:
            await self._consume_again(self._link.now)
        except BrokerError as exc:
            log.warning("%s", exc)
        self._sleepers.wake()  # if it could not be done, whoever asks for jobs next will try again, and tell

    async def _consume_again(self, line: Line) -> None:
        async with self._starting:
            await self._start_holding(line)
            await self._start_missing(line)

    def _on_down(self) -> None:
        with self._lock:
            for receiver in self._all():
                receiver.lose()
            self._holding = None
            self._receivers.clear()
            self._retired.clear()
            self._lost(self._inboxes.take_all(lambda _: True))
        self._sleepers.wake()

    def _spawn(self, coroutine: Coroutine[object, object, None]) -> asyncio.Task[None]:
        self._tasks.add(task := asyncio.create_task(coroutine))
        task.add_done_callback(self._tasks.discard)
        return task
