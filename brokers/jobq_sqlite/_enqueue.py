"""Storing new jobs: the waiting calls of all clients together."""

import sqlite3
from collections.abc import Iterable, Sequence
from itertools import count
from typing import Any, Final

import msgspec

from jobq.codec import encode_job
from jobq.model import PRIORITIES, Answer, Fate, Job, Stamp
from jobq_sqlite._sql import MOST_ROWS, Row, Tx
from jobq_sqlite._stamps import Stamps
from jobq_sqlite._verb import Verb

_INSERT_NEW: Final = """
INSERT INTO jobs (n, id, queue, priority, lane, pos, envelope)
SELECT last + column1, CASE WHEN EXISTS (SELECT 1 FROM dead WHERE id = column2) THEN NULL ELSE column2 END,
    column3, column4, column5, last + column1, column6
FROM (SELECT coalesce(max(n), 0) AS last FROM jobs) CROSS JOIN $ROWS WHERE column1 IS NOT NULL
"""
"""Fails for an id that is known already, be it that of a live or of a dead job."""
_INSERT_ONE: Final = """
INSERT INTO jobs (id, queue, priority, lane, pos, envelope)
VALUES (CASE WHEN EXISTS (SELECT 1 FROM dead WHERE id = ?) THEN NULL ELSE ? END, ?, ?, ?,
    (SELECT coalesce(max(n), 0) + 1 FROM jobs), ?)
"""
"""The same for one job, which is what most enqueues store: it takes a quarter less time.

Its id comes twice, as some Pythons warn of numbered parameters (3.12.1: gh-117995).
"""
_LIVE: Final = """
SELECT json_group_array(v.column1) FROM $ROWS AS v WHERE EXISTS (SELECT 1 FROM jobs WHERE id = v.column2)
"""
_LAST: Final = "SELECT coalesce(max(n), 0) FROM jobs"
_FORGET_DEAD: Final = "DELETE FROM dead WHERE id IN (SELECT column1 FROM $ROWS)"
_INSERT: Final = """
INSERT INTO jobs (n, id, queue, priority, lane, pos, due, envelope) SELECT * FROM $ROWS WHERE column1 IS NOT NULL
"""

_NONE: Final = frozenset[int]()


