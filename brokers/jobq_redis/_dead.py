"""The dead jobs, to be looked at and put back.

What becomes of a replayed job's trail is found out here, between two scripts; the second does its work only for jobs
that are still as the first has found them.
"""

from collections.abc import Awaitable, Callable, Collection, Sequence
from hashlib import sha1
from typing import Final, NamedTuple

from jobq.codec import decode_dead, encode_trail
from jobq.errors import OutcomeUnknown
from jobq.model import MAX_CHUNK, MAX_PEEK, DeadJob, replayed
from jobq_redis import _scripts
from jobq_redis._records import Arg, id_bytes, id_text, queue_key, split
from jobq_redis._scripts import Script
from jobq_redis._wire import Reply

_FIELDS: Final = 5


class _Found(NamedTuple):
    """A dead job, and as what it was found."""

    dead: DeadJob
    key: tuple[Arg, Arg, Arg]
    at: float


class RedisDeadLetters:
    """The facet. `run` runs a script, `count` asks for the size of a sorted set that is named without its base."""

    def __init__(
        self, run: Callable[[Script, Sequence[Arg]], Awaitable[Reply]], count: Callable[[bytes], Awaitable[int]]
    ) -> None:
        self._run = run
        self._count = count

    async def count(self, queue: str) -> int:
        return await self._count(b"dead:" + queue_key(queue))

    async def peek(self, queue: str, limit: int) -> Sequence[DeadJob]:
        return [found.dead for found in await self._find(queue, limit)]

    async def replay(self, queue: str, limit: int | None = None, ids: Collection[str] | None = None) -> int:
        left = await self.count(queue)
        left = left if limit is None else min(left, limit)
        if ids is None:
            return await self._replay_first(queue, left)
        return await self._replay_these(queue, left, list(dict.fromkeys(ids)))

    async def pop(self, queue: str, limit: int) -> Sequence[DeadJob]:
        found = await self._find(queue, limit)
        try:
            taken = await self._exhume(queue, "D", found)
        except OutcomeUnknown:
            taken = found
        return [one.dead for one in taken]

    async def purge(self, queue: str) -> int:
        left, deleted = await self.count(queue), 0
        while left > 0:
            some: int = await self._run(_scripts.PURGE, [queue_key(queue), min(left, MAX_CHUNK)])
            deleted += some
            left -= some or left
        return deleted

    async def _replay_first(self, queue: str, left: int) -> int:
        done = 0
        while left > 0 and (found := await self._find(queue, min(left, MAX_PEEK))):
            done += len(await self._exhume(queue, "R", found))
            left -= len(found)
        return done

    async def _replay_these(self, queue: str, left: int, ids: Sequence[str]) -> int:
        done = 0
        for start in range(0, len(ids), MAX_PEEK):
            found = await self._find(queue, MAX_PEEK, ids[start : start + MAX_PEEK])
            found.sort(key=lambda one: one.dead.died or 0.0)
            done += len(await self._exhume(queue, "R", found[: left - done]))
        return done

    async def _find(self, queue: str, limit: int, ids: Sequence[str] = ()) -> list[_Found]:
        """The first so many, or those with these ids."""
        reply = await self._run(_scripts.DEAD, [queue_key(queue), limit, *map(id_bytes, ids)])
        return [_found(queue, reply[0] / 1000, reply[i : i + _FIELDS]) for i in range(1, len(reply), _FIELDS)]

    async def _exhume(self, queue: str, how: str, found: Sequence[_Found]) -> list[_Found]:
        """Replay ("R") or delete ("D") those that are still as they were found, and return them."""
        if not found:
            return []
        args: list[Arg] = [queue_key(queue), how]
        for one in found:
            args += (*one.key, encode_trail(replayed(one.dead, one.at)) if how == "R" else "")
        reply: list[int] = await self._run(_scripts.EXHUME, args)
        return [found[i - 1] for i in reply]


def _found(queue: str, at: float, fields: Sequence[Reply]) -> _Found:
    job_id, died, blob, trail, crashes = fields
    name, envelope = split(blob, queue)
    dead = decode_dead(id_text(job_id), envelope, queue=name, trail=trail, crashes=crashes, died=float(died) / 1000)
    return _Found(dead, (job_id, died, sha1(trail or b"", usedforsecurity=False).hexdigest()), at)
