"""Brokers and clients that are killed under load: what was acknowledged is not lost."""

import asyncio
import os
import random
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Self, cast

import pytest
from redis import Redis

from jobq.errors import BrokerUnavailable, NotAllStored
from tests.faults.app import gate_or_fail, in_thread, nap
from tests.faults.conftest import Make, everywhere
from tests.faults.field import Field, Program, after, until
from tests.faults.stores import OpenStore
from tests.servers import Server

SEED = int(os.environ.get("JOBQ_SEED", "7"))
RESTARTS = 3
KILLS = 8
LONG = 60.0


class Load:
    """Enqueues one job after the other, several at a time, until it is told to stop."""

    def __init__(self, field: Field) -> None:
        self._field = field
        self._stopped = False
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        await self._field.client()
        self._tasks = [asyncio.ensure_future(self._produce()) for _ in range(8)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopped = True
        await asyncio.gather(*self._tasks)

    async def _produce(self) -> None:
        while not self._stopped:
            with suppress(BrokerUnavailable, NotAllStored):  # not acknowledged, so nothing was promised
                await self._field.enqueue(nap, 0.005)
            await after(0.005)


@pytest.mark.parametrize("planned", [False, True], ids=["killed", "planned"])
async def test_a_restarted_redis_has_lost_nothing_and_everybody_comes_back(
    make: Make, server: Server, *, planned: bool
) -> None:
    field = make(server.url)
    workers = [field.worker(), field.worker()]
    async with Load(field):
        for _ in range(RESTARTS):
            seen = len(field.ledger.runs())
            await field.started(seen + 50)
            await asyncio.to_thread(server.stop if planned else server.kill)
            server.start()
        for worker in workers:
            seen = len(field.ledger.by(worker.pid))
            await field.started(seen + 10, worker.pid)
    await field.settled()
    runs = field.ledger.runs()
    assert len(runs) == len({run.id for run in runs}), "a lease outlives a short restart, so nothing runs twice"


async def test_jobs_of_a_snapshot_run_again_when_redis_falls_back_to_it(make: Make) -> None:
    with Server(arguments=("--appendonly", "no")) as server:
        field = make(server.url)
        names = await field.enqueue(in_thread, LONG, count=5)
        with closing(cast("Any", Redis).from_url(server.url)) as redis:
            redis.save()
        (forgotten,) = await field.enqueue(in_thread.options(priority=4), LONG)
        worker = field.worker(concurrency=20)
        await field.started(6, worker.pid)
        field.oracle.fenced.add(worker.pid)
        await asyncio.to_thread(server.kill)
        server.start()
        await field.started(11, worker.pid)
        for name in (*names, forgotten):
            field.open(name)
        await field.settled()
        runs = field.ledger.runs()
        assert len({run.epoch for run in runs}) == len(runs), "an epoch was used twice"


@pytest.mark.parametrize("told", ["return", "raise"], ids=["done", "again"])
async def test_what_was_settled_in_moments_that_the_broker_has_lost_runs_again_while_the_same_worker_lives(
    forgetful: Field, told: str
) -> None:
    field, store = forgetful, forgetful.store
    assert isinstance(store, OpenStore)
    names = await field.enqueue(gate_or_fail, "out", count=5)
    worker = field.worker(lease=60)  # nothing is to be taken back because a lease has ended
    await field.started(5, worker.pid)
    store.remember()
    field.open("out", told)
    await field.enqueue(nap, 0, count=5)  # their epochs are higher than what the broker will have counted
    await field.started(10, worker.pid)
    await until(lambda: not field.store.held(), "all outcomes are stored")
    field.oracle.fenced.add(worker.pid)
    field.shut("out")
    store.fall_back()
    for name in names:
        again = await field.restarted(name)
        assert (again.pid, again.attempt) == (worker.pid, 1)
        assert field.store.crashes(name) == ()
    field.open("out", "return")
    await field.settled()
    assert len(field.ledger.runs()) == 15
    assert "lost its last moments: 5 jobs" in worker.log


class Journal:
    """What killed producers had noted."""

    def __init__(self, path: Path) -> None:
        self.path = path

    async def grows(self) -> None:
        """Wait until more is acknowledged."""
        acked = len(self.ids("acked"))
        await until(lambda: len(self.ids("acked")) > acked + 20, "enqueuing goes on")

    def ids(self, word: str) -> set[str]:
        if not self.path.exists():
            return set()
        lines = self.path.read_text().splitlines()
        return {line.split(" ")[1] for line in lines if line.startswith(f"{word} ")}


@everywhere
async def test_killing_clients_and_workers_in_the_middle_of_commits_loses_nothing(field: Field, tmp_path: Path) -> None:
    print(f"JOBQ_SEED={SEED}")
    fate, journal = random.Random(SEED), Journal(tmp_path / "journal")
    firsts = iter(range(0, 10**9, 100_000))

    def producer() -> Program:
        return field.program("-m", "tests.faults.producer", field.url, str(journal.path), str(next(firsts)), "100000")

    producers, workers = [producer()], [field.worker(), field.worker()]
    for number in range(KILLS):
        crowd, another = ((producers, producer), (workers, field.worker))[number % 2]
        crowd.append(another())
        await field.started(len(field.ledger.runs()) + 20)
        await journal.grows()
        await after(fate.uniform(0, 0.05))
        crowd.pop(0).kill()
    for one in producers:
        one.kill()
        await one.exit_code()
    field.oracle.tried = journal.ids("try")
    field.oracle.acked = journal.ids("acked")
    assert len(field.oracle.acked) > KILLS * 20
    await field.settled()
