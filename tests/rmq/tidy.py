"""Namespaces of which nothing is left on the server when a test is over."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import aiormq

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
        channel = await connection.channel()
        topology = self.topology
        entities = [*topology.base(), *topology.ladder()]
        for entity in [*entities, *(each for queue in self.queues for each in topology.of_queue(queue))]:
            match entity:
                case Exchange(name):
                    await channel.exchange_delete(name)
                case Queue(name):
                    await channel.queue_delete(name)
                case _:
                    pass
        await connection.close()


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
