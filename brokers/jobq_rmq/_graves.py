"""The dead letters, got from their queues on a connection that each call makes for itself.

What was got and not acknowledged is there again when the call ends, or this process. The client library would end the
connection over a frame that it cannot decode, and that letter would be the first one again next time: it sees none.
"""

import asyncio
from collections.abc import AsyncGenerator, Collection, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final, TypeVar, cast

from aiormq import Channel
from aiormq.exceptions import ChannelInvalidStateError, ChannelNotFoundEntity

from jobq.errors import BrokerError
from jobq.model import DeadJob
from jobq_rmq import _frames, _messages, _properties
from jobq_rmq._declare import BROKEN, is_closed, open_channel
from jobq_rmq._errors import unreachable_dead
from jobq_rmq._link import Link
from jobq_rmq._publisher import Publisher
from jobq_rmq._settle import raise_worst
from jobq_rmq._topology import Topology
from jobq_rmq._url import Target
from jobq_rmq._wire import Answers, Line, Raw

T = TypeVar("T")

_AT_ONCE: Final = 32
"""Letters that are acknowledged or put back together. Of more, a quorum queue's client in the server keeps the rest for
later: it sends that in reverse order, and forgets it when the channel closes."""
_RETURN: Final = 1.0
"""Seconds after which what is not seen to be back has been taken by somebody else."""
_GLANCE: Final = 0.005


@dataclass(frozen=True, slots=True)
class _Letter:
    """A dead job, and its message's tag."""

    tag: int
    dead: DeadJob


class Graves:
    """The dead letters of all queues of jobs. Lives on the loop of the publisher."""

    def __init__(self, target: Target, topology: Topology, publisher: Publisher) -> None:
        self._target = target
        self._topology = topology
        self._publisher = publisher

    async def count(self, queue: str) -> int:
        """How many there are, but for those that another call has in its hands."""
        async with self._open(queue) as grave:
            return await grave.count()

    async def peek(self, queue: str, limit: int) -> list[DeadJob]:
        """Show up to `limit`."""
        async with self._open(queue) as grave:
            return [letter.dead for letter in await grave.get(limit)]

    async def pop(self, queue: str, limit: int) -> list[DeadJob]:
        """Take up to `limit` away."""
        async with self._open(queue) as grave:
            letters = await grave.get(limit)
            with suppress(*BROKEN):  # from here on they are the caller's
                for some in _portions(letters):
                    grave.forget(some)
                    await grave.settle()
            return [letter.dead for letter in letters]

    async def purge(self, queue: str) -> int:
        """Delete all, and say how many."""
        async with self._open(queue) as grave:
            return await grave.purge()

    async def replay(self, queue: str, limit: int | None, ids: Collection[str] | None) -> int:
        """Put up to `limit` of those that are there now back to their queue; of `ids`, if given.

        What is passed over stays in the hands of this call until it ends, so that it is not got again.
        """
        async with self._open(queue) as grave:
            left = await grave.count()
            missing = left if limit is None else min(limit, left)
            replayed = 0
            while left > 0 and missing > 0:
                letters = await grave.get(min(left, _AT_ONCE, left if ids is not None else missing))
                chosen = [letter for letter in letters if ids is None or letter.dead.id in ids][:missing]
                await _whole(self._put_back(grave, chosen))
                replayed += len(chosen)
                missing -= len(chosen)
                left -= len(letters) or left
            return replayed

    async def _put_back(self, grave: "_Grave", letters: Sequence[_Letter]) -> None:
        """Confirm the new messages, then forget the dead ones."""
        results = await self._publisher.publish([_messages.back(self._topology, one.dead) for one in letters])
        grave.forget([letter for letter, error in zip(letters, results, strict=True) if error is None])
        errors = [error for error in results if error is not None]
        raise_worst(errors, anything_stored=len(errors) < len(letters))

    @asynccontextmanager
    async def _open(self, queue: str) -> AsyncGenerator["_Grave"]:
        link = Link(self._target, "dead letters", _prepare_nothing)
        await link.open()
        try:
            line = await link.get()
            channel = await open_channel(line, self._target)
            grave = _Grave(line, channel, queue, self._topology.dead(queue), self._target.timeout)
            try:
                yield grave
            finally:
                with suppress(*BROKEN):
                    await grave.leave()
        except BrokerError:  # some of which are broken connections
            raise
        except BROKEN as exc:
            raise unreachable_dead(exc, self._target.masked) from exc
        finally:
            await link.close()


