"""A prefix of the test's own, a plain connection to look and to do harm, and the shortest way to have a job."""

import asyncio
import itertools
import os
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import aiormq
from aiormq.abc import AbstractConnection
from aiormq.exceptions import ChannelNotFoundEntity
from pamqp.commands import Basic

from jobq.broker import Broker
from jobq.codec import encode_job
from jobq.errors import BrokerUnavailable
from jobq.model import Claim, Delivery, Done, Job, Outcome, Stamp, Turn, WorkerInfo
from jobq_rmq._topology import Entity, Exchange, Kind, Queue, Topology

PATIENCE: Final = 20.0
KINDS: Final[tuple[Kind, ...]] = ("classic", "quorum")
WORKER: Final = WorkerInfo(id="w", host="here", concurrency=50)
_numbers = itertools.count()
_stamps = itertools.count(1)


@dataclass
class Space:
    """A prefix on a server."""

    server: str
    connection: AbstractConnection
    prefix: str = field(default_factory=lambda: f"t{os.getpid()}-{next(_numbers)}")
    queues: set[str] = field(default_factory=lambda: {"default"})
    """Those of jobs, to be deleted at the end."""

    def url(self, kind: Kind = "classic", server: str = "", **options: object) -> str:
        """Of a broker under this prefix."""
        query = "".join(f"&{name}={value}" for name, value in options.items())
        return f"{server or self.server}?prefix={self.prefix}&type={kind}{query}"

    def topology(self, kind: Kind = "classic") -> Topology:
        return Topology(self.prefix, kind)

    async def ready(self, name: str = "normal.default") -> int:
        """How many messages are in a queue and not with a consumer; 0 without a queue."""
        channel = await self.connection.channel()
        try:
            answer = await channel.queue_declare(f"{self.prefix}.{name}", passive=True, timeout=PATIENCE)
        except ChannelNotFoundEntity:
            return 0
        await channel.close()
        return answer.message_count or 0

    async def has(self, name: str, count: int) -> None:
        """Return when so many are ready in a queue."""
        await until(lambda: self._counts(name, count))

    async def delete(self, *names: str) -> None:
        """Delete queues."""
        channel = await self.connection.channel()
        for name in names:
            await channel.queue_delete(f"{self.prefix}.{name}", timeout=PATIENCE)
        await channel.close()

    async def publish(self, exchange: str, key: str, body: bytes = b"", **properties: Any) -> None:
        """A message of somebody else's, persistent and confirmed."""
        channel = await self.connection.channel()
        header = Basic.Properties(delivery_mode=2, **properties)
        await channel.basic_publish(
            body, exchange=f"{self.prefix}.{exchange}", routing_key=key, properties=header, timeout=PATIENCE
        )
        await channel.close()

    async def clear(self) -> None:
        """Delete everything under the prefix."""
        channel = await self.connection.channel()
        for entity in self._entities():
            match entity:
                case Queue():
                    await channel.queue_delete(entity.name, timeout=PATIENCE)
                case Exchange():
                    await channel.exchange_delete(entity.name, timeout=PATIENCE)
                case _:
                    pass

    def _entities(self) -> list[Entity]:
        found: list[Entity] = []
        for topology in (Topology(self.prefix, kind, "plugin") for kind in KINDS):
            found += [*topology.base(), *topology.ladder()]
            for queue in self.queues:
                found += topology.of_queue(queue)
        return found

    async def _counts(self, name: str, count: int) -> bool:
        return await self.ready(name) == count


@asynccontextmanager
async def space_on(server: str) -> AsyncGenerator[Space]:
    """A prefix of one's own; what is under it is deleted at the end."""
    async with aiormq.connect(server) as connection:
        space = Space(server, connection)
        yield space
    async with aiormq.connect(server) as connection:  # the test may have closed the other, or its server
        space.connection = connection
        await space.clear()


def job(job_id: str, **columns: Any) -> Job:
    return Job(id=job_id, task="t", **columns)


def envelope(job_id: str) -> bytes:
    return encode_job(job(job_id))


async def put(broker: Broker, *job_ids: str, **columns: Any) -> None:
    await broker.enqueue([job(job_id, **columns) for job_id in job_ids], Stamp("c", next(_stamps)))


async def lease(broker: Broker) -> None:
    """Get a lease, as soon as the broker is there."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                await broker.heartbeat(WORKER, [], 60)
            except BrokerUnavailable:
                await asyncio.sleep(0.02)
            else:
                return


_highest = 0
"""The highest epoch that any test has received."""


async def claim(broker: Broker, *outcomes: Outcome, limit: int = 50, queues: Sequence[str] = ("default",)) -> Turn:
    """A turn of a worker that has received everything so far."""
    global _highest  # noqa: PLW0603 - one worker, one memory
    turn = await broker.turn(outcomes, Claim(WORKER.id, queues, limit, suspects=True, resume=_highest))
    _highest = max([_highest, *(delivery.epoch for delivery in turn.deliveries)])
    return turn


async def collect(
    broker: Broker, count: int, *, queues: Sequence[str] = ("default",), seconds: float = PATIENCE
) -> list[tuple[Delivery, float]]:
    """Claim and finish jobs until there were so many; each with the time at which it came."""
    await lease(broker)
    found: list[tuple[Delivery, float]] = []
    done: list[Outcome] = []
    async with asyncio.timeout(seconds):
        while len(found) < count:
            deliveries = (await claim(broker, *done, queues=queues)).deliveries
            found += [(delivery, time.time()) for delivery in deliveries]
            done = [Done(delivery.job.id, delivery.epoch) for delivery in deliveries]
            if not deliveries:
                await broker.wait(queues, 0.05)
        await claim(broker, *done, limit=0)
    return found


async def stored_at_last(broker: Broker, job_id: str, delay: float | None = None) -> None:
    """Enqueue as a client does: the same call again, until the broker knows."""
    async with asyncio.timeout(10):
        while True:
            try:
                await broker.enqueue([job(job_id, delay=delay)], Stamp(job_id, 1))
            except BrokerUnavailable:
                continue
            return


async def drain(broker: Broker, *queues: str) -> list[str]:
    """Claim and finish everything that is ready; the ids in order."""
    await lease(broker)
    ids: list[str] = []
    done: list[Outcome] = []
    while deliveries := (await claim(broker, *done, queues=queues or ("default",))).deliveries:
        ids += [delivery.job.id for delivery in deliveries]
        done = [Done(delivery.job.id, delivery.epoch) for delivery in deliveries]
    await claim(broker, *done, limit=0)
    return ids


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = PATIENCE) -> None:
    """Return as soon as the condition holds."""
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.02)


async def soon(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Return as soon as the condition holds, which costs nothing to ask."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)
