"""Jobs that kill the process they run in."""

from typing import Any

import pytest

from jobq.registry import Task
from tests.faults.app import crash, leave, nap
from tests.faults.conftest import everywhere
from tests.faults.field import Field, Program, until

INNOCENTS = 20
RUNS = 3


async def over(field: Field, worker: Program) -> None:
    """Wait until the worker has died, or no job is left."""
    await until(lambda: worker.ended or not field.store.live(), "an end")


def judge(field: Field, killer: str, innocents: list[str]) -> None:
    assert len(field.ledger.of(killer)) == RUNS
    (trail,) = field.store.dead().values()
    assert trail.failure is not None
    assert trail.failure.kind == "JobPoisonous"
    assert trail.failure.message == "held by a worker that died 3 times"
    assert set(innocents) == field.ledger.ended()


@everywhere
@pytest.mark.parametrize("task", [leave, crash], ids=["os._exit", "a-segmentation-fault"])
async def test_a_killer_dies_after_three_runs_and_takes_no_innocent_along(field: Field, task: Task[..., Any]) -> None:
    innocents = await field.enqueue(nap, 0.1, count=INNOCENTS // 2)
    (killer,) = await field.enqueue(task)
    innocents += await field.enqueue(nap, 0.1, count=INNOCENTS // 2)
    deaths = 0
    while field.store.live():
        worker = field.worker(concurrency=INNOCENTS + 1)
        await over(field, worker)
        if worker.ended:
            deaths += 1
            field.oracle.killed.add(worker.pid)
    assert deaths == RUNS
    await field.settled()
    judge(field, killer, innocents)


async def test_a_killer_among_the_children_of_one_parent_ends_as_well(field: Field) -> None:
    innocents = await field.enqueue(nap, 0.1, count=INNOCENTS)
    (killer,) = await field.enqueue(leave)
    field.command("--processes", "2", "--concurrency", "20", "--grace", "2")
    await field.quiet()
    await field.stop()
    for run in field.ledger.of(killer):
        field.oracle.killed.add(run.pid)
        field.oracle.deaths[run.pid] = run.start
    field.judge()
    judge(field, killer, innocents)
