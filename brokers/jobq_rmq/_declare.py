"""Making what has to be on the server, on a channel that an error may close."""

from collections.abc import Iterable
from contextlib import suppress
from typing import Any, cast

from aiormq import Channel, Connection
from aiormq.abc import ChannelFrame
from aiormq.exceptions import AMQPError

from jobq_rmq._errors import undeclared
from jobq_rmq._topology import Binding, Entity, Exchange, Queue

BROKEN = (AMQPError, OSError, RuntimeError, TimeoutError)
"""What the client library raises when a channel or its connection is lost or refused."""


async def open_channel(connection: Connection, *, confirms: bool = False) -> Channel:
    """A channel; the library's own type, which has more than its abstract one."""
    return cast("Channel", await connection.channel(publisher_confirms=confirms))


async def write(channel: Channel, frames: Iterable[object]) -> None:
    """Send frames one right after the other. They are on their way when this returns, and no more is known of them."""
    raw, packed = cast("Any", channel), cast("Any", ChannelFrame)
    await raw.write_queue.put(packed.marshall(channel.number, frames))


async def declare(connection: Connection, entities: Iterable[Entity], url: str) -> None:
    """Make what is not there yet. Raises `BrokerRefused` for what is there with other properties."""
    try:
        channel = await open_channel(connection)
        for entity in entities:
            await _make(channel, entity)
    except BROKEN as exc:
        raise undeclared(exc, url) from exc
    with suppress(*BROKEN):
        await channel.close()


async def _make(channel: Channel, entity: Entity) -> None:
    match entity:
        case Exchange():
            await channel.exchange_declare(
                entity.name, exchange_type=entity.type, durable=True, arguments=entity.arguments or None
            )
        case Queue():
            await channel.queue_declare(entity.name, durable=True, arguments=entity.arguments)
        case Binding(to_exchange=True):
            await channel.exchange_bind(entity.target, entity.source, routing_key=entity.key)
        case Binding():
            await channel.queue_bind(entity.target, entity.source, routing_key=entity.key)
