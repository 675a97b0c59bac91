"""What may happen to a broker, in any order.

What the contract leaves open is kept out: no two jobs are due at the same time, and no two workers that hold jobs lose
their leases to one sweep.
"""

import os
from collections.abc import Sequence
from math import ceil
from typing import Any, Final

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from jobq.model import (
    Again,
    Beat,
    Cancelled,
    Claim,
    Dead,
    Done,
    Job,
    Outcome,
    Released,
    Stamp,
    Token,
    Trail,
    WorkerInfo,
)
from tests.model import SHORTLY, Open, World

EXAMPLES: Final = int(os.environ.get("JOBQ_MODEL_EXAMPLES", "100"))
STEPS: Final = 40
FAR: Final = 5000
"""A limit that nothing reaches, and a time after which everything is due and every lease has ended."""
QUEUES: Final = ("one", "two")

Picks = Sequence[tuple[bool, int]]

delays = st.none() | st.integers(1, 30)
picks = st.lists(st.tuples(st.booleans(), st.integers(0, 9)), max_size=3)
"""Tokens: one that the worker holds or any that ever was, counted from the latest."""
kinds = st.lists(st.sampled_from([Done, Again, Dead, Cancelled, Released]), min_size=3, max_size=3)
workers = st.integers(0, 3)
replies = st.sampled_from(["received", "received", "lost and repeated", "lost for ever"])


