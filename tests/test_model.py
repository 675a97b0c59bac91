"""Whatever happens in whatever order, every broker answers like the model.

What the contract leaves open is kept out: no two jobs are due at the same time, and no two workers that hold jobs lose
their leases to one sweep.
"""

import itertools
import os
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from jobq.broker import BrokerFactory
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
from jobq_memory import MemoryBroker
from tests.conftest import server_url
from tests.model import MILLISECOND, Open, World
from tests.servers import REDIS

EXAMPLES: Final = int(os.environ.get("JOBQ_MODEL_EXAMPLES", "100"))
STEPS: Final = 40
FAR: Final = 5000
"""A limit that nothing reaches, and a time after which everything is due and every lease has ended."""
QUEUES: Final = ("one", "two")

numbers = itertools.count()

delays = st.none() | st.integers(1, 30)
picks = st.lists(st.tuples(st.booleans(), st.integers(0, 9)), max_size=3)
"""Tokens: one that the worker holds or any that ever was, counted from the latest."""
kinds = st.lists(st.sampled_from([Done, Again, Dead, Cancelled, Released]), min_size=3, max_size=3)
workers = st.integers(0, 3)
replies = st.sampled_from(["received", "received", "lost and repeated", "lost for ever"])


class Machine(RuleBasedStateMachine):
    """What clients and workers may do to a broker, and what may go wrong."""

    def __init__(self, open_broker: Open) -> None:
        super().__init__()
        self.world = World(open_broker)
        self.tokens: list[Token] = []  # every one there ever was
        self.workers: list[WorkerInfo] = []
        self.received: dict[str, int] = {}
        self.stamps = 0
        self.last: tuple[Sequence[Job], Stamp] = ([], Stamp("client", 0))
        self.moments = 0

    @initialize()
    def hire(self) -> None:
        for _ in range(2):
            self.hire_one()

    @rule(
        names=st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=3),
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
        chosen: list[tuple[bool, int]],
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
        turn = self.world.turn(outcomes, claim)
        self.tokens += [Token(d.job.id, d.epoch) for d in turn.deliveries]
        if reply == "lost and repeated":
            again = self.world.turn(outcomes, claim)
            assert list(again.deliveries[: len(turn.deliveries)]) == list(turn.deliveries)
            turn = again
        if reply != "lost for ever":
            self.received[worker.id] = max([claim.resume, *(d.epoch for d in turn.deliveries)])

    @rule(who=workers, chosen=picks, lease=st.sampled_from([10, 30, 30, 0]))
    def heartbeat(self, *, who: int, chosen: list[tuple[bool, int]], lease: int) -> None:
        worker = self.worker(who)
        beats = [Beat(token.id, token.epoch) for token in dict.fromkeys(self.pick(worker, chosen))]
        if lease == 0:
            self.sweep_one_by_one(until=0)
        self.world.heartbeat(worker, beats, lease and lease + self.moment())

    @rule(limit=st.sampled_from([FAR, 1, 2]), dead=st.none() | workers, host=st.sampled_from(["h0", "h1"]))
    def sweep(self, *, limit: int, dead: int | None, host: str) -> None:
        if dead is not None:
            self.sweep_one_by_one(until=0)
        self.world.sweep(host, limit, [] if dead is None else [self.worker(dead).id])

    @rule(seconds=st.integers(1, 20))
    def time_goes_by(self, *, seconds: int) -> None:
        self.sweep_one_by_one(until=seconds)

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
        self.sweep_one_by_one(until=FAR)
        self.world.sweep("h0", FAR)
        last = WorkerInfo(id="last", host="h0")
        self.world.heartbeat(last, [], FAR)
        claim = Claim(last.id, QUEUES, FAR, suspects=True)
        while (turn := self.world.turn([], claim)).deliveries:
            assert (
                list(self.world.turn([Done(d.job.id, d.epoch) for d in turn.deliveries], Claim(last.id)).refused) == []
            )
        assert not self.world.model.jobs

    def sweep_one_by_one(self, *, until: int) -> None:
        """Let time go by, stopping to sweep before a second worker that holds jobs loses its lease."""
        end = self.world.now + until
        while True:
            ends = sorted(lease.end for lease in self.world.model.leases.values() if lease.held)
            if not until and (not ends or ends[0] > end):
                return
            if until and (len(ends) < 2 or ends[1] > end):
                self.world.clock.advance(max(0.0, end - self.world.now))
                return
            self.world.clock.advance(max(0.0, ends[0] - self.world.now))
            self.world.sweep("h0", FAR)

    def worker(self, who: int) -> WorkerInfo:
        """Counted from the latest."""
        return self.workers[-1 - who % len(self.workers)]

    def pick(self, worker: WorkerInfo, chosen: Sequence[tuple[bool, int]]) -> list[Token]:
        lease = self.world.model.leases.get(worker.id)
        held = [Token(e.job.id, e.epoch) for e in lease.held.values() if e.epoch] if lease else []
        sources = [((held if own else self.tokens) or self.tokens, index) for own, index in chosen]
        return [source[-1 - index % len(source)] for source, index in sources if source]

    def moment(self) -> float:
        """A part of a second that was not used before, so that no two things are due at once."""
        self.moments += 1
        return self.moments * MILLISECOND

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


def check(open_broker: Open, **more: Any) -> None:
    """Run the machine on a broker."""
    run_state_machine_as_test(
        lambda: Machine(open_broker),
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=[*HealthCheck],
            **more,
        ),
    )


def factory(package: str, name: str) -> BrokerFactory:
    """A broker's class; skips the test where it cannot be imported, unless it has to be."""
    try:
        found: BrokerFactory = getattr(import_module(package), name)
    except ImportError as exc:
        if os.environ.get("JOBQ_REQUIRE_ALL_BROKERS"):
            raise
        pytest.skip(f"{package} cannot be imported: {exc}")
    return found


def test_the_memory_broker_is_the_model() -> None:
    check(lambda clock: MemoryBroker(clock=clock))


def test_the_sqlite_broker_answers_like_the_model(tmp_path: Path) -> None:
    sqlite = factory("jobq_sqlite", "SqliteBroker")
    check(lambda clock: sqlite(f"sqlite:///{tmp_path}/{next(numbers)}.db", clock=clock))


def test_the_redis_broker_answers_like_the_model() -> None:
    redis, url = factory("jobq_redis", "RedisBroker"), server_url(REDIS)
    run = f"model-{os.getpid()}"
    check(lambda clock: redis(f"{url}?namespace={run}-{next(numbers)}", clock=clock))
