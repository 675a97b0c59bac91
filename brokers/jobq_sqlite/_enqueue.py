"""Storing new jobs: the waiting calls of all clients together."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from jobq.codec import encode_job
from jobq.model import PRIORITIES, Answer, Fate, Job, Stamp
from jobq_sqlite._sql import Row, Tx
from jobq_sqlite._writer import Verb

_STAMPS: Final = """
SELECT s.client, s.number, s.duplicates FROM $ROWS AS v CROSS JOIN stamps AS s ON s.client = v.column1
"""
_LIVE: Final = """
SELECT json_group_array(v.column1) FROM $ROWS AS v WHERE EXISTS (SELECT 1 FROM jobs WHERE id = v.column2)
"""
_BEFORE: Final = "SELECT coalesce(max(n), 0), EXISTS (SELECT 1 FROM dead) FROM jobs"
_FORGET_DEAD: Final = "DELETE FROM dead WHERE id IN (SELECT column1 FROM $ROWS)"
_INSERT: Final = """
INSERT INTO jobs (n, id, queue, priority, lane, pos, due, envelope) SELECT * FROM $ROWS WHERE column1 IS NOT NULL
"""
_STAMP: Final = """
INSERT OR REPLACE INTO stamps (client, number, at, duplicates) SELECT * FROM $ROWS WHERE column1 IS NOT NULL
"""


class Enqueue(Verb[Sequence[Answer]]):
    """One call. Everything that can fail because of its jobs fails here, before it meets the calls of others."""

    def __init__(self, jobs: Sequence[Job], stamp: Stamp) -> None:
        super().__init__(weight=len(jobs) + 1)
        self.stamp = stamp
        self.jobs = jobs
        self.envelopes = [encode_job(job) for job in jobs]

    @classmethod
    def run_all(cls, tx: Tx, verbs: Sequence[Verb[Any]]) -> None:
        """Store the jobs of all calls, in their order, in a handful of statements."""
        calls = [verb for verb in verbs if isinstance(verb, Enqueue)]
        plan = _Plan(tx, _last_stamps(tx, calls))
        fresh = [verb for verb in calls if not plan.repeats(verb.stamp)]
        plan.live = _live_ids(tx, fresh)
        for verb in calls:
            verb.answer = plan.repeated(verb) if plan.repeats(verb.stamp) else plan.stored(verb)
            verb.wakes = True
        plan.carry_out()


@dataclass(slots=True)
class _Plan:
    """What is to be stored, and what is known already."""

    tx: Tx
    stamps: dict[str, tuple[int, frozenset[int]]]
    live: set[str] = field(default_factory=set[str])
    rows: list[tuple[Job, bytes]] = field(default_factory=list[tuple[Job, bytes]])
    touched: set[str] = field(default_factory=set[str])

    def repeats(self, stamp: Stamp) -> bool:
        last = self.stamps.get(stamp.client)
        return last is not None and stamp.number <= last[0]

    def repeated(self, verb: Enqueue) -> Sequence[Answer]:
        number, duplicates = self.stamps[verb.stamp.client]
        return _answers(verb.jobs, duplicates if number == verb.stamp.number else frozenset())

    def stored(self, verb: Enqueue) -> Sequence[Answer]:
        duplicates = frozenset[int](
            index
            for index, (job, envelope) in enumerate(zip(verb.jobs, verb.envelopes, strict=True))
            if not self._is_new(job, envelope)
        )
        self.stamps[verb.stamp.client] = (verb.stamp.number, duplicates)
        self.touched.add(verb.stamp.client)
        return _answers(verb.jobs, duplicates)

    def _is_new(self, job: Job, envelope: bytes) -> bool:
        if job.id in self.live:
            return False
        self.live.add(job.id)
        self.rows.append((job, envelope))
        return True

    def carry_out(self) -> None:
        if self.rows:
            self._insert()
        self.tx.do_rows(_STAMP, [self._stamp_row(client) for client in self.touched])

    def _insert(self) -> None:
        last, has_dead = self.tx.ask(_BEFORE)
        if has_dead:
            self.tx.do_rows(_FORGET_DEAD, [(job.id,) for job, _ in self.rows])
        dues = [_due(job, self.tx.now) for job, _ in self.rows]
        ticket = self.tx.draw(len(dues)) if any(due is not None for due in dues) else 0
        first = int(str(last)) + 1
        self.tx.do_rows(
            _INSERT,
            [
                _row(job, envelope, first + index, _place(due, first + index, ticket + index, self.tx.now))
                for index, ((job, envelope), due) in enumerate(zip(self.rows, dues, strict=True))
            ],
        )

    def _stamp_row(self, client: str) -> Row:
        number, duplicates = self.stamps[client]
        return client, number, self.tx.now, msgspec.json.encode(sorted(duplicates)) if duplicates else None


def _row(job: Job, envelope: bytes, n: int, place: tuple[int, float | None]) -> Row:
    priority = min(max(job.priority, PRIORITIES[0]), PRIORITIES[-1])
    return n, job.id, job.queue, priority, PRIORITIES[-1] - priority, *place, envelope


def _place(due: float | None, n: int, ticket: int, now: float) -> tuple[int, float | None]:
    if due is None:
        return n, None
    if due <= now:  # as if it had been scheduled: to the front
        return -ticket, None
    return ticket, due


def _due(job: Job, now: float) -> float | None:
    if job.due is not None:
        return float(job.due)
    return None if job.delay is None else now + job.delay


def _answers(jobs: Sequence[Job], duplicates: frozenset[int]) -> Sequence[Answer]:
    return [Answer(job.id, Fate.DUPLICATE) if index in duplicates else Answer(job.id) for index, job in enumerate(jobs)]


def _last_stamps(tx: Tx, verbs: Sequence[Enqueue]) -> dict[str, tuple[int, frozenset[int]]]:
    clients: list[Row] = [(client,) for client in dict.fromkeys(verb.stamp.client for verb in verbs)]
    return {
        str(client): (int(str(number)), _indexes(duplicates))
        for client, number, duplicates in tx.ask_rows(_STAMPS, clients)
    }


def _indexes(duplicates: object) -> frozenset[int]:
    return msgspec.json.decode(duplicates, type=frozenset[int]) if isinstance(duplicates, bytes) else frozenset()


def _live_ids(tx: Tx, verbs: Sequence[Enqueue]) -> set[str]:
    ids = [job.id for verb in verbs for job in verb.jobs]
    rows: list[Row] = list(enumerate(ids))
    return {
        ids[index] for (found,) in tx.ask_rows(_LIVE, rows) for index in msgspec.json.decode(str(found), type=list[int])
    }
