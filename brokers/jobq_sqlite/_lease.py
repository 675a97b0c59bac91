"""Leases and upkeep: heartbeats, sweeps, and what they share with turns."""

from collections.abc import Iterable, Sequence
from typing import Final, Protocol

import msgspec

from jobq.codec import decode_crashes, encode_crashes
from jobq.errors import DecodeError
from jobq.model import Beat, Orders, Swept, Token, WorkerInfo
from jobq_sqlite._sql import NEW_LANE, Row, Tx, numbers
from jobq_sqlite._verb import Verb

_HELD: Final = """
SELECT json_group_array(json_array(v.column1, j.n)) FROM $ROWS AS v
CROSS JOIN jobs AS j INDEXED BY held ON j.epoch = v.column2 AND j.id = v.column3 AND j.worker = ?
"""
_CRASHED: Final = """
SELECT j.n, v.column2, j.crashes FROM $ROWS AS v CROSS JOIN jobs AS j ON j.id = v.column1 WHERE j.crashed > 0
"""
_UNCRASH: Final = "UPDATE jobs SET crashes = ?, crashed = ? WHERE n = ?"
_PROMOTE: Final = f"""
UPDATE jobs SET due = NULL, pos = -((SELECT ticket FROM meta) + s.k), lane = {NEW_LANE} FROM (
    SELECT n AS m, row_number() OVER (ORDER BY due DESC, pos DESC) AS k FROM (
        SELECT n, due, pos FROM jobs INDEXED BY scheduled WHERE due <= ? ORDER BY due, pos LIMIT ?
    )
) AS s WHERE n = s.m
"""  # noqa: S608 - a constant
_RECLAIM: Final = f"""
UPDATE jobs SET worker = NULL, epoch = NULL, due = NULL, pos = -((SELECT ticket FROM meta) + s.k),
    crashes = CAST(CASE WHEN crashed > 0 THEN substr(CAST(crashes AS TEXT), 1, length(CAST(crashes AS TEXT)) - 1) || ','
                   ELSE '[' END || '[' || epoch || ',' || ? AS BLOB),
    crashed = crashed + 1, lane = {NEW_LANE.replace("crashed", "crashed + 1")}
FROM (
    SELECT n AS m, row_number() OVER (ORDER BY epoch DESC) AS k FROM (
        SELECT n, epoch FROM jobs INDEXED BY held WHERE worker = ? AND epoch IS NOT NULL ORDER BY epoch DESC LIMIT ?
    )
) AS s WHERE n = s.m
"""  # noqa: S608 - a constant
_RETURN: Final = f"""
UPDATE jobs SET worker = NULL, epoch = NULL, pos = -((SELECT ticket FROM meta) + s.k), lane = {NEW_LANE} FROM (
    SELECT n AS m, row_number() OVER (ORDER BY epoch DESC) AS k FROM jobs INDEXED BY held
    WHERE worker = ? AND epoch <= ? AND epoch IS NOT NULL AND hex(id) NOT IN (SELECT value FROM json_each(?))
) AS s WHERE n = s.m
"""  # noqa: S608 - a constant
_LEASE: Final = """
INSERT INTO workers (id, host, lease_end, info) VALUES (?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET host = excluded.host, lease_end = excluded.lease_end, info = excluded.info
"""
_HOLDS: Final = "EXISTS (SELECT 1 FROM jobs INDEXED BY held WHERE worker = workers.n AND epoch IS NOT NULL)"
_WORKER: Final = "SELECT n FROM workers WHERE id = ?"
_GOOD_BYE: Final = f"DELETE FROM workers WHERE n = ? AND NOT {_HOLDS}"  # noqa: S608 - a constant
_GONE: Final = "SELECT n, id FROM workers WHERE id IN (SELECT column1 FROM $ROWS) OR lease_end <= ? ORDER BY n"
_DUE: Final = "SELECT due FROM jobs INDEXED BY scheduled WHERE due IS NOT NULL ORDER BY due LIMIT 1"
_COUNT_DUE: Final = """
SELECT count(*) FROM (SELECT 1 FROM jobs INDEXED BY scheduled WHERE due <= ? LIMIT ?)
"""
_PEERS: Final = "SELECT json_group_array(id) FROM (SELECT id FROM workers WHERE host = ? AND lease_end > ? ORDER BY n)"


class HasToken(Protocol):
    """A job's id and the epoch of its claim."""

    @property
    def id(self) -> str: ...
    @property
    def epoch(self) -> int: ...


def find_held(tx: Tx, worker: int | None, tokens: Sequence[HasToken]) -> dict[int, int]:
    """The row of each job that the worker holds, by the index of its token."""
    if worker is None or not tokens:
        return {}
    rows: list[Row] = [(index, token.epoch, token.id) for index, token in enumerate(tokens)]
    return {index: n for (text,) in tx.ask_rows(_HELD, rows, worker) for index, n in numbers(text)}


