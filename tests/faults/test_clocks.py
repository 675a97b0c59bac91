"""Workers whose clock is wrong: due times and leases go by the broker's."""

import time

import pytest

from tests.faults.app import flaky, gate, nap, now, order
from tests.faults.field import Field, after, until
from tests.faults.ledger import SECOND

HOUR = 3600.0
LATE = 1.0
SHORT = 1.2


@pytest.mark.parametrize("skew", [HOUR, -HOUR], ids=["an-hour-ahead", "an-hour-behind"])
async def test_a_wrong_clock_moves_neither_due_times_nor_leases(on_redis: Field, skew: float) -> None:
    field = on_redis
    client = await field.client()
    worker = field.worker(skew=skew, lease=SHORT, renew=SHORT / 4)
    await field.enqueue(nap, 0)
    await field.started(1, worker.pid)
    field.oracle.tried |= {"delayed"}
    enqueued = now()
    await client.perform_in(1.0, nap.options(id="delayed"), 0.0)
    (run,) = await until(lambda: field.ledger.of("delayed"), "the delayed job")
    assert SECOND <= run.start - enqueued < (1 + LATE) * SECOND

    (retried,) = await field.enqueue(flaky, 0, 3)
    (ordered,) = await field.enqueue(order)
    (held,) = await field.enqueue(gate, "out")
    await until(lambda: field.ledger.of(held), "the held job")
    field.open(f"{ordered}.{worker.pid}", "raise")
    field.worker()
    await after(1.5 * SHORT)
    assert len(field.ledger.of(held)) == 1
    field.open("out")
    await field.settled()
    assert [run.attempt for run in field.ledger.of(retried)] == [1, 2, 3, 4]
    history = field.store.dead()[ordered].history
    assert abs(history[-1].at - time.time()) < HOUR / 10


async def test_two_workers_that_disagree_by_two_hours_share_the_work(on_redis: Field) -> None:
    field = on_redis
    workers = [field.worker(skew=HOUR, concurrency=5), field.worker(skew=-HOUR, concurrency=5)]
    await field.enqueue(flaky, 0.02, 1, count=200)
    await field.settled()
    assert all(field.ledger.by(worker.pid) for worker in workers)
    assert {run.attempt for run in field.ledger.runs()} == {1, 2}
    assert len(field.ledger.runs()) == 400
