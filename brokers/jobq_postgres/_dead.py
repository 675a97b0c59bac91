"""The dead jobs, to be looked at and put back. Each step is a transaction, of so many jobs that others get theirs."""

from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from typing import Final

from jobq.codec import decode_dead, encode_trail
from jobq.errors import OutcomeUnknown
from jobq.model import DeadJob, replayed
from jobq_postgres._driver import Row

_COUNT: Final = "SELECT count(*), coalesce(max(n), 0) FROM $SCHEMA.dead WHERE queue = $1"
_FIRST: Final = """
SELECT n, id, envelope, trail, crashes::text, extract(epoch FROM died)::float8,
    extract(epoch FROM coalesce($5, clock_timestamp()))::float8
FROM $SCHEMA.dead WHERE queue = $1 AND n <= $2 AND ($3::text[] IS NULL OR id = ANY ($3)) ORDER BY n LIMIT $4
"""
_REPLAY: Final = "SELECT $SCHEMA.replay_1($1::bigint[], $2::bytea[])"
_TAKE: Final = "DELETE FROM $SCHEMA.dead WHERE n = ANY ($1::bigint[]) RETURNING n"
_PURGE: Final = """
DELETE FROM $SCHEMA.dead WHERE n = ANY (ARRAY(
    SELECT n FROM $SCHEMA.dead WHERE queue = $1 AND n <= $2 ORDER BY n LIMIT $3
)) RETURNING n
"""
_AT_ONCE: Final = 250
_ALL: Final = (1 << 63) - 1

Rows = Sequence[Row]
Run = Callable[..., Awaitable[Rows]]


class PostgresDeadLetters:
    """The facet. `run` runs a statement, `wake` wakes who waits for these queues; `now` is what replaces the time."""

    def __init__(self, run: Run, wake: Callable[[Iterable[str]], None], now: Callable[[], object]) -> None:
        self._run = run
        self._wake = wake
        self._now = now

    async def count(self, queue: str) -> int:
        return (await self._extent(queue))[0]

    async def peek(self, queue: str, limit: int) -> Sequence[DeadJob]:
        return [dead for _, dead, _ in await self._find(queue, _ALL, limit, None)]

    async def replay(self, queue: str, limit: int | None = None, ids: Collection[str] | None = None) -> int:
        left, last = await self._extent(queue)
        left = left if limit is None else min(left, limit)
        done = 0
        while left > 0 and (found := await self._find(queue, last, min(left, _AT_ONCE), ids)):
            trails = [encode_trail(replayed(dead, at)) for _, dead, at in found]
            ((some,),) = await self._run(_REPLAY, [n for n, _, _ in found], trails)
            self._wake([queue])
            done += some
            left -= len(found)
        return done

    async def pop(self, queue: str, limit: int) -> Sequence[DeadJob]:
        found = await self._find(queue, _ALL, limit, None)
        try:
            taken = {n for (n,) in await self._run(_TAKE, [n for n, _, _ in found])}
        except OutcomeUnknown:
            taken = {n for n, _, _ in found}
        return [dead for n, dead, _ in found if n in taken]

    async def purge(self, queue: str) -> int:
        _, last = await self._extent(queue)
        deleted = 0
        while some := len(await self._run(_PURGE, queue, last, _AT_ONCE)):
            deleted += some
        return deleted

    async def _extent(self, queue: str) -> tuple[int, int]:
        """How many there are, and the number of the last one."""
        ((count, last),) = await self._run(_COUNT, queue)
        return count, last

    async def _find(
        self, queue: str, last: int, limit: int, ids: Collection[str] | None
    ) -> list[tuple[int, DeadJob, float]]:
        """The first so many, or those with these ids: their rows, and the time."""
        wanted = None if ids is None else list(ids)
        rows = await self._run(_FIRST, queue, last, wanted, limit, self._now())
        return [(row[0], _read(queue, row), row[6]) for row in rows]


def _read(queue: str, row: Row) -> DeadJob:
    _, name, envelope, trail, crashes, died, _ = row
    notes = None if crashes is None else crashes.encode()
    return decode_dead(name, envelope, queue=queue, trail=trail, crashes=notes, died=died)
