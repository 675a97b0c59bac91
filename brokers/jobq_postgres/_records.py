"""Records to a function's arguments, and rows to records. `functions.sql` says which is where."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final, TypeVar, cast

import msgspec

from jobq.clock import Clock
from jobq.codec import Deliveries, decode_delivery, encode_job, encode_trail
from jobq.model import (
    Again,
    Answer,
    Beat,
    Claim,
    Dead,
    Delivery,
    Done,
    Fate,
    Job,
    Orders,
    Outcome,
    Released,
    Stamp,
    Swept,
    Token,
    Turn,
    WorkerInfo,
    leaves_nothing,
)
from jobq_postgres._driver import Row
from jobq_postgres._marks import Known

Args = Sequence[object]
T = TypeVar("T")

ENQUEUE: Final = (
    "SELECT * FROM $SCHEMA.enqueue_1($1, $2, $3::text[], $4::text[], $5::smallint[], $6::bytea[], $7::float8[], "
    "$8::float8[], $9)"
)
ENQUEUE_ONE: Final = """
WITH stamped AS (
    UPDATE $SCHEMA.stamps SET number = $2, duplicates = '{}', at = coalesce($7, clock_timestamp())
    WHERE client = $1 AND number < $2::bigint RETURNING 1
)
INSERT INTO $SCHEMA.jobs (id, queue, priority, lane, pos, envelope)
SELECT $3, $4, $5::smallint, 4 - $5::smallint, nextval('$SCHEMA.places') * 1024, $6 FROM stamped
"""
"""What `ENQUEUE` does for one job that is ready, and whose id nobody knows: it takes two thirds of the time.

Without a row stored, as for the first call of a client and for a repeated one, it has done nothing.
"""
TURN: Final = (
    "SELECT * FROM $SCHEMA.turn_1($1, $2::text[], $3::bigint[], $4, $5::text[], $6::bigint[], $7::float8[], "
    "$8::bytea[], $9::text[], $10::text[], $11, $12, $13, $14, $15::bigint[], $16)"
)
HEARTBEAT: Final = "SELECT * FROM $SCHEMA.heartbeat_1($1, $2, $3, $4, $5::text[], $6::bigint[], $7, $8)"
SWEEP: Final = "SELECT * FROM $SCHEMA.sweep_1($1, $2, $3::text[], $4)"
LOOK: Final = "SELECT $SCHEMA.look_1($1::text[], $2::bigint[], $3)"
RING: Final = "SELECT $SCHEMA.ring_1($1::text[])"
STATEMENTS: Final = (ENQUEUE, ENQUEUE_ONE, TURN, HEARTBEAT, SWEEP, LOOK, RING)


def moment(clock: Clock | None) -> datetime | None:
    """The time of a clock that replaces the server's."""
    return None if clock is None else datetime.fromtimestamp(clock.time(), UTC)


def is_plain(jobs: Sequence[Job], stamp: Stamp) -> bool:
    """Whether this is what most calls store: one job that is ready, with an id that was made for it."""
    return stamp.fresh and len(jobs) == 1 and jobs[0].due is None and jobs[0].delay is None


def enqueue_one_args(job: Job, stamp: Stamp, now: datetime | None) -> Args:
    """For `ENQUEUE_ONE`."""
    return stamp.client, stamp.number, job.id, job.queue, job.priority, encode_job(job), now


def enqueue_args(jobs: Sequence[Job], stamp: Stamp | None, now: datetime | None) -> Args:
    """For `ENQUEUE`."""
    scheduled = any(job.due is not None or job.delay is not None for job in jobs)
    return (
        stamp.client if stamp else None,
        stamp.number if stamp else None,
        [job.id for job in jobs],
        _once([job.queue for job in jobs]),
        _once([job.priority for job in jobs]),
        [encode_job(job) for job in jobs],
        [job.due for job in jobs] if scheduled else None,
        [job.delay for job in jobs] if scheduled else None,
        now,
    )


def _once(values: list[T]) -> list[T]:
    """One for all, if they are the same."""
    return values[:1] if len(set(values)) == 1 else values


def answers(jobs: Sequence[Job], duplicates: Sequence[int] | None) -> Sequence[Answer]:
    """What became of each, given those that were not stored."""
    known = {index - 1 for index in duplicates or ()}
    if not known:
        return [Answer(job.id) for job in jobs]
    return [Answer(job.id, Fate.DUPLICATE if index in known else Fate.STORED) for index, job in enumerate(jobs)]


