"""Channels, and making what has to be on the server."""

from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Final, cast

from aiormq import Channel, Connection
from aiormq.exceptions import AMQPError, ChannelNotFoundEntity

from jobq_rmq._errors import undeclared
from jobq_rmq._topology import Binding, Entity, Exchange, Queue
from jobq_rmq._url import Target

BROKEN = (AMQPError, OSError, RuntimeError, TimeoutError)
"""What the client library raises when a channel or its connection is lost or refused."""
MOURNING: Final = 0.25
"""Seconds before a queue that was deleted is made again. RabbitMQ 3.10 takes some milliseconds to tell consumers that
it is gone; if it is there again by then, they are not told, and what is sent to them is lost."""


async def open_channel(connection: Connection, target: Target, *, confirms: bool = False) -> Channel:
    """A channel; the library's own type, which has more than its abstract one."""
    opened = await connection.channel(publisher_confirms=confirms, timeout=target.timeout)
    return cast("Channel", opened)


def is_closed(channel: Channel) -> bool:
    """Whether it is, or is about to be: the server's word for it comes a moment before the library's."""
    return channel.is_closed or cast("Any", channel)._close_exception is not None  # noqa: SLF001 - there is no other


async def is_missing(connection: Connection, queue: str, target: Target) -> bool:
    """Whether it is certain that there is no such queue."""
    try:
        channel = await open_channel(connection, target)
        await channel.queue_declare(queue, passive=True, timeout=target.timeout)
    except ChannelNotFoundEntity:
        return True
    except BROKEN:
        return False
    with suppress(*BROKEN):
        await channel.close(timeout=target.timeout)
    return False


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
