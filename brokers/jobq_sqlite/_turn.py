"""Settling and claiming."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Final

import msgspec

from jobq.codec import decode_delivery, encode_trail
from jobq.model import Again, Cancelled, Claim, Dead, Delivery, Done, Outcome, Released, Token, Turn
from jobq_sqlite._lease import find_held, promote, take_back
from jobq_sqlite._sql import NEW_LANE, Row, Tx, numbers, one_row
from jobq_sqlite._writer import TryAgain, Verb

_PROMOTE: Final = 1000
"""The most due jobs that one turn makes ready: a transaction must not keep others waiting."""

_STATE: Final = """
SELECT (
    SELECT json_group_array(json_array(
        v.column1,
        EXISTS (SELECT 1 FROM jobs INDEXED BY ready
                WHERE queue = v.column2 AND lane < 5 AND due IS NULL AND epoch IS NULL),
        EXISTS (SELECT 1 FROM jobs INDEXED BY ready
                WHERE queue = v.column2 AND lane = 5 AND due IS NULL AND epoch IS NULL)
    )) FROM $ROWS AS v WHERE v.column1 IS NOT NULL
), (SELECT due FROM jobs INDEXED BY scheduled WHERE due IS NOT NULL ORDER BY due LIMIT 1),
(SELECT ticket FROM meta),
w.n, w.lease_end, (SELECT count(*) FROM jobs INDEXED BY held WHERE worker = w.n AND epoch > ?)
FROM (SELECT 1) LEFT JOIN workers AS w ON w.id = ?
"""
_CLAIM: Final = """
UPDATE jobs SET worker = ?, epoch = (SELECT ticket FROM meta) + s.k FROM (
    SELECT n AS m, row_number() OVER (ORDER BY lane, pos) AS k FROM (
        SELECT n, lane, pos FROM jobs INDEXED BY ready
        WHERE queue = ? AND lane BETWEEN ? AND ? AND due IS NULL AND epoch IS NULL
        ORDER BY lane, pos LIMIT ?
    )
) AS s WHERE n = s.m
"""
_NORMAL: Final = (0, 4)
_SUSPECT: Final = (5, 5)
_LOST_SUSPECTS: Final = """
SELECT count(*) FROM jobs INDEXED BY held WHERE worker = ? AND epoch > ? AND crashed >= 2
"""
_FETCH: Final = """
SELECT CAST(json_group_array(json_array(
    epoch, id, queue, length(envelope), coalesce(length(trail), -1), coalesce(length(crashes), -1)
)) AS BLOB), CAST(group_concat(CAST(envelope AS TEXT), '') AS BLOB),
CAST(coalesce(group_concat(CAST(trail AS TEXT), ''), '') AS BLOB),
CAST(coalesce(group_concat(CAST(crashes AS TEXT), ''), '') AS BLOB)
FROM (
    SELECT epoch, id, queue, CAST(envelope AS BLOB) AS envelope, CAST(trail AS BLOB) AS trail,
        CAST(crashes AS BLOB) AS crashes
    FROM jobs INDEXED BY held WHERE worker = ? AND epoch > ? ORDER BY epoch
)
"""
_BURY: Final = """
INSERT OR REPLACE INTO dead (id, queue, died, envelope, trail, crashes)
SELECT id, queue, column3, envelope, column2, crashes FROM $ROWS AS v CROSS JOIN jobs ON n = v.column1
"""
_REMOVE: Final = "DELETE FROM jobs WHERE n IN (SELECT value FROM json_each(?))"
_REMOVE_HELD: Final = """
DELETE FROM jobs WHERE n IN (
    SELECT j.n FROM $ROWS AS v
    CROSS JOIN jobs AS j INDEXED BY held ON j.epoch = v.column1 AND j.id = v.column2 AND j.worker = ?
)
"""
_PUT_BACK: Final = f"""
UPDATE jobs SET worker = NULL, epoch = NULL, queue = coalesce(v.column2, queue), trail = coalesce(v.column3, trail),
    due = v.column4, pos = v.column5, lane = {NEW_LANE}
