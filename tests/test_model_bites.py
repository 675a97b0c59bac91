"""A test of the test: break a promise in a copy of the model, and the machine finds it."""

from collections.abc import Callable, Collection, Sequence

import pytest
from hypothesis import Phase

from jobq.model import Answer, Beat, Claim, Job, Orders, Outcome, Stamp, Swept, Token, Turn, WorkerInfo
from jobq.testing import ManualClock
from jobq_memory import MemoryBroker
from jobq_memory._state import Entry, Lease, State
from tests.machine import check


class NoFence(State):
    """Asks who holds the job, but not under which epoch."""

    def _holds(self, lease: Lease | None, job_id: str, epoch: int) -> bool:  # noqa: ARG002
        return lease is not None and job_id in lease.held


class NoOwner(State):
    """Lets any worker settle any claim."""

    def turn(self, outcomes: Sequence[Outcome], claim: Claim, now: float) -> Turn:
        everybody = {name: entry for lease in self.leases.values() for name, entry in lease.held.items()}
        if (lease := self.leases.get(claim.worker)) is not None:
            for outcome in outcomes:
                entry = everybody.get(outcome.id)
                if entry is not None and entry.epoch == outcome.epoch:
                    lease.held.setdefault(outcome.id, entry)
        return super().turn(outcomes, claim, now)


class NoStamps(State):
    """Stores a repeated enqueue again when its jobs have ended."""

    def enqueue(self, jobs: Sequence[Job], stamp: Stamp, now: float) -> Sequence[Answer]:
        self.stamps.clear()
        return super().enqueue(jobs, stamp, now)


class NoResume(State):
    """Forgets the deliveries of a lost reply."""

    def turn(self, outcomes: Sequence[Outcome], claim: Claim, now: float) -> Turn:
        return super().turn(outcomes, Claim(claim.worker, claim.queues, claim.limit, claim.suspects, 1 << 60), now)


class Early(State):
    """Makes jobs ready a second too early."""

    def _promote(self, now: float, limit: int) -> int:
        return super()._promote(now + 1, limit)


class NoCrashes(State):
    """Charges nobody for a lost lease."""

    def _reclaim(self, lease: Lease, entry: Entry, now: float) -> None:
        super()._reclaim(lease, entry, now)
        entry.crashes = ()


class NoTakingBack(State):
    """Leaves the crash with a job whose worker was only late."""

    def _take_back(self, token: Token) -> None:
        pass


class NoFront(State):
    """Sends what comes back to the end of the line."""

    def _ready(self, entry: Entry, *, front: bool) -> None:  # noqa: ARG002
        super()._ready(entry, front=False)


class NoRenewal(State):
    """Gives a lease once and never renews it."""

    def heartbeat(self, worker: WorkerInfo, beats: Sequence[Beat], lease: float, resume: int, now: float) -> Orders:
        before = self.leases.get(worker.id)
        end = before.end if before and lease else None
        orders = super().heartbeat(worker, beats, lease, resume, now)
        if end is not None:
            self.leases[worker.id].end = end
        return orders


class NoReconciling(State):
    """Keeps for a worker what that has settled long ago."""

    def _reconcile(self, lease: Lease, named: Collection[str], resume: int) -> int:  # noqa: ARG002
        return 0


class ReconcilesAll(State):
    """Puts back what is still on its way to the worker."""

    def _reconcile(self, lease: Lease, named: Collection[str], resume: int) -> int:
        return super()._reconcile(lease, named, resume and 1 << 60)


class NoLimit(State):
    """Sweeps all there is, whatever the limit."""

    def sweep(self, host: str, limit: int, dead: Sequence[str], now: float) -> Swept:  # noqa: ARG002
        return super().sweep(host, 1 << 30, dead, now)


BROKEN = [
    NoFence,
    NoOwner,
    NoStamps,
    NoResume,
    Early,
    NoCrashes,
    NoTakingBack,
    NoFront,
    NoRenewal,
    NoReconciling,
    ReconcilesAll,
    NoLimit,
]


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_promise_is_found(broken: Callable[[], State]) -> None:
    def open_broken(clock: ManualClock) -> MemoryBroker:
        broker = MemoryBroker(clock=clock)
        broker._here.state = broken()
        return broker

    with pytest.raises(AssertionError):
        check(open_broken, examples=1000, phases=[Phase.generate], database=None, print_blob=False)
