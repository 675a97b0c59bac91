"""Publishing with confirms, on a connection that does nothing else: an alarm on the server blocks whoever publishes."""

import asyncio
import logging
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from jobq.errors import BrokerError, BrokerFull, BrokerUnavailable
from jobq_rmq._confirms import Fate, Sending
from jobq_rmq._declare import BROKEN, MOURNING, declare, open_channel
from jobq_rmq._errors import reason, unpublished
from jobq_rmq._link import Link
from jobq_rmq._messages import Message
from jobq_rmq._outlet import Outlet
from jobq_rmq._plugin import probe
from jobq_rmq._topology import Entity, Topology
from jobq_rmq._url import Target
from jobq_rmq._wire import Line

_GLANCE: Final = 0.05
"""Seconds for which a server is waited for that was blocking already when somebody else waited for it."""
_CHANCES: Final = 4
"""How often that is sent again which the server did not take: a second is enough to elect a leader."""

_Result = tuple[Fate, BrokerError | None]

log = logging.getLogger("jobq.rmq")


@dataclass(slots=True, eq=False)
class Post:
    """Messages that were sent on one channel and go on being waited for until the `deadline`."""

    outlet: Outlet
    sending: Sending
    deadline: float

    @property
    def is_stored(self) -> bool:
        """Whether all of them are."""
        return all(fate == "stored" for fate in self.sending.fates)