class Machine(RuleBasedStateMachine):
    """What clients and workers may do to a broker, and what may go wrong."""

    open_broker: Open

    def __init__(self) -> None:
        super().__init__()
        self.world = World(type(self).open_broker)
        self.tokens: list[Token] = []  # every one there ever was
        self.workers: list[WorkerInfo] = []
        self.received: dict[str, int] = {}
        self.stamps = 0
        self.last: tuple[Sequence[Job], Stamp] = ([], Stamp("client", 0))
        self.moments = 0

    @initialize()
    def begin(self) -> None:
        """Begin with what makes most of the rules do something."""
        for _ in range(2):
            self.hire_one()
        self.enqueue(names=["a", "b"], queue=QUEUES[0], priority=2, delay=None, absolute=False)

    @rule(
        names=st.lists(st.sampled_from("abcdef"), min_size=1, max_size=3),
        queue=st.sampled_from(QUEUES),
        priority=st.sampled_from([2, 2, 0, 4]),
        delay=delays,
        absolute=st.booleans(),
    )
    def enqueue(self, *, names: list[str], queue: str, priority: int, delay: int | None, absolute: bool) -> None:
        jobs = [self.job(name, queue, priority, delay, absolute=absolute) for name in names]
        self.stamps += 1
        self.last = (jobs, Stamp("client", self.stamps))
        self.world.enqueue(*self.last)

    @rule()
    def repeat_the_last_enqueue(self) -> None:
        if self.stamps:
            self.world.enqueue(*self.last)

    @rule(
        who=workers,
        chosen=picks,
        kinds=kinds,
        delay=delays,
        queue=st.none() | st.sampled_from(QUEUES),
        limit=st.integers(0, 3),
        queues=st.sampled_from([QUEUES, QUEUES[::-1], QUEUES[:1]]),
        suspects=st.booleans(),
        reply=replies,
    )
    def turn(
        self,
        *,
        who: int,
        chosen: Picks,
        kinds: list[type[Outcome]],
        delay: int | None,
        queue: str | None,
        limit: int,
        queues: Sequence[str],
        suspects: bool,
        reply: str,
    ) -> None:
        worker = self.worker(who)
        tokens = self.pick(worker, chosen)
        outcomes = [self.outcome(k, token, delay, queue) for k, token in zip(kinds, tokens, strict=False)]
        claim = Claim(worker.id, queues, limit, suspects, self.received[worker.id])
        self.take_turn(worker, outcomes, claim, reply)

    @rule(index=st.integers(0, 9), kind=kinds, delay=delays, queue=st.none() | st.sampled_from(QUEUES))
    def an_earlier_claim_of_a_held_job_is_settled(
        self, *, index: int, kind: list[type[Outcome]], delay: int | None, queue: str | None
    ) -> None:
        held = {name: lease.info for lease in self.world.model.leases.values() for name in lease.held}
        stale = [token for token in self.tokens if token.id in held and not self.holds(held[token.id], token)]
        if stale:
            token = stale[-1 - index % len(stale)]
            worker = held[token.id]
            outcome = self.outcome(kind[0], token, delay, queue)
            self.take_turn(worker, [outcome], Claim(worker.id, resume=self.received[worker.id]))

    @rule(who=workers, chosen=picks, lease=st.sampled_from([10, 30, 30, 0]), received=st.none() | st.integers(0, 3))
    def heartbeat(self, *, who: int, chosen: Picks, lease: int, received: int | None) -> None:
        worker = self.worker(who)
        beats = [Beat(token.id, token.epoch) for token in dict.fromkeys(self.pick(worker, chosen))]
        if lease == 0:
            self.sweep_the_ended()
        self.world.heartbeat(worker, beats, lease and lease + self.moment(), self.resume(worker, received))

    @rule(limit=st.sampled_from([FAR, 1, 2]), dead=st.none() | workers, host=st.sampled_from(["h0", "h1"]))
    def sweep(self, *, limit: int, dead: int | None, host: str) -> None:
        if dead is not None:
            self.sweep_the_ended()
        self.world.sweep(host, limit, [] if dead is None else [self.worker(dead).id])

    @rule(seconds=st.integers(1, 20))
    def time_goes_by(self, *, seconds: int) -> None:
        self.advance_to(self.world.now + seconds)

    @rule(who=workers, lease=st.booleans(), limit=st.integers(0, 3))
    def the_moment_comes(self, *, who: int, lease: bool, limit: int) -> None:
        """A turn just before, and one just after, a job is due or a lease ends."""
        model, worker, now = self.world.model, self.worker(who), self.world.now
        moments = [each.end for each in model.leases.values()] if lease else [due for due, _, _ in model.scheduled]
        moment = min((moment for moment in moments if moment > now), default=now)
        for at in (moment - 0.25, moment + SHORTLY):
            self.advance_to(at)
            self.take_turn(worker, [], Claim(worker.id, QUEUES, limit, resume=self.received[worker.id]))
        self.advance_to(ceil(self.world.now))  # times of day stay whole: `moment` relies on that

    @rule(seconds=st.integers(1, 20))
    def the_clock_is_set_back(self, *, seconds: int) -> None:
        self.world.clock.step(-seconds)

    @rule()
    def hire_one(self) -> None:
        """Worker ids are never used again: those who crash are replaced, and may turn up as zombies."""
        number = len(self.workers)
        worker = WorkerInfo(id=f"w{number}", host=f"h{number % 2}")
        self.workers.append(worker)
        self.received[worker.id] = 0
        self.world.heartbeat(worker, [], 20 + self.moment())

    def teardown(self) -> None:
        try:
            self.drain()
        finally:
            self.world.close()

    def drain(self) -> None:
        """In the end, every job that is left comes out of both, in the same order."""
        self.advance_to(self.world.now + FAR)
        self.world.sweep("h0", FAR)
        last = WorkerInfo(id="last", host="h0")
        self.world.heartbeat(last, [], FAR)
        claim = Claim(last.id, QUEUES, FAR, suspects=True)
        while (turn := self.world.turn([], claim)).deliveries:
            assert (
                list(self.world.turn([Done(d.job.id, d.epoch) for d in turn.deliveries], Claim(last.id)).refused) == []
            )
        assert not self.world.model.jobs

    def take_turn(self, worker: WorkerInfo, outcomes: Sequence[Outcome], claim: Claim, reply: str = "received") -> None:
        turn = self.world.turn(outcomes, claim)
        self.tokens += [Token(d.job.id, d.epoch) for d in turn.deliveries]
        if reply == "lost and repeated":
            again = self.world.turn(outcomes, claim)
            assert list(again.deliveries[: len(turn.deliveries)]) == list(turn.deliveries)
            turn = again
        if reply != "lost for ever":
            self.received[worker.id] = max([claim.resume, *(d.epoch for d in turn.deliveries)])

    def advance_to(self, end: float) -> None:
        """Let time go by, stopping to sweep before a second worker that holds jobs loses its lease."""
        while len(ends := self.ends()) > 1 and ends[1] <= end:
            self.world.clock.advance(max(0.0, ends[0] + SHORTLY - self.world.now))
            self.world.sweep("h0", FAR)
        self.world.clock.advance(max(0.0, end - self.world.now))

    def sweep_the_ended(self) -> None:
        """So that another worker may lose its lease."""
        if any(end <= self.world.now for end in self.ends()):
            self.world.sweep("h0", FAR)

    def ends(self) -> list[float]:
        """When the leases of the workers that hold jobs end."""
        return sorted(lease.end for lease in self.world.model.leases.values() if lease.held)

    def worker(self, who: int) -> WorkerInfo:
        """Counted from the latest."""
        return self.workers[-1 - who % len(self.workers)]

    def pick(self, worker: WorkerInfo, chosen: Picks) -> list[Token]:
        held = [token for token in self.tokens if self.holds(worker, token)]
        found = [((own and held) or self.tokens, index) for own, index in chosen]
        return [source[-1 - index % len(source)] for source, index in found if source]

    def resume(self, worker: WorkerInfo, received: int | None) -> int:
        """What this worker has received, or had when so many fewer jobs were claimed; None says nothing of it."""
        if received is None:
            return 0
        epochs = [0, *(token.epoch for token in self.tokens if token.epoch <= self.received[worker.id])]
        return epochs[max(-1 - received, -len(epochs))]

    def holds(self, worker: WorkerInfo, token: Token) -> bool:
        lease = self.world.model.leases.get(worker.id)
        entry = lease.held.get(token.id) if lease else None
        return entry is not None and entry.epoch == token.epoch

    def moment(self) -> float:
        """A part of a second that was not used before, so that no two things are due at once."""
        self.moments += 1
        return self.moments * 2 * SHORTLY

    def job(self, name: str, queue: str, priority: int, delay: int | None, *, absolute: bool) -> Job:
        columns: dict[str, Any] = {}
        if delay is not None:
            wait = delay + self.moment()
            columns = {"due": round(self.world.now + wait, 3)} if absolute else {"delay": wait}
        return Job(id=name, task="t", queue=queue, priority=priority, **columns)

    def outcome(self, kind: type[Outcome], token: Token, delay: int | None, queue: str | None) -> Outcome:
        wait = 0.0 if delay is None else delay + self.moment()
        if kind is Again:
            return Again(token.id, token.epoch, Trail(attempt=self.moments), wait, queue)
        if kind is Released:
            return Released(token.id, token.epoch, wait)
        if kind is Dead:
            return Dead(token.id, token.epoch, Trail(), keep=delay is None)
        return Done(token.id, token.epoch) if kind is Done else Cancelled(token.id, token.epoch)


def check(open_broker: Open, examples: int = EXAMPLES, **more: Any) -> None:
    """Run the machine on a broker."""
    bound = type("Bound", (Machine,), {"open_broker": staticmethod(open_broker)})
    slow = [HealthCheck.too_slow, HealthCheck.data_too_large]
    run_state_machine_as_test(
        bound,
        settings=settings(
            max_examples=examples, stateful_step_count=STEPS, deadline=None, suppress_health_check=slow, **more
        ),
    )
