"""Many workers that come and go at random, over thousands of jobs that fail now and then."""

import os
import random
import signal

import pytest

from tests.faults.app import flaky, now
from tests.faults.conftest import everywhere
from tests.faults.field import Field, after
from tests.faults.ledger import SECOND

SEED = int(os.environ.get("JOBQ_SEED", "7"))
SECONDS = float(os.environ.get("JOBQ_SOAK_SECONDS", "6"))
WORKERS = 10
JOBS = 2000


@everywhere
@pytest.mark.timeout(SECONDS * 3 + 150)
async def test_whatever_happens_to_workers_every_job_comes_to_its_end(field: Field) -> None:
    print(f"JOBQ_SEED={SEED}")
    fate = random.Random(SEED)

    async def more() -> None:
        for failures in (0, 0, 0, 1, 2):
            await field.enqueue(flaky, fate.uniform(0.01, 0.1), failures, count=JOBS // 5)

    await more()
    crowd = [field.worker(concurrency=4) for _ in range(WORKERS)]
    await field.started(WORKERS)
    end = now() + SECONDS * SECOND
    while now() < end:
        await after(fate.uniform(0.1, 0.9))
        worker = crowd.pop(fate.randrange(len(crowd)))
        if fate.random() < 0.7:
            worker.kill()
        else:
            worker.send(signal.SIGTERM)
        crowd.append(field.worker(concurrency=4))
        if len(field.store.live()) < JOBS // 4:
            await more()
    await field.quiet(60)
    await field.settled()
    assert not field.store.dead()
