"""A namespace of which nothing is left on the server when the tests are over."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress

import aiormq
from aiormq.abc import AbstractChannel

from jobq.model import Again, Answer, Claim, Job, Outcome, Released, Stamp, Turn
from jobq_rmq import RmqBroker
from jobq_rmq._topology import Exchange, Kind, Queue, Topology


class Namespace:
    """Makes brokers on one prefix, and remembers what queues of jobs they were asked for."""

    def __init__(self, server: str, prefix: str, kind: Kind) -> None:
        self.url = f"{server}?prefix={prefix}&type={kind}"
        self.queues = set[str]()
        self.has_delays = False
        self._server = server
        self._topology = Topology(prefix, kind)

    def broker(self) -> RmqBroker:
        """One more, not yet entered."""
        return _NotedRmqBroker(self)

    async def clear(self) -> None:
        """Leave no job in it. What all tests need stays: it takes a second to make."""
        if not self.queues:
            return
        entities = [entity for queue in self.queues for entity in self._topology.of_queue(queue)]
        async with self._channel() as channel:
            await _delete(channel, [entity for entity in entities if isinstance(entity, Queue)])
            if self.has_delays:
                await _purge(channel, [entity for entity in self._topology.ladder() if isinstance(entity, Queue)])
        self.queues, self.has_delays = set[str](), False

    async def delete(self) -> None:
        """Take everything off the server."""
        entities = [*self._topology.base(), *self._topology.ladder()]
        async with self._channel() as channel:
            await _delete(channel, [entity for entity in entities if isinstance(entity, Exchange | Queue)])

    @asynccontextmanager
    async def _channel(self) -> AsyncGenerator[AbstractChannel]:
        connection = await aiormq.connect(self._server)
        try:
            yield await connection.channel()
        finally:
            await connection.close()


async def _delete(channel: AbstractChannel, entities: Sequence[Exchange | Queue]) -> None:
    """What is not there does no harm."""
    for entity in entities:
        delete = channel.queue_delete if isinstance(entity, Queue) else channel.exchange_delete
        await delete(entity.name, nowait=True)
    await channel.basic_qos(prefetch_count=1)  # the answer comes when all the others are done


async def _purge(channel: AbstractChannel, queues: Sequence[Queue]) -> None:
    with suppress(aiormq.exceptions.ChannelNotFoundEntity):
        for queue in queues:
            await channel.queue_purge(queue.name)


class _NotedRmqBroker(RmqBroker):
    def __init__(self, namespace: Namespace) -> None:
        super().__init__(namespace.url)
        self._namespace = namespace

    def twin(self) -> RmqBroker:
        twin = super().twin()
        assert isinstance(twin, _NotedRmqBroker)
        twin._namespace = self._namespace
        return twin

    async def enqueue(self, jobs: Sequence[Job], stamp: Stamp) -> Sequence[Answer]:
        self._namespace.queues.update(job.queue for job in jobs)
        self._namespace.has_delays |= any(job.delay or job.due for job in jobs)
        return await super().enqueue(jobs, stamp)

    async def turn(self, outcomes: Sequence[Outcome], claim: Claim) -> Turn:
        self._namespace.queues.update(claim.queues)
        moves = [outcome for outcome in outcomes if isinstance(outcome, Again)]
        self._namespace.queues.update(outcome.queue for outcome in moves if outcome.queue is not None)
        self._namespace.has_delays |= any(isinstance(each, Again | Released) and each.delay > 0 for each in outcomes)
        return await super().turn(outcomes, claim)