class Publisher:
    """Publishes messages, many at once. Lives on one event loop."""

    def __init__(self, target: Target, topology: Topology) -> None:
        self._target = target
        self._topology = topology
        self._link = Link(target, "publishing", self._prepare)
        self._outlet: Outlet | None = None
        self._queues = set[str]()
        """Those that are known to be there."""
        self._ladder = deque[Entity]()
        """What of it is not known to be there."""
        self._preparing = asyncio.Lock()
        self._retiring = set[asyncio.Task[None]]()
        self._full = False
        """Whether the server let somebody wait in vain, and nobody has seen it accept anything since."""

    async def open(self) -> None:
        """Connect. Raises `BrokerUnavailable` or `BrokerRefused`."""
        await self._link.open()

    async def close(self) -> None:
        """End the connection."""
        await self._link.close()
        for task in self._retiring:
            task.cancel()
        await asyncio.gather(*self._retiring, return_exceptions=True)

    def post(self, messages: Sequence[Message]) -> "asyncio.Future[Post | None] | None":
        """Send them, if nothing has to be waited for; ends when the server has spoken, or is late. Needs no task."""
        outlet = self._at_once(messages)
        return None if outlet is None else _told(self._send(outlet, messages))

    async def publish(self, messages: Sequence[Message], post: Post | None = None) -> list[BrokerError | None]:
        """For each message, None if it is stored, and else why not; with `post` they were sent already, once.

        Raises `BrokerUnavailable`, `BrokerRefused` or `BrokerFull` if nothing was sent.
        """
        if not messages:
            return []
        results = await (self._try(messages) if post is None else self._hear(messages, post))
        for _ in range(_CHANCES):
            again = [index for index, (fate, _) in enumerate(results) if self._may_change(fate)]
            if not again:
                break
            await asyncio.sleep(MOURNING)
            self._doubt([messages[index] for index in again if results[index][0] == "returned"])
            for index, result in zip(again, await self._again([messages[i] for i in again]), strict=True):
                results[index] = result
        return [error for _, error in results]

    def _may_change(self, fate: Fate) -> bool:
        """Whether the server did not take it, and may the next time."""
        return fate == "refused" or (fate == "returned" and self._target.declares)

    def _doubt(self, returned: Sequence[Message]) -> None:
        """Somebody has deleted a queue: it is made again."""
        self._queues.difference_update(message.queue for message in returned)
        if any(message.levels for message in returned):
            self._ladder = self._whole_ladder()

    async def _again(self, messages: Sequence[Message]) -> Sequence[_Result]:
        try:
            return await self._try(messages)
        except BrokerError as exc:  # others may be stored
            failed: _Result = "unknown", exc
            return [failed] * len(messages)

    async def _try(self, messages: Sequence[Message]) -> list[_Result]:
        outlet = self._at_once(messages)
        if outlet is None:
            try:
                async with asyncio.timeout(self._target.timeout):
                    await self._unblocked(await self._link.get())
                    outlet = await self._ready(messages)
            except TimeoutError:
                raise BrokerUnavailable(f"RabbitMQ at {self._target.masked} has not answered in time") from None
        if outlet.is_closed:
            raise BrokerUnavailable(f"the connection to RabbitMQ at {self._target.masked} was lost")
        return await self._hear(messages, self._send(outlet, messages))

    def _send(self, outlet: Outlet, messages: Sequence[Message]) -> Post:
        return Post(outlet, outlet.send(messages), asyncio.get_running_loop().time() + self._target.timeout)

    async def _hear(self, messages: Sequence[Message], post: Post) -> list[_Result]:
        sending = post.sending
        await asyncio.wait([sending.done], timeout=max(0.0, post.deadline - asyncio.get_running_loop().time()))
        if not sending.done.done() or "refused" in sending.fates:
            self._give_up(post.outlet)
        return [
            (fate, self._error(fate, message, sending)) for message, fate in zip(messages, sending.fates, strict=True)
        ]

    def _give_up(self, outlet: Outlet) -> None:
        """Publish on another channel from now on: on this one the server may never store anything again.

        If a message is lost on its way to a quorum queue whose leader has died, all that the channel sends there later
        waits behind it, for ever (RabbitMQ's issues 13095 and 14589). And what is first sent there while no other
        leader is elected is refused, as is all that follows (seen with RabbitMQ 3.10).
        """
        if outlet is self._outlet and outlet.is_open:
            log.warning("RabbitMQ at %s does not confirm jobs; trying another channel", self._target.masked)
            self._outlet = None
            self._retiring.add(task := asyncio.create_task(outlet.retire(self._target.timeout)))
            task.add_done_callback(self._retiring.discard)

    def _at_once(self, messages: Sequence[Message]) -> Outlet | None:
        """The outlet, if nothing has to be waited for."""
        outlet = self._outlet
        if outlet is None or not outlet.is_open or self._full:
            return None
        missing = any(message.queue not in self._queues or (message.levels and self._ladder) for message in messages)
        return None if missing else outlet

    async def _unblocked(self, line: Line) -> None:
        try:
            async with asyncio.timeout(_GLANCE if self._full else self._target.timeout * 0.9):
                await line.ready()
        except TimeoutError:
            self._full = True
            raise BrokerFull(
                f"RabbitMQ at {self._target.masked} takes no messages: it has run low on memory or disk"
            ) from None
        self._full = False

    async def _ready(self, messages: Sequence[Message]) -> Outlet:
        """The outlet, when there is all that these messages need."""
        async with self._preparing:
            line = await self._link.get()
            outlet = self._outlet
            if outlet is None or outlet.is_closed:
                outlet = await self._prepare(line)
            for queue in {message.queue for message in messages} - self._queues:
                await declare(line, self._topology.of_queue(queue), self._target)
                self._queues.add(queue)
            if self._ladder and any(message.levels for message in messages):
                await declare(line, _used_up(self._ladder), self._target)
            try:
                await outlet.room()
            except BROKEN as exc:
                raise BrokerUnavailable(f"RabbitMQ at {self._target.masked} was lost ({reason(exc)})") from exc
            return outlet

    def _error(self, fate: Fate, message: Message, sending: Sending) -> BrokerError | None:
        return None if fate == "stored" else unpublished(fate, sending.reason, message, self._target)

    async def _prepare(self, line: Line) -> Outlet:
        """Open the channel, and see to what everybody needs.

        The channel is also opened again when a mistake in one publish has closed it for all. The mistake may have been
        ours: to believe that something is still there which somebody has deleted.
        """
        self._queues.clear()
        self._ladder = self._whole_ladder()
        self._full = False
        if self._topology.delays == "plugin":
            await probe(line, self._target)
        await declare(line, self._topology.base(), self._target)
        try:
            self._outlet = outlet = Outlet(line.wire, await open_channel(line, self._target, confirms=True))
        except BROKEN as exc:
            raise BrokerUnavailable(f"RabbitMQ at {self._target.masked} was lost ({reason(exc)})") from exc
        return outlet

    def _whole_ladder(self) -> deque[Entity]:
        """All of it that we have to make."""
        return deque(self._topology.ladder() if self._target.declares else ())


def _told(post: Post) -> "asyncio.Future[Post | None]":
    loop = asyncio.get_running_loop()
    told: asyncio.Future[Post | None] = loop.create_future()

    def tell(_: object = None) -> None:
        late.cancel()
        if not told.done():
            told.set_result(post)

    late = loop.call_at(post.deadline, tell)
    post.sending.done.add_done_callback(tell)
    return told


def _used_up(entities: deque[Entity]) -> Iterator[Entity]:
    """Each, until it is made: with a server that is far away, there is not the time for all of them in one call."""
    while entities:
        yield entities[0]
        entities.popleft()
