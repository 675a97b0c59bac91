"""Publishing with confirms, on a connection that does nothing else: an alarm on the server blocks whoever publishes."""

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Final, cast

from aiormq import Channel, Connection
from aiormq.exceptions import PublishError
from pamqp.base import Frame
from pamqp.body import ContentBody
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from jobq.errors import BrokerError, BrokerFull, BrokerUnavailable, OutcomeUnknown
from jobq_rmq._declare import BROKEN, declare, is_closed, open_channel, room, write
from jobq_rmq._errors import reason, unpublished
from jobq_rmq._link import Link
from jobq_rmq._messages import Message
from jobq_rmq._plugin import probe
from jobq_rmq._topology import Entity, Topology
from jobq_rmq._url import Target

_Confirm = asyncio.Future[object]
_GLANCE: Final = 0.05
"""Seconds for which a server is waited for that was blocking already when somebody else waited for it."""

_MOURNING: Final = 0.25
"""Seconds before a queue that was deleted is made again. RabbitMQ 3.10 takes some milliseconds to tell the consumers of
a quorum queue that it is gone; if it is there again by then, they are not told, and what is sent to them is lost."""


class Publisher:
    """Publishes messages, many at once. Lives on one event loop."""

    def __init__(self, target: Target, topology: Topology) -> None:
        self._target = target
        self._topology = topology
        self._link = Link(target, "publishing", self._prepare)
        self._channel: Channel | None = None
        self._queues = set[str]()
        """Those that are known to be there."""
        self._ladder = deque[Entity]()
        """What of it is not known to be there."""
        self._preparing = asyncio.Lock()
        self._full = False
        """Whether the server let somebody wait in vain, and nobody has seen it accept anything since."""

    async def open(self) -> None:
        """Connect. Raises `BrokerUnavailable` or `BrokerRefused`."""
        await self._link.open()

    async def close(self) -> None:
        """End the connection."""
        await self._link.close()

    async def publish(self, messages: Sequence[Message]) -> list[BrokerError | None]:
        """For each message, None if it is stored, and else why not.

        Raises `BrokerUnavailable`, `BrokerRefused` or `BrokerFull` if nothing was sent.
        """
        if not messages:
            return []
        results = await self._try(messages)
        returned = [index for index, result in enumerate(results) if isinstance(result, _Returned)]
        if returned:  # somebody has deleted a queue: it is made again
            await asyncio.sleep(_MOURNING)
            self._queues.difference_update(messages[index].queue for index in returned)
            if any(messages[index].levels for index in returned):
                self._ladder = deque(self._topology.ladder())
            for index, result in zip(returned, await self._again([messages[i] for i in returned]), strict=True):
                results[index] = result
        return results

    async def _again(self, messages: Sequence[Message]) -> Sequence[BrokerError | None]:
        try:
            return await self._try(messages)
        except BrokerError as exc:  # others may be stored
            return [exc] * len(messages)

    async def _try(self, messages: Sequence[Message]) -> list[BrokerError | None]:
        try:
            async with asyncio.timeout(self._target.timeout):
                await self._unblocked(await self._link.get())
                channel = await self._ready(messages)
        except TimeoutError:
            raise BrokerUnavailable(f"RabbitMQ at {self._target.masked} has not answered in time") from None
        confirms = await self._send(channel, messages)
        await asyncio.wait(confirms, timeout=self._target.timeout)
        return [self._result(message, confirm) for message, confirm in zip(messages, confirms, strict=True)]

    async def _unblocked(self, connection: Connection) -> None:
        try:
            async with asyncio.timeout(_GLANCE if self._full else self._target.timeout * 0.9):
                await connection.ready()
        except TimeoutError:
            self._full = True
            raise BrokerFull(
                f"RabbitMQ at {self._target.masked} takes no messages: it has run low on memory or disk"
            ) from None
        self._full = False

    async def _ready(self, messages: Sequence[Message]) -> Channel:
        """The channel, when there is all that these messages need."""
        async with self._preparing:
            if self._channel is None or is_closed(self._channel):
                await self._prepare(await self._link.get())
            connection = await self._link.get()
            for queue in {message.queue for message in messages} - self._queues:
                await declare(connection, self._topology.of_queue(queue), self._target)
                self._queues.add(queue)
            if self._ladder and any(message.levels for message in messages):
                await declare(connection, _used_up(self._ladder), self._target)
            assert self._channel is not None
            return self._channel

    async def _send(self, channel: Channel, messages: Sequence[Message]) -> list[_Confirm]:
        """Write all of them in one go.

        `Channel.basic_publish` can be cancelled, by a timeout too, and if that meets the return of its message, the
        channel's reader ends and all other publishes hang. These futures are left alone.
        """
        frames = [frame for message in messages for frame in _frames(message, channel.max_content_size)]
        try:
            await room(channel)
        except BROKEN as exc:
            raise BrokerUnavailable(f"RabbitMQ at {self._target.masked} was lost ({reason(exc)})") from exc
        confirms = [_expect(channel, message.id) for message in messages]
        write(channel, frames)
        return confirms

    def _result(self, message: Message, confirm: _Confirm) -> BrokerError | None:
        url = self._target.masked
        if not confirm.done():
            return OutcomeUnknown(f"RabbitMQ at {url} has not confirmed a job in time; it may have stored it or not")
        if confirm.cancelled():
            return OutcomeUnknown(f"the connection to RabbitMQ at {url} was lost before a job was confirmed")
        error = confirm.exception()
        if error is None:
            return None
        reported = unpublished(error, message.exchange, message.key, self._target)
        if isinstance(error, PublishError) and self._target.declares:
            return _Returned(str(reported))
        return reported

    async def _prepare(self, connection: Connection) -> None:
        """Open the channel, and see to what everybody needs.

        The channel is also opened again when a mistake in one publish has closed it for all. The mistake may have been
        ours: to believe that something is still there which somebody has deleted.
        """
        self._queues.clear()
        self._ladder = deque(self._topology.ladder())
        self._full = False
        if self._topology.delays == "plugin":
            await probe(connection, self._target)
        await declare(connection, self._topology.base(), self._target)
        try:
            self._channel = await open_channel(connection, self._target, confirms=True)
        except BROKEN as exc:
            raise BrokerUnavailable(f"RabbitMQ at {self._target.masked} was lost ({reason(exc)})") from exc


class _Returned(BrokerUnavailable):
    """The server had no queue for it."""


def _used_up(entities: deque[Entity]) -> Iterator[Entity]:
    """Each, until it is made: with a server that is far away, there is not the time for all of them in one call."""
    while entities:
        yield entities[0]
        entities.popleft()


def _expect(channel: Channel, message: str) -> _Confirm:
    """What the channel's reader will end: the confirmation of the next message that is written."""
    raw = cast("Any", channel)
    raw.delivery_tag += 1
    confirm: _Confirm = raw.create_future()
    raw.confirmations[raw.delivery_tag] = confirm
    raw.message_id_delivery_tag[message] = raw.delivery_tag
    confirm.add_done_callback(partial(_forget, raw.message_id_delivery_tag, message))
    return confirm


def _forget(tags: dict[str, int], message: str, _: _Confirm) -> None:
    tags.pop(message, None)


def _frames(message: Message, size: int) -> list[Frame | ContentHeader | ContentBody]:
    body = message.body
    return [
        Basic.Publish(exchange=message.exchange, routing_key=message.key, mandatory=message.mandatory),
        ContentHeader(properties=message.properties(), body_size=len(body)),
        *(ContentBody(body[start : start + size]) for start in range(0, len(body), size)),
    ]