class _Grave:
    """The dead letters of one queue of jobs, on a channel of their own. All raise the client library's exceptions."""

    def __init__(self, line: Line, channel: Channel, queue: str, name: str, seconds: float) -> None:
        self._wire = line.wire
        self._channel = channel
        self._queue = queue
        self._name = name
        self._seconds = seconds
        self._changed = asyncio.Event()
        self._letters: list[_Letter] = []
        self._held = dict[int, None]()
        """The tags of what was got and not forgotten, in their order."""
        self._unanswered = 0
        self._wire.intakes[channel.number] = Answers(self._on_message, self._on_answer)
        cast("Any", channel).closing.add_done_callback(self._on_end)

    async def count(self) -> int:
        """How many are in the queue; none if there is no queue."""
        try:
            answer = await self._channel.queue_declare(self._name, passive=True, timeout=self._seconds)
        except ChannelNotFoundEntity as exc:
            return _none_without_queue(exc)
        return answer.message_count or 0

    async def purge(self) -> int:
        """Empty the queue, and say how many were in it."""
        try:
            answer = await self._channel.queue_purge(self._name, timeout=self._seconds)
        except ChannelNotFoundEntity as exc:
            return _none_without_queue(exc)
        return answer.message_count or 0

    async def get(self, count: int) -> list[_Letter]:
        """The next `count`, or those that there are."""
        there = min(count, await self.count())
        return await self._ask(there) if there else []

    async def _ask(self, count: int) -> list[_Letter]:
        self._letters, self._unanswered = [], count
        self._write(_frames.get(self._channel.number, self._name) * count)
        while self._unanswered:
            self._changed.clear()
            if is_closed(self._channel):
                raise ChannelInvalidStateError("the channel was closed")
            async with asyncio.timeout(self._seconds):
                await self._changed.wait()
        return self._letters

    def forget(self, letters: Sequence[_Letter]) -> None:
        """Have the server forget them; if this is lost on the way, they come again."""
        for letter in letters:
            self._held.pop(letter.tag)
            if not is_closed(self._channel):
                self._wire.write(_frames.ack(self._channel.number, letter.tag, multiple=False))

    async def settle(self) -> None:
        """Return when the server has forgotten what it was told to forget: then it answers what is asked after that."""
        await self._ask(1)

    async def leave(self) -> None:
        """Put back what is held, in its order, and close the channel, which puts back in no order.

        A quorum queue has put it back some moments after it was told. They are waited for, so that the next call
        finds it.
        """
        count = await self.count() if self._held else 0
        for tags in _portions(list(self._held)):
            self._write(b"".join(_frames.nack(self._channel.number, tag, requeue=True) for tag in tags))
            count += len(tags)
            if not await self._has(count):
                break
        await self._channel.close(timeout=self._seconds)

    async def _has(self, count: int) -> bool:
        loop = asyncio.get_running_loop()
        end = loop.time() + _RETURN
        while await self.count() < count:
            if loop.time() > end:
                return False
            await asyncio.sleep(_GLANCE)
        return True

    def _write(self, frames: bytes) -> None:
        if is_closed(self._channel):
            raise ChannelInvalidStateError("the channel was closed")
        self._wire.write(frames)

    def _on_message(self, raw: Raw) -> None:
        dead = _messages.dead_job(_properties.read(raw.properties), raw.body, self._queue)
        self._letters.append(_Letter(raw.tag, dead))
        self._held[raw.tag] = None
        self._on_answer()

    def _on_end(self, _: object) -> None:
        self._changed.set()

    def _on_answer(self) -> None:
        self._unanswered -= 1
        self._changed.set()


def _portions(things: Sequence[T]) -> Iterator[Sequence[T]]:
    return (things[start : start + _AT_ONCE] for start in range(0, len(things), _AT_ONCE))


def _none_without_queue(exc: ChannelNotFoundEntity) -> int:
    """0, unless the queue is only out of reach: that of a classic queue whose node is down is not found, either."""
    if "no queue" not in str(exc):
        raise exc
    return 0


async def _whole(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run it to its end, also if the caller is cancelled: what it leaves half done would be there twice."""
    task = asyncio.ensure_future(coroutine)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.gather(task, return_exceptions=True)
        raise


async def _prepare_nothing(_: Line) -> None:
    """What is missing on the server has no letters."""
