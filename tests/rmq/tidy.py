"""Namespaces of which nothing is left on the server when a test is over."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress

import aiormq
from aiormq.abc import AbstractConnection

from jobq.model import Answer, Claim, Job, Outcome, Stamp, Turn
from jobq_rmq import RmqBroker
from jobq_rmq._topology import Exchange, Kind, Queue, Topology


class Namespace:
    """Makes brokers on one prefix, and remembers what queues they were asked for."""

    def __init__(self, server: str, prefix: str, kind: Kind) -> None:
        self.url = f"{server}?prefix={prefix}&type={kind}"
        self.topology = Topology(prefix, kind)
        self.queues = set[str]()
        self._server = server

    def broker(self) -> RmqBroker:
        """One more, not yet entered."""
        return _Noting(self)

    async def delete(self) -> None:
        """Take everything off the server; what is not there does no harm."""
        connection = await aiormq.connect(self._server)
        topology, channel = self.topology, await connection.channel()
        entities = [*topology.base(), *(each for queue in self.queues for each in topology.of_queue(queue))]
        if await _is_there(connection, topology.level(0)):
            entities += topology.ladder()
        for entity in entities:
            if isinstance(entity, Exchange):
                await channel.exchange_delete(entity.name, nowait=True)
            elif isinstance(entity, Queue):
                await channel.queue_delete(entity.name, nowait=True)
        await channel.close()
        await connection.close()


async def _is_there(connection: AbstractConnection, queue: str) -> bool:
    with suppress(aiormq.exceptions.ChannelNotFoundEntity):
        channel = await connection.channel()
        await channel.queue_declare(queue, passive=True)
        return True
    return False


@asynccontextmanager
async def namespace(server: str, prefix: str, kind: Kind) -> AsyncGenerator[Namespace]:
    """A namespace that is deleted in the end."""
    namespace = Namespace(server, prefix, kind)
    try:
        yield namespace
    finally:
        await namespace.delete()


class _Noting(RmqBroker):
    def __init__(self, namespace: Namespace) -> None:
        super().__init__(namespace.url)
        self._queues = namespace.queues

    def twin(self) -> RmqBroker:
        twin = super().twin()
        assert isinstance(twin, _Noting)
        twin._queues = self._queues
        return twin

    async def enqueue(self, jobs: Sequence[Job], stamp: Stamp) -> Sequence[Answer]:
        self._queues.update(job.queue for job in jobs)
        return await super().enqueue(jobs, stamp)

    async def turn(self, outcomes: Sequence[Outcome], claim: Claim) -> Turn:
        self._queues.update(claim.queues)
        self._queues.update(queue for outcome in outcomes if (queue := getattr(outcome, "queue", None)))
        return await super().turn(outcomes, claim)