def take_back(tx: Tx, tokens: Iterable[Token]) -> None:
    """Strike the crashes that were charged for these tokens: their worker is alive."""
    struck: dict[object, set[object]] = {}
    noted: dict[object, object] = {}
    for n, epoch, crashes in tx.ask_rows(_CRASHED, [(token.id, token.epoch) for token in tokens]):
        struck.setdefault(n, set()).add(epoch)
        noted[n] = crashes
    for n, crashes in noted.items():
        try:
            notes = decode_crashes(crashes if isinstance(crashes, bytes) else None)
        except DecodeError:
            continue
        left = tuple(note for note in notes if note.epoch not in struck[n])
        if len(left) < len(notes):
            tx.do(_UNCRASH, encode_crashes(left) if left else None, len(left), n)


def promote(tx: Tx, limit: int) -> int:
    """Move up to `limit` due jobs to the front of their queues, the earliest foremost."""
    promoted = tx.do(_PROMOTE, tx.now, limit)
    tx.drawn(promoted)
    return promoted


class Heartbeat(Verb[Orders]):
    """One heartbeat."""

    def __init__(self, worker: WorkerInfo, beats: Sequence[Beat], lease: float, resume: int) -> None:
        super().__init__(weight=1)
        self.worker, self.beats, self.lease, self.resume = worker, beats, lease, resume
        self.info = msgspec.json.encode(worker)

    def run(self, tx: Tx) -> None:
        tx.do(_LEASE, self.worker.id, self.worker.host, tx.now + self.lease, self.info)
        (worker,) = tx.ask(_WORKER, self.worker.id)
        returned = self._reconcile(tx, worker)
        held = find_held(tx, worker if isinstance(worker, int) else None, self.beats)
        lost = [Token(beat.id, beat.epoch) for index, beat in enumerate(self.beats) if index not in held]
        if lost:
            take_back(tx, lost)
        if self.lease <= 0:
            tx.do(_GOOD_BYE, worker)
        self.wakes = returned > 0
        self.answer = Orders(tx.now, lost, returned=returned)

    def _reconcile(self, tx: Tx, worker: object) -> int:
        """Put back what the worker has received and does not name, and say how many."""
        tx.catch_up(self.resume)
        # In hex, as a string in SQLite's JSON ends at its first NUL.
        named = msgspec.json.encode([beat.id.encode().hex().upper() for beat in self.beats]).decode()
        returned = tx.do(_RETURN, worker, self.resume, named)
        tx.drawn(returned)
        return returned


class Sweep(Verb[Swept]):
    """One sweep."""

    def __init__(self, host: str, limit: int, dead: Sequence[str]) -> None:
        super().__init__(weight=limit + 1)
        self.host, self.limit, self.dead = host, limit, dead

    def glance(self, tx: Tx) -> bool:
        next_due = self._next_due(tx)
        if next_due == 0 or self._gone(tx):
            return False
        self.answer = Swept(next_due, peers=self._peers(tx))
        return True

    def run(self, tx: Tx) -> None:
        (due,) = tx.ask(_COUNT_DUE, tx.now, self.limit + 1)
        promoted = promote(tx, self.limit)
        more = due != promoted
        reclaimed = 0
        for worker, name in self._gone(tx):
            reclaimed += self._reclaim(tx, worker, name, self.limit - promoted - reclaimed)
            more = tx.do(_GOOD_BYE, worker) == 0 or more
        self.wakes = promoted + reclaimed > 0
        self.answer = Swept(self._next_due(tx), promoted, reclaimed, more, self._peers(tx))

    def _reclaim(self, tx: Tx, worker: object, name: object, limit: int) -> int:
        # Numbers as Python writes them: SQLite's own rendering of floats is not exact.
        note = msgspec.json.encode([tx.now, name]).decode()[1:]
        reclaimed = tx.do(_RECLAIM, f"{note}]", worker, max(limit, 0))
        tx.drawn(reclaimed)
        return reclaimed

    def _gone(self, tx: Tx) -> list[Row]:
        names: list[Row] = [(name,) for name in self.dead] or [(None,)]
        return list(dict.fromkeys(tx.ask_rows(_GONE, names, tx.now)))

    def _next_due(self, tx: Tx) -> float | None:
        due = tx.db.execute(_DUE).fetchone()
        return None if due is None else max(0.0, float(due[0]) - tx.now)

    def _peers(self, tx: Tx) -> list[str]:
        (names,) = tx.ask(_PEERS, self.host, tx.now)
        return msgspec.json.decode(str(names), type=list[str])
