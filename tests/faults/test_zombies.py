"""Workers that are frozen for longer than their lease and come back: they are too late, and they notice."""

import signal

from tests.faults.app import block, gate, nap, now, order
from tests.faults.conftest import everywhere
from tests.faults.field import LEASE, Field, after
from tests.faults.ledger import SECOND

SHORT = 1.2
"""Seconds of a lease that a test waits for, and not only once."""


async def test_a_zombie_is_refused_its_bodies_are_cancelled_and_the_newer_run_stands(field: Field) -> None:
    (ordered,) = await field.enqueue(order)
    (gated,) = await field.enqueue(gate, "out")
    zombie = field.worker()
    await field.started(2)
    stopped = now()
    zombie.send(signal.SIGSTOP)
    field.oracle.fenced.add(zombie.pid)
    heir = field.worker()
    for name in (ordered, gated):
        again = await field.restarted(name)
        assert again.start - stopped > (LEASE - 0.6) * SECOND, "the lease had not ended"
        assert len(field.store.crashes(name)) == 1

    field.open(f"{ordered}.{zombie.pid}", "return")
    woken = now()
    zombie.send(signal.SIGCONT)
    await zombie.says("outcomes came too late")
    (cancelled,) = [run for run in field.ledger.by(zombie.pid) if run.id == gated]
    assert cancelled.how == "cancel"
    assert (cancelled.finish or 0) - woken < 1.0 * SECOND
    assert not field.store.crashes(ordered)
    assert not field.store.crashes(gated)
    assert field.store.held() == {ordered, gated}

    field.open(f"{ordered}.{heir.pid}", "raise")
    field.open("out")
    await field.settled()
    assert len(field.ledger.runs()) == 4
    (trail,) = field.store.dead().values()
    assert trail.failure is not None
    assert trail.failure.message == f"as told in {heir.pid}"
    assert trail.attempt == 1


async def test_a_zombie_that_lost_nothing_goes_on(field: Field) -> None:
    await field.enqueue(gate, "out", count=3)
    worker = field.worker(lease=SHORT, renew=SHORT / 4)
    await field.started(3)
    worker.send(signal.SIGSTOP)
    await after(1.5 * SHORT)
    worker.send(signal.SIGCONT)
    field.open("out")
    field.oracle.fenced.add(worker.pid)
    await field.settled()
    assert len(field.ledger.ended()) == 3


@everywhere
async def test_a_body_that_blocks_the_loop_for_three_leases_runs_once_and_is_named(field: Field) -> None:
    (name,) = await field.enqueue(block, 3 * SHORT)
    others = await field.enqueue(nap, 0.01, count=20)
    blocked = field.worker(lease=SHORT, renew=SHORT / 4)
    await blocked.says("has blocked the event loop")
    assert f"job {name} of block" in blocked.log
    field.worker()
    await field.settled()
    assert sorted(run.id for run in field.ledger.runs()) == sorted([name, *others])
    assert "the event loop runs again" in blocked.log
