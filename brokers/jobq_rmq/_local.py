"""New jobs on the loop of whoever enqueues: who does nothing else needs no thread, and one connection."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from jobq.errors import OutcomeUnknown
from jobq.model import Job, Stamp
from jobq_rmq._home import GONE
from jobq_rmq._publisher import Publisher
from jobq_rmq._sender import Sender, enqueue
from jobq_rmq._stamps import Stamps
from jobq_rmq._topology import Topology
from jobq_rmq._url import Target

T = TypeVar("T")


class Local:
    """A publishing connection on the loop that it is made on.

    If that loop is blocked for long, the connection is lost and made again, which is nothing to one that only enqueues:
    what a worker holds would be lost with it, so a worker's connections live elsewhere.
    """

    def __init__(self, target: Target, stamps: Stamps) -> None:
        topology = Topology(target.prefix, target.kind, target.delays)
        self._publisher = Publisher(target, topology)
        self._sender = Sender(topology, self._publisher, stamps)
        self._under_way = set[asyncio.Future[Any]]()
        self._retiring: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Connect. Raises `BrokerUnavailable` or `BrokerRefused`."""
        await self._publisher.open()

    async def enqueue(self, jobs: Sequence[Job], stamp: Stamp) -> None:
        """Return when all are stored. Raises `BrokerError`s. A caller that is cancelled does not stop it."""
        await enqueue(self._call, self._sender, jobs, stamp)

    def retire(self) -> None:
        """Close it when nothing is under way: others go on from here, elsewhere."""
        self._retiring = asyncio.create_task(self._retire(), name="jobq rmq retire")

    async def close(self) -> None:
        """Disconnect. Nothing is known of what is still under way."""
        for one in self._under_way:
            one.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)
        if self._retiring is not None:
            await self._retiring
        await self._publisher.close()

    async def _retire(self) -> None:
        while self._under_way:
            await asyncio.wait(self._under_way)
        await self._publisher.close()

    async def _call(self, function: Callable[[], Awaitable[T]]) -> T:
        under_way = asyncio.ensure_future(function())
        if not under_way.done():
            self._under_way.add(under_way)
            under_way.add_done_callback(self._ended)
            await asyncio.wait([under_way])
        if under_way.cancelled():
            raise OutcomeUnknown(GONE)
        return under_way.result()

    def _ended(self, under_way: "asyncio.Future[Any]") -> None:
        self._under_way.discard(under_way)
        if not under_way.cancelled():
            under_way.exception()  # whoever waited for it may have been cancelled
