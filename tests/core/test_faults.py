"""A broker that fails, loses replies or raises nonsense: every job still runs, once, and no loop dies."""

import asyncio
import random
from collections import Counter
from typing import Any

import msgspec
import pytest

import jobq
from jobq import App, Client, Retry
from jobq.errors import BrokerRefused, BrokerUnavailable, OutcomeUnknown
from jobq.model import Claim
from jobq.worker import Worker
from jobq_memory import MemoryBroker
from tests.core.bench import Faulty, FrozenHere, flying, state_of, until

ERRORS = [BrokerUnavailable("away"), BrokerRefused("no"), OSError("leaked from a driver"), RuntimeError("a bug")]


def counting() -> tuple[App, Counter[int], jobq.AsyncTask[[int], None]]:
    app, ran = App(), Counter[int]()

    @app.task(name="count")
    async def count(n: int) -> None:
        await asyncio.sleep(0)
        ran[n] += 1

    return app, ran, count


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("verb", ["turn", "wait", "sweep"])
async def test_a_verb_that_fails_is_tried_again_and_nothing_is_lost(verb: str, error: Exception) -> None:
    app, ran, count = counting()
    clock = FrozenHere()
    memory = MemoryBroker(clock=clock)
    broker = Faulty(memory)
    async with memory, Client(memory) as client:
        broker.faults.fail(verb, 4, error)
        async with flying(app, broker, clock):
            await client.perform_many([count.call(n) for n in range(20)])
            await until(lambda: len(ran) == 20)
            await until(lambda: broker.faults.calls[verb] >= 5)
            await client.perform_many([count.call(n) for n in range(20, 40)])
            await until(lambda: not state_of(memory).jobs)
    assert ran == Counter(range(40))


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
async def test_a_heartbeat_that_fails_is_tried_again(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobq.worker.supervise._FIRST", 0.01)
    app, ran, count = counting()
    memory = MemoryBroker()
    broker = Faulty(memory)
    async with memory, Client(memory) as client:
        broker.twin_faults.fail("heartbeat", 2, error)
        broker.twin_faults.fail("enter", 1, error)
        async with Worker(app, broker):
            await client.perform_async(count, 1)
            await until(lambda: ran == {1: 1})
            assert broker.twin_faults.calls["heartbeat"] >= 3
    assert state_of(memory).leases == {}


async def test_after_the_lost_reply_of_a_turn_each_job_runs_once() -> None:
    app, ran, count = counting()
    clock = FrozenHere()
    memory = MemoryBroker(clock=clock)
    broker = Faulty(memory)
    async with memory, Client(memory) as client:
        await client.perform_many([count.call(n) for n in range(50)])
        async with flying(app, broker, clock, concurrency=7):
            for _ in range(5):
                broker.faults.lose_reply("turn", 2)
                await until(lambda: not broker.faults._plan["turn"] or not state_of(memory).jobs)
            await until(lambda: not state_of(memory).jobs)
    assert ran == Counter(range(50))
    assert not state_of(memory).dead


async def test_a_refusal_after_a_lost_reply_is_no_alarm(caplog: pytest.LogCaptureFixture) -> None:
    app, ran, count = counting()
    clock = FrozenHere()
    memory = MemoryBroker(clock=clock)
    broker = Faulty(memory)
    async with memory, Client(memory) as client, flying(app, broker, clock):
        await until(lambda: broker.faults.calls["wait"])
        await client.perform_async(count, 1)
        await until(lambda: ran == {1: 1})
        broker.faults.lose_reply("turn")
        await client.perform_async(count, 2)
        await until(lambda: not state_of(memory).jobs)
    assert ran == {1: 1, 2: 1}
    assert not [record for record in caplog.records if "too late" in record.getMessage()]


@pytest.mark.parametrize("field", ["refused", "deliveries", "next_due"])
@pytest.mark.parametrize("jobs", [1, 100])
async def test_after_an_answer_that_makes_no_sense_there_is_a_next_turn(field: str, jobs: int) -> None:
    class Confused(Faulty):
        fails = 3

        async def turn(self, outcomes: Any, claim: Claim) -> Any:
            turn = await super().turn(outcomes, claim)
            if not turn.deliveries or not self.fails:
                return turn
            self.fails -= 1
            return msgspec.structs.replace(turn, **{field: "nonsense"})

    app, ran, count = counting()
    clock = FrozenHere()
    memory = MemoryBroker(clock=clock)
    broker = Confused(memory)
    async with memory, Client(memory) as client:
        await client.perform_many([count.call(n) for n in range(jobs)])
        async with flying(app, broker, clock, concurrency=50):
            await until(lambda: not state_of(memory).jobs)
            await client.perform_async(count, jobs)
            await until(lambda: not state_of(memory).jobs)
    assert broker.fails < 3
    assert ran == Counter(range(jobs + 1))


@pytest.mark.parametrize("seed", range(20))
async def test_under_random_faults_every_job_runs_exactly_once(seed: int) -> None:
    """No lease is lost, so there is no excuse for a second run."""
    rng = random.Random(seed)
    app, ran, attempts = App(), Counter[int](), Counter[int]()

    @app.task(retry=Retry(max_retries=3, backoff=lambda _: rng.random()))
    async def work(n: int) -> None:
        attempts[n] += 1
        for _ in range(rng.randrange(4)):
            await asyncio.sleep(0)
        if n % 5 == 0 and jobq.current().attempt <= 2:
            raise ValueError(n)
        ran[n] += 1

    clock = FrozenHere()
    memory = MemoryBroker(clock=clock)
    broker = Faulty(memory)
    original = broker.faults.around

    async def around(verb: str, call: Any) -> Any:
        if verb != "wait":
            for _ in range(rng.randrange(3)):
                await asyncio.sleep(0)
        if rng.random() < 0.15:
            broker.faults.fail(verb)
        elif rng.random() < 0.15:
            broker.faults.lose_reply(verb)
        return await original(verb, call)

    setattr(broker.faults, "around", around)  # noqa: B010 - both checkers accept it
    async with memory, Client(memory) as client:
        await client.perform_many([work.call(n) for n in range(100)])
        async with flying(app, broker, clock, concurrency=rng.choice([1, 3, 20])):
            await until(lambda: not state_of(memory).jobs, 30)
    assert ran == Counter(range(100))
    assert attempts == Counter({n: 3 if n % 5 == 0 else 1 for n in range(100)})


async def test_enqueuing_from_a_body_survives_a_lost_reply() -> None:
    app, ran, count = counting()
    clock = FrozenHere()
    memory = MemoryBroker(clock=clock)
    broker = Faulty(memory)

    @app.task
    async def parent() -> None:
        broker.faults.lose_reply("enqueue", 2)
        await jobq.current().client.perform_async(count, 1)

    async with memory, Client(memory) as client, flying(app, broker, clock):
        await client.perform_async(parent)
        await until(lambda: ran == {1: 1} and not state_of(memory).jobs)


async def test_errors_of_the_broker_are_one_line_and_others_have_a_traceback(caplog: pytest.LogCaptureFixture) -> None:
    app, ran, count = counting()
    clock = FrozenHere()
    memory = MemoryBroker(clock=clock)
    broker = Faulty(memory)
    async with memory, Client(memory) as client:
        broker.faults.fail("turn", 1, BrokerUnavailable("the line"))
        broker.faults.fail("turn", 1, RuntimeError("the bug"))
        async with flying(app, broker, clock):
            await client.perform_async(count, 1)
            await until(lambda: ran == {1: 1})
    lines = [r for r in caplog.records if "the line" in r.getMessage()]
    bugs = [r for r in caplog.records if r.exc_info and "the bug" in str(r.exc_info[1])]
    assert (len(lines), lines[0].exc_info, len(bugs)) == (1, None, 1)


async def test_lost_replies_are_told_from_calls_that_did_not_happen() -> None:
    assert issubclass(OutcomeUnknown, BrokerUnavailable)
    assert issubclass(BrokerUnavailable, ConnectionError)