class TurnCall:
    """One turn's arguments, and how to read its rows. What is done is kept for `keep` seconds."""

    def __init__(self, outcomes: Sequence[Outcome], claim: Claim, keep: float) -> None:
        self._claim = claim
        self._outcomes = outcomes
        self._keep = keep
        self._ended: list[Outcome] = []
        self._others: list[Again | Released | Dead | Done] = []
        self._indexes: tuple[list[int], list[int]] = [], []
        """Of those and of these, among all."""
        seen = set[tuple[str, int]]()
        for index, outcome in enumerate(outcomes):
            token = outcome.id, outcome.epoch
            if token in seen:
                continue  # of equal tokens, the first one counts
            seen.add(token)
            if isinstance(outcome, Again | Released | Dead | Done) and (
                not leaves_nothing(outcome) or (keep > 0 and isinstance(outcome, Done))
            ):
                self._others.append(outcome)
                self._indexes[1].append(index)
            else:
                self._ended.append(outcome)
                self._indexes[0].append(index)

    @property
    def puts_back(self) -> bool:
        """Whether a job may become ready by it, for which somebody has to be woken."""
        return any(isinstance(outcome, Again | Released) for outcome in self._others)

    def args(self, now: datetime | None, known: Known | None = None, ceiling: int = 0) -> Args:
        """For `TURN`, which claims beyond the marks that are known."""
        claim, others = self._claim, self._others
        return (
            claim.worker,
            [outcome.id for outcome in self._ended],
            [outcome.epoch for outcome in self._ended],
            "".join(map(_letter, others)),
            [outcome.id for outcome in others],
            [outcome.epoch for outcome in others],
            [self._seconds(outcome) for outcome in others],
            [encode_trail(outcome.trail) if isinstance(outcome, Again | Dead) else None for outcome in others],
            [outcome.queue or None if isinstance(outcome, Again) else None for outcome in others],
            claim.queues,
            claim.limit,
            claim.suspects,
            claim.resume,
            now,
            None if known is None else known.flat(claim.queues),
            ceiling,
        )

    def read(self, rows: Sequence[Row]) -> Turn:
        """The answer."""
        *jobs, (_, _, _, _, _, _, refused, next_due, leased, _, _, _) = rows
        return Turn(
            Deliveries(len(jobs), lambda: [_delivery(row) for row in jobs]),
            self._refused(refused or ()),
            None if next_due is None else max(0.0, next_due),
            leased,
            max((row[1] for row in jobs), default=0),
        )

    def _seconds(self, outcome: Again | Released | Dead | Done) -> float:
        if isinstance(outcome, Done):
            return self._keep
        return 0.0 if isinstance(outcome, Dead) else outcome.delay

    def _refused(self, places: Sequence[int]) -> Sequence[Token]:
        """In the order of the outcomes; those that were not sent, as they name a token again, are among them."""
        sent = [*self._indexes[0], *self._indexes[1]]
        if not places and len(sent) == len(self._outcomes):
            return ()
        settled = set(sent).difference(sent[place - 1] for place in places)
        return [Token(o.id, o.epoch) for index, o in enumerate(self._outcomes) if index not in settled]


def heartbeat_args(worker: WorkerInfo, beats: Sequence[Beat], lease: float, resume: int, now: datetime | None) -> Args:
    """For `HEARTBEAT`."""
    info = msgspec.json.encode(worker)
    ids, epochs = [beat.id for beat in beats], [beat.epoch for beat in beats]
    return worker.id, worker.host, info, lease, ids, epochs, resume, now


def orders(row: Row, beats: Sequence[Beat]) -> Orders:
    """What a heartbeat brings back."""
    now, returned, lost = row
    named = [beats[place - 1] for place in cast("list[int]", lost or [])]
    return Orders(now, [Token(beat.id, beat.epoch) for beat in named], returned=returned)


def swept(row: Row) -> Swept:
    """What a sweep did."""
    next_due, promoted, reclaimed, more, peers = row
    return Swept(None if next_due is None else max(0.0, next_due), promoted, reclaimed, more, peers)


def _letter(outcome: Outcome) -> str:
    match outcome:
        case Again():
            return "A"
        case Released():
            return "R"
        case Done():
            return "D"
        case _:
            return "K"


def _delivery(row: Row) -> Delivery:
    name, epoch, queue, envelope, trail, crashes = row[:6]
    notes = None if crashes is None else crashes.encode()
    return decode_delivery(name, envelope, epoch=epoch, queue=queue, trail=trail, crashes=notes)
