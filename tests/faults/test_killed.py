"""Workers that are killed: their jobs start again elsewhere, soon, and no attempt is spent."""

from tests.faults.app import gate, nap
from tests.faults.conftest import everywhere
from tests.faults.field import LEASE, SWEEP, Field, Program
from tests.faults.ledger import SECOND

MARGIN = 1.0
PROOF = 3.0


async def overtaken(field: Field, victim: Program, within: float, count: int = 5) -> None:
    """Kill a worker in the middle of jobs; others have to start them again in time."""
    names = {run.id for run in await field.started(count, victim.pid)}
    victim.kill()
    assert victim.killed is not None
    for name in names:
        again = await field.restarted(name, within + 5)
        assert again.start - victim.killed < within * SECOND
        assert again.attempt == 1
        assert len(field.store.crashes(name)) == 1
    field.open("out")
    await field.settled()


@everywhere
async def test_jobs_of_one_killed_worker_of_two_start_again_within_three_seconds(field: Field) -> None:
    await field.enqueue(gate, "out", count=12)
    victim = field.worker(concurrency=5)
    await field.started(5, victim.pid)
    field.worker(concurrency=20)
    await field.started(10)
    await overtaken(field, victim, PROOF)


async def test_jobs_of_a_worker_that_is_killed_before_any_other_has_swept_start_again_within_three_seconds(
    field: Field,
) -> None:
    await field.enqueue(gate, "first", count=10)
    field.worker(lease=1200, sweep=600)
    await field.started(10)
    await field.enqueue(gate, "out", count=5)
    victim = field.worker(lease=1200, sweep=600)
    await field.started(5, victim.pid)
    field.open("first")
    await overtaken(field, victim, PROOF)


async def test_jobs_of_a_worker_on_a_lost_host_start_again_within_lease_and_sweep(field: Field) -> None:
    await field.enqueue(gate, "out", count=5)
    victim = field.worker(host="elsewhere")
    await field.started(5, victim.pid)
    field.worker()
    await overtaken(field, victim, LEASE + 1.25 * SWEEP + MARGIN)


@everywhere
async def test_jobs_survive_that_all_workers_are_killed(field: Field) -> None:
    await field.enqueue(gate, "out", count=5)
    await field.enqueue(nap, 0.01, count=100)
    workers = [field.worker(concurrency=4), field.worker(concurrency=4)]
    await field.started(20)
    for worker in workers:
        worker.kill()
    field.open("out")
    field.worker()
    await field.settled()


async def test_long_leases_do_not_delay_the_proof_of_death(field: Field) -> None:
    await field.enqueue(gate, "out", count=5)
    victim = field.command("--concurrency", "5")
    await field.started(5, victim.pid)
    field.command("--grace", "2")
    await overtaken(field, victim, PROOF + MARGIN)  # of which the new worker's start takes a part


async def test_a_killed_child_is_replaced_and_its_jobs_start_again_at_once(field: Field) -> None:
    await field.enqueue(gate, "out", count=4)
    parent = field.command("--processes", "2", "--concurrency", "2", "--grace", "2")
    runs = await field.started(4)
    victim = runs[0].pid
    field.kill(victim)
    for run in field.ledger.by(victim):
        await field.restarted(run.id, PROOF)
    field.open("out")
    await field.settled()
    assert "was killed by SIGKILL; starting another" in parent.log
