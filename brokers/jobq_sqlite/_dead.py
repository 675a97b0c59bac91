"""The dead jobs, to be looked at and put back. Each step is a transaction, of so many jobs that others get theirs."""

from collections.abc import Callable, Collection, Sequence
from itertools import count
from typing import Final, TypeVar

import msgspec

from jobq.codec import decode_dead, encode_trail
from jobq.model import PRIORITIES, DeadJob, replayed
from jobq_sqlite._sql import Row, Tx
from jobq_sqlite._verb import Verb
from jobq_sqlite._writer import Writer

T = TypeVar("T")

_COUNT: Final = "SELECT count(*), max(n) FROM dead WHERE queue = ?"
_FIRST: Final = """
SELECT n, CAST(id AS BLOB), CAST(envelope AS BLOB), CAST(trail AS BLOB), CAST(crashes AS BLOB), died FROM dead
WHERE queue = ? AND n <= ? AND (? OR id IN (SELECT value FROM json_each(?))) ORDER BY n LIMIT ?
"""
_LAST: Final = "SELECT coalesce(max(n), 0) FROM jobs"
_BRING_BACK: Final = """
INSERT INTO jobs (n, id, queue, priority, lane, pos, envelope, trail)
SELECT column2, id, queue, column3, column4, column2, envelope, column5 FROM $ROWS AS v CROSS JOIN dead ON n = v.column1
"""
_FORGET: Final = "DELETE FROM dead WHERE n IN (SELECT value FROM json_each(?))"
_PURGE: Final = """
DELETE FROM dead WHERE n IN (SELECT n FROM dead WHERE queue = ? AND n <= ? ORDER BY n LIMIT ?)
"""
_AT_ONCE: Final = 250
_NOW: Final = (1 << 63) - 1
"""Above the number of every row."""


class SqliteDeadLetters:
    """The facet, on the writer that `opened` returns."""

    def __init__(self, opened: Callable[[], Writer]) -> None:
        self._opened = opened

    async def count(self, queue: str) -> int:
        count, _ = await self._opened().call(_Count(queue))
        return count

    async def peek(self, queue: str, limit: int) -> Sequence[DeadJob]:
        return await self._opened().call(_Look(queue, _NOW, limit, None))

    async def replay(self, queue: str, limit: int | None = None, ids: Collection[str] | None = None) -> int:
        left, last = await self._opened().call(_Count(queue))
        left = left if limit is None else min(left, limit)
        replayed = 0
        while left > 0 and (some := await self._opened().call(_Replay(queue, last, min(left, _AT_ONCE), ids))):
            replayed += some
            left -= some
        return replayed

    async def pop(self, queue: str, limit: int) -> Sequence[DeadJob]:
        return await self._opened().call(_Pop(queue, _NOW, limit, None))

    async def purge(self, queue: str) -> int:
        _, last = await self._opened().call(_Count(queue))
        deleted = 0
        while some := await self._opened().call(_Purge(queue, last)):
            deleted += some
        return deleted


class _Count(Verb[tuple[int, int]]):
    """How many there are, and the number of the last one."""

    def __init__(self, queue: str) -> None:
        super().__init__(weight=1)
        self._queue = queue

    def glance(self, tx: Tx) -> bool:
        count, last = tx.ask(_COUNT, self._queue)
        self.answer = int(str(count)), int(str(last or 0))
        return True


class _Chosen(Verb[T]):
    """About the first `limit` up to the row `last`, of those with these `ids`."""

    def __init__(self, queue: str, last: int, limit: int, ids: Collection[str] | None) -> None:
        super().__init__(weight=limit)
        self._queue = queue
        self._rest = last, ids is None, msgspec.json.encode(list(ids or ())).decode(), limit

    def _find(self, tx: Tx) -> dict[int, DeadJob]:
        """By their rows."""
        return {row[0]: _read(self._queue, row) for row in tx.db.execute(_FIRST, (self._queue, *self._rest))}


class _Look(_Chosen[Sequence[DeadJob]]):
    def glance(self, tx: Tx) -> bool:
        self.answer = list(self._find(tx).values())
        return True


class _Pop(_Chosen[Sequence[DeadJob]]):
    durable = True

    def run(self, tx: Tx) -> None:
        found = self._find(tx)
        _forget(tx, found)
        self.answer = list(found.values())


class _Replay(_Chosen[int]):
    wakes = True
    durable = True

    def run(self, tx: Tx) -> None:
        found = self._find(tx)
        (last,) = tx.ask(_LAST)
        places = zip(count(int(str(last)) + 1), found.items(), strict=False)
        tx.do_rows(_BRING_BACK, [_row(n, place, dead, tx.now) for place, (n, dead) in places])
        _forget(tx, found)
        self.answer = len(found)


class _Purge(Verb[int]):
    durable = True

    def __init__(self, queue: str, last: int) -> None:
        super().__init__(weight=_AT_ONCE)
        self._parameters = queue, last, _AT_ONCE

    def run(self, tx: Tx) -> None:
        self.answer = tx.do(_PURGE, *self._parameters)


def _row(n: int, place: int, dead: DeadJob, now: float) -> Row:
    priority = min(max(dead.job.priority, PRIORITIES[0]), PRIORITIES[-1])
    return n, place, priority, PRIORITIES[-1] - priority, encode_trail(replayed(dead, now))


def _read(queue: str, row: tuple[int, bytes, bytes, bytes | None, bytes | None, float]) -> DeadJob:
    _, name, envelope, trail, crashes, died = row
    return decode_dead(name.decode(errors="replace"), envelope, queue=queue, trail=trail, crashes=crashes, died=died)


def _forget(tx: Tx, rows: Collection[int]) -> None:
    tx.do(_FORGET, msgspec.json.encode(list(rows)).decode())
