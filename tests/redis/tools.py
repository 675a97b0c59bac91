"""Brokers and plain clients on private servers, and the shortest way to have a job."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any, cast

from redis.asyncio import Redis

from jobq.broker import Broker
from jobq.errors import BrokerUnavailable
from jobq.model import Claim, Delivery, Done, Job, Outcome, Stamp, Turn, WorkerInfo
from jobq_redis import RedisBroker

Client = Any
"""redis-py's own client, to look and to do harm. Its types are only partly known."""
from_url: Callable[[str], Client] = cast("Any", Redis).from_url
PATIENCE = 20.0
WORKER = WorkerInfo(id="w", host="here")


class Tools:
    """Opens what the test needs, until the test ends."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack

    async def broker(self, url: str) -> RedisBroker:
        return await self._stack.enter_async_context(RedisBroker(url))

    async def client(self, url: str) -> Client:
        return await self._stack.enter_async_context(from_url(url))


def job(job_id: str, **columns: Any) -> Job:
    return Job(id=job_id, task="t", **columns)


async def put(broker: Broker, *job_ids: str, number: int = 1, client: str = "c", **columns: Any) -> None:
    await broker.enqueue([job(job_id, **columns) for job_id in job_ids], Stamp(client, number))


async def lease(broker: Broker, seconds: float = 60) -> None:
    await broker.heartbeat(WORKER, [], seconds)


_highest = 0
"""The highest epoch that any test has received."""


async def claim(
    broker: Broker,
    *outcomes: Outcome,
    limit: int = 10,
    queues: Sequence[str] = ("default",),
    resume: int | None = None,
) -> Turn:
    """A turn of a worker that has received everything so far, unless `resume` says otherwise."""
    global _highest  # noqa: PLW0603 - one worker, one memory
    seen = _highest if resume is None else resume
    turn = await broker.turn(outcomes, Claim(WORKER.id, queues, limit, suspects=True, resume=seen))
    _highest = max([_highest, *(delivery.epoch for delivery in turn.deliveries)])
    return turn


def ids(deliveries: Sequence[Delivery]) -> list[str]:
    return [delivery.job.id for delivery in deliveries]


async def drain(broker: Broker, *queues: str) -> list[str]:
    """Claim and finish everything; the ids in order."""
    await lease(broker)
    turn = await claim(broker, limit=10_000, queues=queues or ("default",))
    done = [Done(delivery.job.id, delivery.epoch) for delivery in turn.deliveries]
    assert list((await claim(broker, *done, limit=0)).refused) == []
    return ids(turn.deliveries)


async def heard() -> None:
    """Let the loop hear of connections that were closed."""
    for _ in range(3):
        await asyncio.sleep(0)


async def until(condition: Callable[[], Awaitable[object]]) -> None:
    """Return as soon as the condition is true; a broker that is away is not."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                if await condition():
                    return
            except BrokerUnavailable:
                pass
            await asyncio.sleep(0.02)
