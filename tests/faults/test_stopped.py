"""Workers that are told to stop: in time, with nothing lost, nothing run twice and no attempt spent."""

import itertools
import os
import random
import signal
from typing import Any

import pytest

from jobq.registry import Task
from tests.faults.app import block, gate, in_thread, nap, now, stubborn
from tests.faults.conftest import everywhere
from tests.faults.field import Field, Program, after
from tests.faults.ledger import SECOND

ROUNDS = 20
STARTING = 3
SPARE = 2.0
"""Seconds beyond the grace."""
ECHO = 0.3
SIGNALS = [*itertools.product(["sqlite", "redis"], [signal.SIGTERM, signal.SIGINT]), ("rabbitmq", signal.SIGTERM)]
SEED = int(os.environ.get("JOBQ_SEED", "7"))
LONG = 60.0


async def stop(program: Program, number: int, within: float) -> int:
    """Send a signal; the exit code, if that comes in time."""
    sent = now()
    program.send(number)
    code = await program.exit_code(within + 5)
    assert program.ended is not None
    assert program.ended - sent < within * SECOND, program.log
    return code


@everywhere
async def test_stopping_at_random_moments_loses_nothing_and_runs_nothing_twice(field: Field) -> None:
    print(f"JOBQ_SEED={SEED}")
    fate = random.Random(SEED)
    names = list(itertools.chain(*[await field.enqueue(nap, fate.uniform(0.001, 0.1), count=10) for _ in range(150)]))
    following = [field.worker(concurrency=5) for _ in range(STARTING)]
    for number in range(ROUNDS):
        worker = following.pop(0)
        following.append(field.worker(concurrency=5))
        await field.started(fate.randrange(1, 30), worker.pid)
        code = await stop(worker, (signal.SIGTERM, signal.SIGINT)[number % 2], 2 + SPARE)
        assert code == 0, worker.log
        assert all(run.how == "end" for run in field.ledger.by(worker.pid))
    await field.settled()
    runs = field.ledger.runs()
    assert sorted(run.id for run in runs) == sorted(names)
    assert {run.attempt for run in runs} == {1}


@pytest.mark.parametrize(("field", "number"), SIGNALS, indirect=["field"])
async def test_what_is_unfinished_after_the_grace_is_given_back_at_once(field: Field, number: signal.Signals) -> None:
    names = await field.enqueue(gate, "out", count=8)
    worker = field.worker(concurrency=5, grace=0.3)
    await field.started(5)
    assert await stop(worker, number, 0.3 + SPARE) == 0
    assert not field.store.held()
    assert {run.how for run in field.ledger.runs()} == {"cancel"}
    assert not any(field.store.crashes(name) for name in names)
    field.open("out")
    field.worker()
    await field.settled()
    assert {run.attempt for run in field.ledger.runs()} == {1}


async def test_a_second_signal_does_not_wait_for_the_grace(field: Field) -> None:
    (name,) = await field.enqueue(nap, LONG)
    worker = field.worker(grace=LONG)
    await field.started(1)
    worker.send(signal.SIGTERM)
    await worker.says("running jobs have 60 s")
    await after(ECHO)
    assert await stop(worker, signal.SIGTERM, SPARE) == 0
    assert [run.how for run in field.ledger.runs()] == ["cancel"]
    assert field.store.live() == {name}
    assert not field.store.held()


async def test_a_third_signal_ends_the_process_at_once(field: Field) -> None:
    await field.enqueue(stubborn, LONG)
    worker = field.worker(grace=LONG)
    await field.started(1)
    for _ in range(2):
        worker.send(signal.SIGTERM)
        await after(ECHO)
    assert await stop(worker, signal.SIGTERM, 0.5) == 130


@pytest.mark.parametrize("task", [in_thread, stubborn], ids=["a-thread", "a-swallowed-cancellation"])
async def test_what_will_not_stop_is_given_back_and_never_overlaps(field: Field, task: Task[..., Any]) -> None:
    (name,) = await field.enqueue(task, LONG)
    (short,) = await field.enqueue(gate, "out")
    worker = field.worker(grace=0.3)
    await field.started(2)
    field.worker()
    assert await stop(worker, signal.SIGTERM, 0.3 + SPARE) == 0
    assert worker.ended is not None
    again = await field.restarted(name)
    assert worker.ended < again.start
    assert again.attempt == 1
    assert not field.store.crashes(name)
    field.oracle.killed.add(worker.pid)
    field.open("out")
    field.open(name)
    await field.restarted(short)
    await field.settled()


@everywhere
async def test_a_blocked_event_loop_does_not_keep_the_process(field: Field) -> None:
    (name,) = await field.enqueue(block, LONG)
    worker = field.worker(grace=0.3)
    await field.started(1)
    field.worker()
    assert await stop(worker, signal.SIGTERM, 0.3 + SPARE) == 1
    field.oracle.killed.add(worker.pid)
    assert "did not end in time" in worker.log
    field.open(name)
    await field.restarted(name, 3.0)
    await field.settled()