FROM $ROWS AS v WHERE n = v.column1
"""  # noqa: S608 - a constant


_heads = msgspec.json.Decoder(list[tuple[int, str, str, int, int, int]])


@dataclass(slots=True)
class Found:
    """The answer before it is decoded, which is left to the caller's thread."""

    refused: Sequence[Token] = ()
    next_due: float | None = None
    leased: bool = True
    fetched: tuple[bytes, bytes, bytes, bytes] | None = None

    def turn(self) -> Turn:
        """The answer."""
        deliveries = tuple(_deliveries(*self.fetched)) if self.fetched else ()
        return Turn(deliveries, self.refused, self.next_due, self.leased)


def _deliveries(heads: bytes, envelopes: bytes, trails: bytes, crashes: bytes) -> Iterator[Delivery]:
    read_envelope, read_trail, read_crashes = (BytesIO(piece or b"").read for piece in (envelopes, trails, crashes))
    # An id that is not UTF-8 must not hide the others.
    for epoch, name, queue, *sizes in _heads.decode(heads.decode(errors="replace")):
        yield decode_delivery(
            name,
            read_envelope(sizes[0]),
            epoch=epoch,
            queue=queue,
            trail=read_trail(sizes[1]) if sizes[1] >= 0 else None,
            crashes=read_crashes(sizes[2]) if sizes[2] >= 0 else None,
        )


@dataclass(slots=True)
class _State:
    """What a worker could claim: (queue, has ready jobs, has suspects)."""

    queues: list[tuple[str, bool, bool]]
    next_due: float | None
    ticket: int
    worker: int | None
    lease_end: float
    lost: int

    @classmethod
    def read(cls, tx: Tx, claim: Claim) -> "_State":
        sql, rows = one_row(enumerate(claim.queues), _STATE)
        flags, due, ticket, worker, lease_end, lost = tx.ask(sql, *rows, claim.resume, claim.worker)
        queues = [(claim.queues[index], bool(ready), bool(suspects)) for index, ready, suspects in numbers(flags)]
        return cls(
            queues,
            _float(due),
            _int(ticket),
            worker if isinstance(worker, int) else None,
            _float(lease_end) or 0.0,
            _int(lost),
        )

    def in_seconds(self, now: float) -> float | None:
        return None if self.next_due is None else max(0.0, self.next_due - now)

    def is_due(self, now: float) -> bool:
        return self.next_due is not None and self.next_due <= now

    def offers(self, claim: Claim) -> bool:
        return self.lost > 0 or (
            claim.limit > 0 and any(ready or (suspects and claim.suspects) for _, ready, suspects in self.queues)
        )


