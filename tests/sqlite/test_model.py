"""The same calls on the memory broker and on this one bring the same answers, whatever the calls are."""

import random
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import pytest

from jobq.broker import Broker
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
    Turn,
    WorkerInfo,
)
from jobq.testing import ManualClock
from jobq_memory import MemoryBroker
from jobq_sqlite import SqliteBroker
from jobq_sqlite._enqueue import Enqueue
from jobq_sqlite._sql import Tx
from jobq_sqlite._turn import TakeTurn
from jobq_sqlite._verb import Verb

QUEUES = ("default", "other", "third")
WORKERS = tuple(WorkerInfo(id=f"w{number}", host=f"h{number % 2}") for number in range(3))


class Pair:
    """Both brokers, and what an epoch of the one is for the other."""

    def __init__(self, seed: int, model: Broker, broker: Broker, clock: ManualClock) -> None:
        self.dice = random.Random(seed)
        self.model, self.broker, self.clock = model, broker, clock
        self.tokens: list[tuple[Token, Token]] = []
        self.received: dict[str, tuple[int, int]] = {}
        self.stamps = count(1)
        self.last: tuple[Sequence[Job], Stamp] | None = None

    async def step(self) -> None:
        steps = (self.enqueue, self.enqueue, self.turn, self.turn, self.turn, self.heartbeat, self.sweep, self.advance)
        await self.dice.choice(steps)()

    async def advance(self) -> None:
        self.clock.advance(self.dice.choice((0.1, 1, 1, 4)))

    async def enqueue(self) -> None:
        if self.last is None or self.dice.random() < 0.9:
            jobs = [self.job() for _ in range(self.dice.randrange(4))]
            self.last = jobs, Stamp(f"c{self.dice.randrange(3)}", next(self.stamps))
        assert list(await self.model.enqueue(*self.last)) == list(await self.broker.enqueue(*self.last))

    def job(self) -> Job:
        return Job(
            id=str(self.dice.randrange(60)),
            task="t",
            queue=self.dice.choice(QUEUES),
            priority=self.dice.randrange(1, 4),
            delay=self.dice.choice((None, None, None, None, 0, 1, 1, 2.5)),
        )

    async def turn(self) -> None:
        worker = self.dice.choice(WORKERS).id
        tokens = [self.token() for _ in range(self.dice.randrange(4)) if self.tokens]
        outcomes = [self.outcome(*tokens_of) for tokens_of in tokens]
        resume = self.received.get(worker, (0, 0)) if self.dice.random() < 0.8 else (0, 0)
        claim = Claim(
            worker,
            self.dice.sample(QUEUES, self.dice.randrange(4)),
            self.dice.randrange(5),
            suspects=self.dice.random() < 0.5,
        )
        left = await self.model.turn([one for one, _ in outcomes], msgspec.structs.replace(claim, resume=resume[0]))
        right = await self.broker.turn([two for _, two in outcomes], msgspec.structs.replace(claim, resume=resume[1]))
        self.compare(left, right, tokens)
        if left.deliveries:
            self.received[worker] = (left.deliveries[-1].epoch, right.deliveries[-1].epoch)

    def compare(self, left: Turn, right: Turn, tokens: Sequence[tuple[Token, Token]]) -> None:
        twins = {(one.id, one.epoch): two for one, two in [*self.tokens, *tokens]}
        assert (left.leased, left.next_due) == (right.leased, right.next_due)
        assert [twins[token.id, token.epoch] for token in left.refused] == list(right.refused)
        assert [d.job for d in left.deliveries] == [d.job for d in right.deliveries]
        assert [d.trail for d in left.deliveries] == [d.trail for d in right.deliveries]
        assert [[(c.at, c.worker) for c in d.crashes] for d in left.deliveries] == [
            [(c.at, c.worker) for c in d.crashes] for d in right.deliveries
        ]
        assert [d.epoch for d in right.deliveries] == sorted(d.epoch for d in right.deliveries)
        for one, two in zip(left.deliveries, right.deliveries, strict=True):
            self.tokens.append((Token(one.job.id, one.epoch), Token(two.job.id, two.epoch)))

    def token(self) -> tuple[Token, Token]:
        return self.dice.choice(self.tokens[-12:])

    def outcome(self, one: Token, two: Token) -> tuple[Outcome, Outcome]:
        trail = Trail(attempt=self.dice.randrange(3))
        delay, queue = self.dice.choice((0.0, 0.0, 1.0, 2.0)), self.dice.choice((None, *QUEUES))
        kind = self.dice.randrange(6)

        def build(token: Token) -> Outcome:
            outcomes: tuple[Outcome, ...] = (
                Done(token.id, token.epoch),
                Again(token.id, token.epoch, trail, delay, queue),
                Dead(token.id, token.epoch, trail, keep=delay > 0),
                Cancelled(token.id, token.epoch),
                Released(token.id, token.epoch, delay),
                Done(token.id, token.epoch),
            )
            return outcomes[kind]

        return build(one), build(two)

    async def heartbeat(self) -> None:
        worker, lease = self.dice.choice(WORKERS), self.dice.choice((0, 2, 5, 10))
        beats = [self.token() for _ in range(self.dice.randrange(4)) if self.tokens]
        received = self.token() if self.tokens and self.dice.random() < 0.3 else (Token("", 0), Token("", 0))
        left = await self.model.heartbeat(
            worker, [Beat(one.id, one.epoch) for one, _ in beats], lease, received[0].epoch
        )
        right = await self.broker.heartbeat(
            worker, [Beat(two.id, two.epoch) for _, two in beats], lease, received[1].epoch
        )
        twins = {(one.id, one.epoch): two for one, two in beats}
        assert (left.now, left.returned) == (right.now, right.returned)
        assert [twins[token.id, token.epoch] for token in left.lost] == list(right.lost)

    async def sweep(self) -> None:
        dead = [self.dice.choice(WORKERS).id] if self.dice.random() < 0.2 else []
        arguments = f"h{self.dice.randrange(2)}", self.dice.choice((1, 3, 100)), dead
        left, right = await self.model.sweep(*arguments), await self.broker.sweep(*arguments)
        assert msgspec.to_builtins(left) == msgspec.to_builtins(right)


@pytest.mark.parametrize("seed", range(25))
async def test_both_brokers_answer_the_same(tmp_path: Path, seed: int) -> None:
    await compare(tmp_path, seed)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("verb", [Enqueue, TakeTurn])
async def test_the_careful_way_answers_the_same(
    tmp_path: Path, seed: int, verb: type[Verb[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = list[bool]()

    def never(tx: Tx, verbs: Sequence[Verb[Any]]) -> bool:
        taken.append(False)
        return False

    monkeypatch.setattr(verb, "at_once", never)
    await compare(tmp_path, seed)
    assert taken


@pytest.mark.parametrize("verb", [Enqueue, TakeTurn])
async def test_a_single_statement_is_often_enough(
    tmp_path: Path, verb: type[Verb[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    quick, taken = verb.at_once, list[bool]()

    def counted(tx: Tx, verbs: Sequence[Verb[Any]]) -> bool:
        taken.append(quick(tx, verbs))
        return taken[-1]

    monkeypatch.setattr(verb, "at_once", counted)
    await compare(tmp_path, 0)
    assert set(taken) == {True, False}


async def compare(tmp_path: Path, seed: int) -> None:
    clock = ManualClock()
    url = f"sqlite:///{tmp_path}/jobs.db?synchronous=off"
    async with MemoryBroker(clock=clock) as model, SqliteBroker(url, clock=clock) as broker:
        pair = Pair(seed, model, broker, clock)
        for _ in range(250):
            await pair.step()