class Enqueue(Verb[Sequence[Answer]]):
    """One call. Everything that can fail because of its jobs fails here, before it meets the calls of others."""

    wakes = True
    durable = True

    def __init__(self, jobs: Sequence[Job], stamp: Stamp, stamps: Stamps) -> None:
        super().__init__(weight=len(jobs) + 1)
        self.jobs = jobs
        self.stamp = stamp
        self.envelopes = [encode_job(job) for job in jobs]
        self.duplicates = _NONE
        """The indexes of jobs that are not stored."""
        self._stamps = stamps

    def glance(self, tx: Tx) -> bool:
        known = self._stamps.known(self.stamp)
        if known is not None:
            self.reply(known)
        return known is not None

    @classmethod
    def at_once(cls, tx: Tx, verbs: Sequence[Verb[Any]]) -> bool:
        calls = [verb for verb in verbs if isinstance(verb, Enqueue)]
        if len(calls) == 1 and len(calls[0].jobs) == 1:
            return calls[0].store_one(tx)
        jobs = [(job, envelope) for verb in calls for job, envelope in zip(verb.jobs, verb.envelopes, strict=True)]
        if len(jobs) > MOST_ROWS or any(_is_scheduled(job) for job, _ in jobs):
            return False
        if len({verb.stamp.client for verb in calls}) < len(calls):
            return False  # one may repeat another
        try:
            tx.do_rows(_INSERT_NEW, [(n, *_what(job), envelope) for n, (job, envelope) in enumerate(jobs, 1)])
        except sqlite3.IntegrityError:
            return False
        for verb in calls:
            verb.reply(_NONE)
        return True

    def store_one(self, tx: Tx) -> bool:
        """What `at_once` does, for the only job of the only call."""
        job = self.jobs[0]
        if _is_scheduled(job):
            return False
        try:
            tx.do(_INSERT_ONE, job.id, *_what(job), self.envelopes[0])
        except sqlite3.IntegrityError:
            return False
        self.reply(_NONE)
        return True

    @classmethod
    def run_all(cls, tx: Tx, verbs: Sequence[Verb[Any]]) -> None:
        calls = [verb for verb in verbs if isinstance(verb, Enqueue)]
        live = _live_ids(tx, calls)
        latest: dict[str, Enqueue] = {}
        new: list[tuple[Job, bytes]] = []
        for verb in calls:
            earlier = latest.get(verb.stamp.client)
            if earlier is None or verb.stamp.number > earlier.stamp.number:
                latest[verb.stamp.client] = verb
                new += verb.choose(live)
            else:
                verb.reply(earlier.duplicates if verb.stamp.number == earlier.stamp.number else frozenset())
        _insert(tx, new)

    def choose(self, live: set[str]) -> list[tuple[Job, bytes]]:
        """What of it is to be stored, given the ids of the live jobs, which then has these too."""
        chosen: list[tuple[Job, bytes]] = []
        duplicates = set[int]()
        for index, (job, envelope) in enumerate(zip(self.jobs, self.envelopes, strict=True)):
            if job.id in live:
                duplicates.add(index)
            else:
                live.add(job.id)
                chosen.append((job, envelope))
        self.reply(frozenset(duplicates))
        return chosen

    def reply(self, duplicates: frozenset[int]) -> None:
        """Set the answer."""
        self.duplicates = duplicates
        if not duplicates:
            self.answer = [Answer(job.id) for job in self.jobs]
            return
        self.answer = [
            Answer(job.id, Fate.DUPLICATE) if index in duplicates else Answer(job.id)
            for index, job in enumerate(self.jobs)
        ]

    def stored(self) -> None:
        self._stamps.remember(self.stamp, self.duplicates)


def _insert(tx: Tx, jobs: Sequence[tuple[Job, bytes]]) -> None:
    if not jobs:
        return
    tx.do_rows(_FORGET_DEAD, [(job.id,) for job, _ in jobs])
    (last,) = tx.ask(_LAST)
    first = int(str(last)) + 1
    tickets = count(tx.draw(sum(_is_scheduled(job) for job, _ in jobs)))
    tx.do_rows(
        _INSERT,
        [
            (n, *_what(job), *(_place(job, next(tickets), tx.now) if _is_scheduled(job) else (n, None)), envelope)
            for n, (job, envelope) in enumerate(jobs, first)
        ],
    )


def store_in(tx: Tx, jobs: Sequence[Job]) -> Sequence[Answer]:
    """Store them in a transaction of somebody else's, who commits it."""
    call = Enqueue(jobs, Stamp("", 0), Stamps())
    Enqueue.run_all(tx, [call])
    return call.answer


def _what(job: Job) -> tuple[str, str, int, int]:
    priority = min(max(job.priority, PRIORITIES[0]), PRIORITIES[-1])
    return job.id, job.queue, priority, PRIORITIES[-1] - priority


def _is_scheduled(job: Job) -> bool:
    return job.due is not None or job.delay is not None


def _place(job: Job, ticket: int, now: float) -> tuple[int, float | None]:
    due = now + (job.delay or 0) if job.due is None else float(job.due)
    return (ticket, due) if due > now else (-ticket, None)  # if it is due already, to the front


def _live_ids(tx: Tx, verbs: Iterable[Enqueue]) -> set[str]:
    ids = [job.id for verb in verbs for job in verb.jobs]
    rows: list[Row] = list(enumerate(ids))
    return {
        ids[index] for (found,) in tx.ask_rows(_LIVE, rows) for index in msgspec.json.decode(str(found), type=list[int])
    }
