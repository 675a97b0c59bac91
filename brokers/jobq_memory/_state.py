"""Where jobs are and how they move: every promise of the broker protocol in plain Python, without I/O or locks."""

from bisect import insort
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import msgspec

from jobq.model import (
    NO_TRAIL,
    PRIORITIES,
    SUSPECT_AFTER,
    Again,
    Answer,
    Beat,
    Claim,
    Crash,
    Dead,
    Delivery,
    Fate,
    Job,
    Orders,
    Outcome,
    Released,
    Stamp,
    Swept,
    Token,
    Trail,
    Turn,
    WorkerInfo,
)

STAMP_TTL = 3600.0


@dataclass(slots=True)
class Entry:
    """A live or dead job. It is held while `epoch` is set, and dead since `died`."""

    job: Job
    queue: str
    trail: Trail = NO_TRAIL
    crashes: tuple[Crash, ...] = ()
    due: float | None = None
    epoch: int | None = None
    worker: str | None = None
    died: float | None = None


@dataclass(slots=True)
class Lease:
    """A worker's lease, the jobs it holds (by id), and the highest epoch it was given."""

    info: WorkerInfo
    end: float
    last: int = 0
    held: dict[str, Entry] = field(default_factory=dict[str, Entry])


@dataclass(slots=True)
class Line:
    """The ready jobs of one queue: a line for each priority, and one for the suspects."""

    by_priority: tuple[deque[str], ...] = field(default_factory=lambda: tuple(deque[str]() for _ in PRIORITIES))
    suspects: deque[str] = field(default_factory=deque[str])

    def take(self, limit: int) -> Iterator[str]:
        for ready in reversed(self.by_priority):
            while ready and limit > 0:
                limit -= 1
                yield ready.popleft()

    def take_suspect(self) -> Iterator[str]:
        if self.suspects:
            yield self.suspects.popleft()


@dataclass(slots=True)
class Stamped:
    """The last enqueue of a client and its answers."""

    number: int
    answers: Sequence[Answer]
    at: float