class TakeTurn(Verb[Found]):
    """One turn."""

    def __init__(self, outcomes: Sequence[Outcome], claim: Claim) -> None:
        super().__init__(weight=len(outcomes) + claim.limit + 1)
        self.outcomes = outcomes
        self.claim = claim
        self._careful = False

    def glance(self, tx: Tx) -> bool:
        """An idle worker's turn changes nothing, so it takes no lock."""
        if self.outcomes:
            return False
        state = _State.read(tx, self.claim)
        leased = state.lease_end > tx.now
        if state.is_due(tx.now) or (leased and state.offers(self.claim)):
            return False
        self.answer = Found(next_due=state.in_seconds(tx.now), leased=leased)
        return True

    def run(self, tx: Tx) -> None:
        state = _State.read(tx, self.claim)
        if state.is_due(tx.now):
            promote(tx, _PROMOTE)
            state = _State.read(tx, self.claim)
        refused = self._settle(tx, state.worker)
        if self.wakes or (self.outcomes and state.lost):
            state = _State.read(tx, self.claim)
        self.answer = Found(refused, state.in_seconds(tx.now), state.lease_end > tx.now)
        if self.answer.leased and state.offers(self.claim):
            self._claim(tx, state)
            # What it has received may be newer than the file, if that was restored from a backup.
            received = min(self.claim.resume, state.ticket)
            self.answer.fetched = tx.db.execute(_FETCH, (state.worker, received)).fetchone()

    def _claim(self, tx: Tx, state: _State) -> None:
        left, suspect = self.claim.limit - state.lost, self.claim.suspects
        if suspect and state.lost:  # a suspect among them is the one of this turn
            suspect = tx.ask(_LOST_SUSPECTS, state.worker, self.claim.resume) == (0,)
        for queue, ready, suspects in state.queues:
            if suspect and suspects and left > 0:
                left -= self._take(tx, state, queue, _SUSPECT, 1)
                suspect = False
            if ready and left > 0:
                left -= self._take(tx, state, queue, _NORMAL, left)

    def _take(self, tx: Tx, state: _State, queue: str, lanes: tuple[int, int], limit: int) -> int:
        taken = tx.do(_CLAIM, state.worker, queue, *lanes, limit)
        tx.drawn(taken)
        return taken

    def _settle(self, tx: Tx, worker: int | None) -> Sequence[Token]:
        self.wakes = False
        if not self.outcomes:
            return ()
        if not self._careful:
            self._careful = True
            if worker is not None and all(map(_is_plain_end, self.outcomes)):
                return self._remove_at_once(tx, worker)
        found = find_held(tx, worker, self.outcomes)
        first = {found[index]: index for index in sorted(found, reverse=True)}  # of equal tokens, the first one counts
        held = {index: n for n, index in first.items()}
        settled = [(held[index], outcome) for index, outcome in enumerate(self.outcomes) if index in held]
        self._put_back(tx, settled)
        self._remove(tx, settled)
        refused = [Token(o.id, o.epoch) for index, o in enumerate(self.outcomes) if index not in held]
        if refused:
            take_back(tx, refused)
        return refused

    def _remove_at_once(self, tx: Tx, worker: int) -> Sequence[Token]:
        """What nearly always happens: jobs that are held have ended, and nothing of them is kept."""
        rows: list[Row] = [(outcome.epoch, outcome.id) for outcome in self.outcomes]
        if tx.do_rows(_REMOVE_HELD, rows, worker) != len(rows):
            raise TryAgain
        return ()

    def _put_back(self, tx: Tx, settled: Iterable[tuple[int, Outcome]]) -> None:
        returning = [(n, outcome) for n, outcome in settled if isinstance(outcome, Again | Released)]
        if returning:
            self.wakes = True
            first = tx.draw(len(returning))
            tx.do_rows(_PUT_BACK, [_place(n, o, first + k, tx.now) for k, (n, o) in enumerate(returning)])

    def _remove(self, tx: Tx, settled: Iterable[tuple[int, Outcome]]) -> None:
        ended = [(n, outcome) for n, outcome in settled if not isinstance(outcome, Again | Released)]
        kept: list[Row] = [(n, encode_trail(o.trail), tx.now) for n, o in ended if isinstance(o, Dead) and o.keep]
        tx.do_rows(_BURY, kept)
        if ended:
            tx.do(_REMOVE, msgspec.json.encode([n for n, _ in ended]).decode())


def _is_plain_end(outcome: Outcome) -> bool:
    return isinstance(outcome, Done | Cancelled) or (isinstance(outcome, Dead) and not outcome.keep)


def _place(n: int, outcome: Again | Released, ticket: int, now: float) -> Row:
    due, pos = (now + outcome.delay, ticket) if outcome.delay > 0 else (None, -ticket)
    if isinstance(outcome, Again):
        return n, outcome.queue or None, encode_trail(outcome.trail), due, pos
    return n, None, None, due, pos


def _float(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _int(value: object) -> int:
    return value if isinstance(value, int) else 0
