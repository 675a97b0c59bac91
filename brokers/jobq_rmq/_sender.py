"""Storing new jobs: on the loop of whoever enqueues, or on that of a worker's connections."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Protocol, TypeVar

from jobq.model import Job, Stamp
from jobq_rmq import _messages
from jobq_rmq._publisher import Post, Publisher
from jobq_rmq._settle import raise_worst
from jobq_rmq._stamps import Stamps
from jobq_rmq._topology import Topology

T = TypeVar("T")


class Call(Protocol):
    """Calls a function on the sender's loop, and waits for its answer. A caller that is cancelled stops nothing."""

    async def __call__(self, function: Callable[[], Awaitable[T]], /) -> T: ...


class Sender:
    """Stores jobs through a publisher. `stamps` is of the whole process: it knows what others have stored."""

    def __init__(self, topology: Topology, publisher: Publisher, stamps: Stamps) -> None:
        self._topology = topology
        self._publisher = publisher
        self._stamps = stamps

    def post(self, jobs: Sequence[Job], stamp: Stamp) -> "asyncio.Future[Post | None]":
        """Send them, if nothing has to be waited for but the server's word; ends when that is there, or is late.

        Unless all are stored then, `store` has to follow.
        """
        known = self._stamps.stored(stamp)
        if known is None or known:
            return _nothing()
        posted = self._publisher.post([self._message(job) for job in jobs])
        if posted is None:
            return _nothing()
        posted.add_done_callback(partial(_note, known, len(jobs)))
        return posted

    async def store(self, jobs: Sequence[Job], stamp: Stamp, post: Post | None) -> None:
        """Return when all are stored; with `post` they were sent already, once. Raises `BrokerError`s."""
        known = self._stamps.stored(stamp)
        if known is None:
            return
        indexes = [index for index in range(len(jobs)) if index not in known]
        results = await self._publisher.publish([self._message(jobs[index]) for index in indexes], post)
        known.update(index for index, error in zip(indexes, results, strict=True) if error is None)
        raise_worst([error for error in results if error is not None], anything_stored=bool(known))

    def _message(self, job: Job) -> _messages.Message:
        delay = (job.delay or 0.0) if job.due is None else job.due - time.time()
        return _messages.new(self._topology, job, delay)


async def enqueue(call: Call, sender: Sender, jobs: Sequence[Job], stamp: Stamp) -> None:
    """Return when all are stored. Raises `BrokerError`s."""
    post = await call(partial(sender.post, jobs, stamp))
    if post is None or not post.is_stored:
        await call(partial(sender.store, jobs, stamp, post))


def _note(known: set[int], count: int, posted: "asyncio.Future[Post | None]") -> None:
    if posted.cancelled() or posted.exception() is not None:
        return
    post = posted.result()
    if post is not None and post.is_stored:
        known.update(range(count))


def _nothing() -> "asyncio.Future[Post | None]":
    nothing: asyncio.Future[Post | None] = asyncio.get_running_loop().create_future()
    nothing.set_result(None)
    return nothing
