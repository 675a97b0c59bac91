"""Publishing with confirms, on a connection that does nothing else: an alarm on the server blocks whoever publishes."""

import asyncio
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, cast

from aiormq import Channel, Connection
from aiormq.exceptions import AMQPError, PublishError
from pamqp.base import Frame
from pamqp.body import ContentBody
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from jobq.errors import BrokerError, BrokerFull, BrokerUnavailable, OutcomeUnknown
from jobq_rmq._declare import declare, open_channel, write
from jobq_rmq._errors import reason, unpublished
from jobq_rmq._link import Link
from jobq_rmq._messages import Message
from jobq_rmq._topology import Topology
from jobq_rmq._url import Target

_Confirm = asyncio.Future[object]


class Publisher:
    """Publishes messages, many at once. Lives on one event loop."""

    def __init__(self, target: Target, topology: Topology) -> None:
        self._target = target
        self._topology = topology
        self._link = Link(target, "publishing", self._prepare)
        self._channel: Channel | None = None
        self._queues = set[str]()
        """Those that are known to be there."""
        self._ladder = False
        self._declaring = asyncio.Lock()

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
        results = await self._try(messages)
        returned = [index for index, result in enumerate(results) if isinstance(result, _Returned)]
        if returned:  # somebody has deleted a queue: it is made again
            self._queues.difference_update(messages[index].queue for index in returned)
            repeated = await self._try([messages[index] for index in returned])
            for index, result in zip(returned, repeated, strict=True):
                results[index] = result
        return results

    async def declare(self, queues: Iterable[str]) -> None:
        """See to it that these queues of jobs are there. Raises `BrokerRefused` or `BrokerUnavailable`."""
        if self._queues.issuperset(queues):
            return
        connection = await self._link.get()
        async with self._declaring:
            for queue in queues:
                if queue not in self._queues:
                    await declare(connection, self._topology.of_queue(queue), self._target.masked)
                    self._queues.add(queue)

    async def _try(self, messages: Sequence[Message]) -> list[BrokerError | None]:
        await self._unblocked()
        await self.declare({message.queue for message in messages})
        if not self._ladder and any(message.levels for message in messages):
            await self._declare_ladder()
        confirms = await self._send(messages)
        await asyncio.wait(confirms, timeout=self._target.timeout)
        return [self._result(confirm) for confirm in confirms]

    async def _send(self, messages: Sequence[Message]) -> list[_Confirm]:
        """Write all of them in one go.

        `Channel.basic_publish` can be cancelled, by a timeout too, and if that meets the return of its message, the
        channel's reader ends and all other publishes hang. These futures are left alone.
        """
        channel = await self._open_channel()
        confirms: list[_Confirm] = []
        frames: list[Frame | ContentHeader | ContentBody] = []
        try:
            async with channel.lock:
                for message in messages:
                    confirms.append(_expect(channel, message.id))
                    frames += _frames(message, channel.max_content_size)
                await write(channel, frames)
        except (AMQPError, OSError, RuntimeError) as exc:
            raise BrokerUnavailable(f"RabbitMQ at {self._target.masked} was lost ({reason(exc)})") from exc
        return confirms

    def _result(self, confirm: _Confirm) -> BrokerError | None:
        url = self._target.masked
        if not confirm.done():
            return OutcomeUnknown(f"RabbitMQ at {url} has not confirmed a job in time; it may have stored it or not")
        if confirm.cancelled():
            return OutcomeUnknown(f"the connection to RabbitMQ at {url} was lost before a job was confirmed")
        error = confirm.exception()
        if isinstance(error, PublishError):
            return _Returned(str(unpublished(error, url)))
        return None if error is None else unpublished(error, url)

    async def _unblocked(self) -> None:
        connection = await self._link.get()
        try:
            async with asyncio.timeout(self._target.timeout):
                await connection.ready()
        except TimeoutError:
            raise BrokerFull(
                f"RabbitMQ at {self._target.masked} takes no messages: it has run low on memory or disk"
            ) from None

    async def _open_channel(self) -> Channel:
        if self._channel is None or self._channel.is_closed:  # a mistake in one publish closes it for all
            self._channel = await open_channel(await self._link.get(), confirms=True)
        return self._channel

    async def _declare_ladder(self) -> None:
        connection = await self._link.get()
        async with self._declaring:
            if not self._ladder:
                await declare(connection, self._topology.ladder(), self._target.masked)
                self._ladder = True

    async def _prepare(self, connection: Connection) -> None:
        self._queues.clear()
        self._ladder = False
        await declare(connection, self._topology.base(), self._target.masked)
        self._channel = await open_channel(connection, confirms=True)


class _Returned(BrokerUnavailable):
    """The server had no queue for it."""


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
        Basic.Publish(exchange=message.exchange, routing_key=message.key, mandatory=True),
        ContentHeader(properties=message.properties(), body_size=len(body)),
        *(ContentBody(body[start : start + size]) for start in range(0, len(body), size)),
    ]
