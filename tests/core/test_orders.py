"""Cancelling by order: what a heartbeat brings back ends a body as cancelled, and nothing else of the job goes on."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

import jobq
from jobq import App, Client, Job
from jobq.broker import Broker
from jobq.model import Beat, Cancelled, Done, Happening, Orders, Token, WorkerInfo
from jobq.worker import Worker
from jobq_memory import MemoryBroker
from tests.core.bench import Faulty, state_of, until

app = App()
log = list[str]()
OFTEN: dict[str, Any] = {"lease": 5.0, "renew": 0.05}


class Commander(Faulty):
    """Orders held jobs to be cancelled, with every heartbeat until they are."""

    def __init__(self, broker: Broker, wanted: set[str] | None = None) -> None:
        super().__init__(broker)
        self.wanted = set[str]() if wanted is None else wanted

    def twin(self) -> Broker | None:
        twin = self._broker.twin()
        return None if twin is None else Commander(twin, self.wanted)

    async def heartbeat(self, worker: WorkerInfo, beats: Sequence[Beat], lease: float, resume: int = 0) -> Orders:
        orders = await super().heartbeat(worker, beats, lease, resume)
        return msgspec.structs.replace(
            orders, cancel=[Token(beat.id, beat.epoch) for beat in beats if beat.id in self.wanted] + [Token("no", 0)]
        )


def on_end(job: Job, exc: BaseException) -> None:
    log.append(f"handler of {job.task}")


@app.task(on_failure=on_end, on_dead=on_end)
async def obedient() -> None:
    log.append("begun")
    try:
        await asyncio.Event().wait()
    finally:
        log.append("cleaned up")


@app.task(on_failure=on_end, on_dead=on_end)
async def clumsy() -> None:
    log.append("begun")
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        raise ValueError("while cleaning up") from None


@app.task
async def stubborn() -> None:
    log.append("begun")
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        log.append("finished all the same")


@app.task(on_failure=on_end, on_dead=on_end)
def threaded(*, finish: bool) -> None:
    log.append("begun")
    end = time.monotonic() + 10
    while not jobq.current().cancelled:
        assert time.monotonic() < end
        time.sleep(0.005)
    log.append("asked to stop")
    if not finish:
        raise InterruptedError


@app.task
async def bystander() -> None:
    log.append("bystander begun")
    await asyncio.sleep(0.3)
    log.append("bystander done")


@dataclass
class Scene:
    """A worker on a broker that gives orders."""

    broker: Commander
    memory: MemoryBroker
    client: Client
    worker: Worker

    async def ordered(self, call: jobq.Call[Any]) -> Any:
        """The outcome of a call that is ordered to be cancelled once it has begun."""
        (handle,) = await self.client.perform_many([call])
        await until(lambda: "begun" in log)
        self.broker.wanted.add(handle.id)
        await until(lambda: handle.id not in state_of(self.memory).jobs)
        (outcome,) = [outcome for outcome in self.broker.outcomes() if outcome.id == handle.id]
        return outcome


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    log.clear()
    async with MemoryBroker() as memory, Client(memory) as client:
        broker = Commander(memory)
        async with Worker(app, broker, concurrency=5, **OFTEN) as worker:
            yield Scene(broker, memory, client, worker)


async def test_a_body_that_is_cancelled_by_order_cleans_up_and_ends_as_cancelled(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    outcome = await scene.ordered(obedient.call())
    assert isinstance(outcome, Cancelled)
    assert [(event.what, event.detail, event.worker) for event in outcome.trail.history] == [
        (Happening.CANCELLED, "ordered", scene.worker.id)
    ]
    assert (outcome.trail.attempt, outcome.trail.failure) == (0, None)
    assert log == ["begun", "cleaned up"]
    assert state_of(scene.memory).dead == {}
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_what_a_body_raises_instead_is_no_failure_either(scene: Scene) -> None:
    outcome = await scene.ordered(clumsy.call())
    assert isinstance(outcome, Cancelled)
    assert (outcome.trail.attempt, outcome.trail.failure) == (0, None)
    assert log == ["begun"]


async def test_a_body_that_finishes_all_the_same_is_done(scene: Scene) -> None:
    assert isinstance(await scene.ordered(stubborn.call()), Done)
    assert log == ["begun", "finished all the same"]


@pytest.mark.parametrize("finish", [True, False])
async def test_a_thread_is_asked_to_stop_and_has_its_outcome_when_it_returns(scene: Scene, *, finish: bool) -> None:
    outcome = await scene.ordered(threaded.call(finish=finish))
    assert isinstance(outcome, Done if finish else Cancelled)
    assert log == ["begun", "asked to stop"]


async def test_an_order_concerns_nobody_else_and_the_slot_is_free_again(scene: Scene) -> None:
    await scene.client.perform_async(bystander)
    await until(lambda: "bystander begun" in log)
    assert isinstance(await scene.ordered(obedient.call()), Cancelled)
    await until(lambda: not state_of(scene.memory).jobs and not scene.worker.held)
    assert log.count("bystander done") == 1