class State:
    """One namespace. Every method is one atomic step at the time `now`."""

    def __init__(self) -> None:
        self.jobs: dict[str, Entry] = {}
        self.dead: dict[str, Entry] = {}
        self.lines: dict[str, Line] = {}
        self.scheduled: list[tuple[float, int, str]] = []  # due, tie-breaker, id
        self.leases: dict[str, Lease] = {}
        self.stamps: dict[str, Stamped] = {}
        self.epoch = 0
        self._ties = 0

    def enqueue(self, jobs: Sequence[Job], stamp: Stamp, now: float) -> Sequence[Answer]:
        last = self.stamps.get(stamp.client)
        if last is not None and stamp.number <= last.number:
            return last.answers if stamp.number == last.number else [Answer(job.id) for job in jobs]
        answers = [self._store(job, now) for job in jobs]
        self.stamps[stamp.client] = Stamped(stamp.number, answers, now)
        return answers

    def turn(self, outcomes: Sequence[Outcome], claim: Claim, now: float) -> Turn:
        self._promote(now, len(self.scheduled))
        lease = self.leases.get(claim.worker)
        refused = [Token(o.id, o.epoch) for o in outcomes if not self._settle(o, lease, now)]
        if lease is None or lease.end <= now:
            return Turn(refused=refused, next_due=self.next_due(now), leased=False)
        self.epoch = max(self.epoch, claim.resume)
        lost = [self._deliver(e) for e in lease.held.values() if e.epoch is not None and e.epoch > claim.resume]
        lost.sort(key=lambda delivery: delivery.epoch)
        suspects = claim.suspects and not any(len(delivery.crashes) >= SUSPECT_AFTER for delivery in lost)
        fresh = self._claim(claim.queues, lease, max(0, claim.limit - len(lost)), suspects=suspects)
        deliveries = [*lost, *fresh]
        resume = max((delivery.epoch for delivery in deliveries), default=0)
        return Turn(deliveries, refused, self.next_due(now), resume=resume)

    def heartbeat(self, worker: WorkerInfo, beats: Sequence[Beat], lease: float, resume: int, now: float) -> Orders:
        mine = self.leases.setdefault(worker.id, Lease(worker, now))
        mine.info, mine.end = worker, now + lease
        returned = self._reconcile(mine, {beat.id for beat in beats}, resume)
        lost = [Token(b.id, b.epoch) for b in beats if not self._holds(mine, b.id, b.epoch)]
        for token in lost:
            self._take_back(token)
        if lease <= 0 and not mine.held:
            del self.leases[worker.id]
        return Orders(now, lost, returned=returned)

    def sweep(self, host: str, limit: int, dead: Sequence[str], now: float) -> Swept:
        due = sum(entry[0] <= now for entry in self.scheduled)
        promoted = self._promote(now, limit)
        reclaimed, over = 0, due > promoted
        for lease in [lease for lease in self.leases.values() if lease.end <= now or lease.info.id in dead]:
            some = sorted(lease.held.values(), key=_epoch, reverse=True)[: limit - promoted - reclaimed]
            for entry in some:
                self._reclaim(lease, entry, now)
            reclaimed += len(some)
            over = over or bool(lease.held)
            if not lease.held:
                del self.leases[lease.info.id]
        for client in [client for client, stamped in self.stamps.items() if stamped.at + STAMP_TTL <= now]:
            del self.stamps[client]
        peers = [lease.info.id for lease in self.leases.values() if lease.info.host == host and lease.end > now]
        return Swept(self.next_due(now), promoted, reclaimed, over, peers)

    def bring_back(self, job_id: str, trail: Trail) -> None:
        """Make a dead job a ready one, behind all others."""
        entry = self.dead.pop(job_id)
        entry.trail, entry.crashes, entry.died = trail, (), None
        self.jobs[job_id] = entry
        self._ready(entry, front=False)

    def has_work(self, queues: Iterable[str], now: float) -> bool:
        if self.scheduled and self.scheduled[0][0] <= now:
            return True
        lines = (self.lines.get(queue) for queue in queues)
        return any(line.suspects or any(line.by_priority) for line in lines if line is not None)

    def next_due(self, now: float) -> float | None:
        return max(0.0, self.scheduled[0][0] - now) if self.scheduled else None

    def _store(self, job: Job, now: float) -> Answer:
        if job.id in self.jobs:
            return Answer(job.id, Fate.DUPLICATE)
        self.dead.pop(job.id, None)
        entry = self.jobs[job.id] = Entry(job, job.queue)
        due = job.due if job.due is not None else None if job.delay is None else now + job.delay
        if due is None:
            self._ready(entry, front=False)
        elif due <= now:
            self._ready(entry, front=True)
        else:
            self._schedule(entry, due)
        return Answer(job.id)

    def _ready(self, entry: Entry, *, front: bool) -> None:
        line = self.lines.get(entry.queue)
        if line is None:
            line = self.lines[entry.queue] = Line()
        suspect = len(entry.crashes) >= SUSPECT_AFTER
        ready = line.suspects if suspect else line.by_priority[entry.job.priority]
        (ready.appendleft if front else ready.append)(entry.job.id)

    def _schedule(self, entry: Entry, due: float) -> None:
        entry.due = due
        self._ties += 1
        insort(self.scheduled, (due, self._ties, entry.job.id))

    def _promote(self, now: float, limit: int) -> int:
        due = sum(entry[0] <= now for entry in self.scheduled[:limit])
        for _, _, job_id in reversed(self.scheduled[:due]):  # the earliest ends up in front
            entry = self.jobs[job_id]
            entry.due = None
            self._ready(entry, front=True)
        del self.scheduled[:due]
        return due

    def _holds(self, lease: Lease | None, job_id: str, epoch: int) -> bool:
        return lease is not None and (entry := lease.held.get(job_id)) is not None and entry.epoch == epoch

    def _settle(self, outcome: Outcome, lease: Lease | None, now: float) -> bool:
        if lease is None or not self._holds(lease, outcome.id, outcome.epoch):
            self._take_back(Token(outcome.id, outcome.epoch))
            return False
        entry = lease.held.pop(outcome.id)
        entry.epoch = entry.worker = None
        match outcome:
            case Again(trail=trail, delay=delay, queue=queue):
                entry.trail, entry.queue = trail, queue or entry.queue
                self._put_back(entry, delay, now)
            case Released(delay=delay):
                self._put_back(entry, delay, now)
            case Dead(trail=trail, keep=keep):
                entry.trail = trail
                del self.jobs[outcome.id]
                if keep:
                    entry.died = now
                    self.dead[outcome.id] = entry
            case _:
                del self.jobs[outcome.id]
        return True

    def _put_back(self, entry: Entry, delay: float, now: float) -> None:
        if delay > 0:
            self._schedule(entry, now + delay)
        else:
            self._ready(entry, front=True)

    def _claim(self, queues: Sequence[str], lease: Lease, limit: int, *, suspects: bool) -> list[Delivery]:
        deliveries: list[Delivery] = []
        for queue in queues:
            line = self.lines.get(queue)
            if line is None or len(deliveries) >= limit:
                continue
            if suspects and line.suspects:
                deliveries += self._hold(line.take_suspect(), lease)
                suspects = False
            deliveries += self._hold(line.take(limit - len(deliveries)), lease)
        return deliveries

    def _hold(self, ids: Iterable[str], lease: Lease) -> list[Delivery]:
        deliveries: list[Delivery] = []
        for job_id in ids:
            entry = self.jobs.get(job_id)
            if entry is None or entry.epoch is not None:
                continue
            self.epoch += 1
            lease.last = entry.epoch = self.epoch
            entry.worker = lease.info.id
            lease.held[job_id] = entry
            deliveries.append(self._deliver(entry))
        return deliveries

    def _deliver(self, entry: Entry) -> Delivery:
        return Delivery(job_of(entry), entry.epoch or 0, entry.trail, entry.crashes)

    def _reclaim(self, lease: Lease, entry: Entry, now: float) -> None:
        del lease.held[entry.job.id]
        entry.crashes = (*entry.crashes, Crash(entry.epoch or 0, now, lease.info.id))
        entry.epoch = entry.worker = None
        self._ready(entry, front=True)

    def _reconcile(self, lease: Lease, named: Collection[str], resume: int) -> int:
        """Put back what the worker has received and does not name, and say how many."""
        forgotten = [entry for entry in lease.held.values() if _epoch(entry) <= resume and entry.job.id not in named]
        for entry in sorted(forgotten, key=_epoch, reverse=True):  # the one claimed first ends up in front
            del lease.held[entry.job.id]
            entry.epoch = entry.worker = None
            self._ready(entry, front=True)
        return len(forgotten)

    def _take_back(self, token: Token) -> None:
        entry = self.jobs.get(token.id)
        if entry is not None and entry.crashes:
            entry.crashes = tuple(crash for crash in entry.crashes if crash.epoch != token.epoch)


def job_of(entry: Entry) -> Job:
    """The job, in the queue where it is now."""
    return entry.job if entry.job.queue == entry.queue else msgspec.structs.replace(entry.job, queue=entry.queue)


def _epoch(entry: Entry) -> int:
    return entry.epoch or 0
