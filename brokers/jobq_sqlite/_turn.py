"""Settling and claiming."""

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from jobq.codec import encode_trail
from jobq.model import Again, Claim, Dead, Outcome, Released, Token, leaves_nothing
from jobq_sqlite._found import Found
from jobq_sqlite._lease import find_held, promote, take_back
from jobq_sqlite._sql import NEW_LANE, Row, Tx, numbers, one_row
from jobq_sqlite._verb import Verb

_PROMOTE: Final = 1000
"""The most due jobs that one turn makes ready: a transaction must not keep others waiting."""
_WIDEST: Final = 1_000_000
"""The most tickets that one claim of neighbours may use up; jobs that are farther apart are numbered one by one."""

TURNS: Final = (
    Path(__file__)
    .with_name("turns.sql")
    .read_text(encoding="utf-8")
    .replace("$NEW_LANE", NEW_LANE)
    .replace("$PROMOTE", str(_PROMOTE))
    .replace("$WIDEST", str(_WIDEST))
)
"""What a connection must run once before it is used for turns."""
_TURN: Final = "INSERT INTO turns SELECT * FROM $ROWS WHERE column1 IS NOT NULL"
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
w.n, w.lease_end, (SELECT count(*) FROM jobs INDEXED BY held WHERE worker = w.n AND epoch > ?)
FROM (SELECT 1) LEFT JOIN workers AS w ON w.id = ?
"""
_GLANCE: Final = """
SELECT EXISTS (
    SELECT 1 FROM jobs INDEXED BY ready
    WHERE queue IN (SELECT column1 FROM $ROWS) AND lane <= ? AND due IS NULL AND epoch IS NULL
), EXISTS (SELECT 1 FROM jobs INDEXED BY held WHERE worker = w.n AND epoch > ?),
(SELECT due FROM jobs INDEXED BY scheduled WHERE due IS NOT NULL ORDER BY due LIMIT 1), w.lease_end
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
_BURY: Final = """
INSERT OR REPLACE INTO dead (id, queue, died, envelope, trail, crashes)
SELECT id, queue, column3, envelope, column2, crashes FROM $ROWS AS v CROSS JOIN jobs ON n = v.column1
"""
_REMOVE: Final = "DELETE FROM jobs WHERE n IN (SELECT value FROM json_each(?))"
_PUT_BACK: Final = f"""
UPDATE jobs SET worker = NULL, epoch = NULL, queue = coalesce(v.column2, queue), trail = coalesce(v.column3, trail),
    due = v.column4, pos = v.column5, lane = {NEW_LANE}
FROM $ROWS AS v WHERE n = v.column1
"""  # noqa: S608 - a constant


@dataclass(slots=True)
class _State:
    """What a worker could claim: (queue, has ready jobs, has suspects)."""

    queues: list[tuple[str, bool, bool]]
    next_due: float | None
    worker: int | None
    lease_end: float
    lost: int

    @classmethod
    def read(cls, tx: Tx, claim: Claim) -> "_State":
        sql, rows = one_row(enumerate(claim.queues), _STATE)
        flags, due, worker, lease_end, lost = tx.ask(sql, *rows, claim.resume, claim.worker)
        queues = [(claim.queues[index], bool(ready), bool(suspects)) for index, ready, suspects in numbers(flags)]
        return cls(
            queues,
            _float(due),
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
        self._taken = False

    @classmethod
    def at_once(cls, tx: Tx, verbs: Sequence[Verb[Any]]) -> bool:
        return len(verbs) == 1 and all(isinstance(verb, TakeTurn) and verb.take_plainly(tx) for verb in verbs)

    def take_plainly(self, tx: Tx) -> bool:
        """What turns nearly always are: jobs that are held have ended, none of them is kept, others are claimed."""
        claim = self.claim
        ended = {outcome.id: outcome.epoch for outcome in self.outcomes if leaves_nothing(outcome)}
        if len(ended) < len(self.outcomes):
            return False
        settled, common = (msgspec.json.encode(ended).decode(), len(ended)), (claim.suspects, claim.resume, tx.now)
        rows = [
            (claim.worker, *(("{}", 0) if index else settled), queue, claim.limit, *common)
            for index, queue in enumerate(claim.queues or ("",))
        ]
        try:
            if not self._taken:
                tx.do_rows(_TURN, rows)
        except sqlite3.IntegrityError:
            return False
        self._taken = not tx.db.in_transaction  # committed: if the rest fails and is repeated, this must not be
        self.answer = Found()
        self.answer.fetch(tx, claim.worker, claim.resume)
        return True

    def glance(self, tx: Tx) -> bool:
        """An idle worker's turn changes nothing, so it takes no lock."""
        claim = self.claim
        if self.outcomes:
            return False
        last_lane = -1 if not claim.limit else _SUSPECT[1] if claim.suspects else _NORMAL[1]
        sql, queues = one_row(zip(claim.queues), _GLANCE)
        ready, lost, due, lease_end = tx.ask(sql, *queues, last_lane, claim.resume, claim.worker)
        next_due, leased = _float(due), (_float(lease_end) or 0.0) > tx.now
        if (next_due is not None and next_due <= tx.now) or (leased and (lost or ready)):
            return False
        self.answer = Found(next_due=None if next_due is None else next_due - tx.now, leased=leased)
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
            self.answer.fetch(tx, self.claim.worker, self.claim.resume)

    def _claim(self, tx: Tx, state: _State) -> None:
        tx.catch_up(self.claim.resume)
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


def _place(n: int, outcome: Again | Released, ticket: int, now: float) -> Row:
    due, pos = (now + outcome.delay, ticket) if outcome.delay > 0 else (None, -ticket)
    if isinstance(outcome, Again):
        return n, outcome.queue or None, encode_trail(outcome.trail), due, pos
    return n, None, None, due, pos


def _float(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _int(value: object) -> int:
    return value if isinstance(value, int) else 0
