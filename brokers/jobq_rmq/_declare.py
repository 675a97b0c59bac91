"""What is done on a channel: making what has to be on the server, and writing frames."""

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, cast

from aiormq import Channel, Connection
from aiormq.abc import ChannelFrame
from aiormq.exceptions import AMQPError, ChannelInvalidStateError

from jobq_rmq._errors import undeclared
from jobq_rmq._topology import Binding, Entity, Exchange, Queue
from jobq_rmq._url import Target

BROKEN = (AMQPError, OSError, RuntimeError, TimeoutError)
"""What the client library raises when a channel or its connection is lost or refused."""


async def open_channel(connection: Connection, target: Target, *, confirms: bool = False) -> Channel:
    """A channel; the library's own type, which has more than its abstract one."""
    opened = await connection.channel(publisher_confirms=confirms, timeout=target.timeout)
    return cast("Channel", opened)


def is_closed(channel: Channel) -> bool:
    """Whether it is, or is about to be: the server's word for it comes a moment before the library's."""
    return channel.is_closed or cast("Any", channel)._close_exception is not None  # noqa: SLF001 - there is no other


async def room(channel: Channel) -> None:
    """Return when `write` may be called. Raises `ChannelInvalidStateError` if the channel is closed."""
    while _queue(channel).full() and not is_closed(channel):  # noqa: ASYNC110 - the writer empties it at once
        await asyncio.sleep(0)
    if is_closed(channel):
        raise ChannelInvalidStateError("the channel was closed")


def write(channel: Channel, frames: Iterable[object]) -> None:
    """Send frames one right after the other, right after `room`; then they are on their way.

    No moment may pass in between: on a channel that is closed meanwhile, they would cost the whole connection.
    """
    packed = cast("Any", ChannelFrame).marshall(channel.number, frames)
    _queue(channel).put_nowait(packed)


def _queue(channel: Channel) -> asyncio.Queue[ChannelFrame]:
    return cast("asyncio.Queue[ChannelFrame]", cast("Any", channel).write_queue)


async def declare(connection: Connection, entities: Iterable[Entity], target: Target) -> None:
    """Make what is not there yet, unless that is an operator's. Raises `BrokerRefused` for what is there otherwise."""
    if not target.declares:
        return
    try:
        channel = await open_channel(connection, target)
        for entity in entities:
            await _make(channel, entity, target.timeout)
    except BROKEN as exc:
        raise undeclared(exc, target) from exc
    with suppress(*BROKEN):
        await channel.close(timeout=target.timeout)


async def _make(channel: Channel, entity: Entity, seconds: float) -> None:
    match entity:
        case Exchange():
            await channel.exchange_declare(
                entity.name,
                exchange_type=entity.type,
                durable=True,
                arguments=entity.arguments or None,
                timeout=seconds,
            )
        case Queue():
            await channel.queue_declare(entity.name, durable=True, arguments=entity.arguments, timeout=seconds)
        case Binding(to_exchange=True):
            await channel.exchange_bind(entity.target, entity.source, routing_key=entity.key, timeout=seconds)
        case Binding():
            await channel.queue_bind(entity.target, entity.source, routing_key=entity.key, timeout=seconds)
