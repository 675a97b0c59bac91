"""Traps for workers: whatever happens to a connection, a channel or a queue, a job runs, and in one worker once."""

import asyncio
import logging
import random
import select
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count

import pytest

from jobq import App
from jobq.errors import BrokerError, BrokerFull, BrokerUnavailable, OutcomeUnknown
from jobq.model import Beat, Claim, Done, WorkerInfo
from jobq.worker import Worker
from jobq_rmq import RmqBroker, _frames
from jobq_rmq._receiver import Receiver
from jobq_rmq._topology import BANDS, Kind
from tests.rmq.node import Node
from tests.rmq.tools import KINDS, Space, claim, collect, drain, lease, put, soon, space_on

both = pytest.mark.parametrize("kind", KINDS)
app = App()
runs = list[str]()
go = asyncio.Event()


@app.task
async def note(name: str) -> None:
    runs.append(name)


@app.task
async def wait(name: str) -> None:
    runs.append(name)
    await go.wait()


@app.task
async def nap(name: str, seconds: float) -> None:
    runs.append(name)
    await asyncio.sleep(seconds)


@app.task
async def block(name: str, seconds: float) -> None:
    runs.append(name)
    select.select([], [], [], seconds)  # `time.sleep` is watched


@pytest.fixture(autouse=True)
def _fresh() -> None:
    global go  # noqa: PLW0603 - of this test's loop
    runs.clear()
    go = asyncio.Event()


@pytest.fixture
async def harmed(patient: Node) -> AsyncIterator[Space]:
    """On the server that is harmed."""
    async with space_on(patient.url) as space:
        yield space


@asynccontextmanager
async def working(url: str, concurrency: int = 10) -> AsyncGenerator[tuple[RmqBroker, Worker]]:
    async with RmqBroker(url) as broker, Worker(app, broker, queues=["default"], concurrency=concurrency) as worker:
        yield broker, worker


@both
@pytest.mark.parametrize("ends", ["before the worker is back", "after"])
async def test_a_job_runs_once_though_all_connections_are_closed_meanwhile(
    patient: Node, kind: Kind, ends: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "jobq.rmq")
    async with space_on(patient.url) as space, app.client(space.url(kind)) as client:
        async with working(space.url(kind)):
            await client.perform_async(wait, "a")
            await soon(lambda: runs)
            await asyncio.to_thread(patient.close_all_connections)
            await soon(lambda: "the consuming connection" in caplog.text)
            if ends == "before the worker is back":
                go.set()
            await soon(lambda: "the consuming connection to" in caplog.text and "is there again" in caplog.text)
            go.set()
            await client.perform_async(note, "b")
            await soon(lambda: "b" in runs)
        assert runs == ["a", "b"]
        async with RmqBroker(space.url(kind)) as broker:
            assert await drain(broker) == []


@both
async def test_five_hundred_jobs_of_random_length_are_all_acknowledged_one_way_or_another(
    space: Space, kind: Kind, caplog: pytest.LogCaptureFixture
) -> None:
    chance = random.Random(11)
    async with app.client(space.url(kind)) as client, working(space.url(kind), concurrency=50):
        calls = [nap.call(f"{number}", chance.uniform(0, 0.1)) for number in range(500)]
        await client.perform_many(calls)
        await soon(lambda: len(runs) >= 500, 30)
    assert sorted(runs) == sorted(f"{number}" for number in range(500))
    assert await space.ready() == 0
    assert "PRECONDITION_FAILED" not in caplog.text
    assert "closed" not in caplog.text


@both
async def test_a_body_that_blocks_the_loop_for_several_heartbeats_runs_once(
    space: Space, kind: Kind, caplog: pytest.LogCaptureFixture
) -> None:
    url = space.url(kind, heartbeat=1)
    async with app.client(url) as client:
        await client.perform_async(block, "a", 4.0)
        await client.perform_async(note, "b")
    async with working(url):
        await soon(lambda: "b" in runs)
    assert sorted(runs) == ["a", "b"]
    assert await space.ready() == 0
    assert "was lost" not in caplog.text


async def test_out_of_memory_is_told_in_time_and_stops_no_worker(patient: Node, harmed: Space) -> None:
    url = harmed.url(timeout=1)
    harmed.queues.add("other")
    async with RmqBroker(url) as broker, app.client(harmed.url()) as client:
        await put(broker, "warm", queue="other")
        await client.perform_many([wait.call(f"{number}") for number in range(10)])
        await client.perform_many([note.call(f"later {number}") for number in range(50)])
        async with working(url) as (_, worker):
            await soon(lambda: len(runs) == 10)
            async with patient.out_of_memory():
                with pytest.raises((BrokerFull, OutcomeUnknown)):  # a server may still take the first
                    await put(broker, "caught", queue="other")
                for _ in range(3):
                    began = time.monotonic()
                    with pytest.raises(BrokerFull):
                        await put(broker, "refused", queue="other")
                    assert time.monotonic() - began < 1.5
                go.set()
                await soon(lambda: len(runs) == 60)
                await soon(lambda: worker.running == 0)
            async with asyncio.timeout(10):
                while True:
                    try:
                        await put(broker, "normal", queue="other")
                    except BrokerFull:
                        continue
                    break
        found = await drain(broker, "other")
        assert "refused" not in found
        assert {"warm", "normal"} <= set(found)


async def test_stopping_while_the_server_is_out_of_memory_takes_seconds_at_most(patient: Node, harmed: Space) -> None:
    async with patient.out_of_memory():
        began = time.monotonic()
        async with RmqBroker(harmed.url(timeout=1)) as broker, Worker(app, broker, grace=0.1) as worker:
            for _ in range(2):
                with pytest.raises((BrokerFull, BrokerUnavailable)):
                    await put(broker, "a")
            await soon(lambda: worker.running == 0)
            began = time.monotonic()
        assert time.monotonic() - began < 5


async def test_jobs_that_waited_in_a_worker_are_not_charged_for_its_lost_connections(patient: Node) -> None:
    async with space_on(patient.url) as space, RmqBroker(space.url()) as broker:
        names = [f"{number}" for number in range(10)]
        await put(broker, *names)
        await lease(broker)
        (held,) = (await claim(broker, limit=1)).deliveries
        await asyncio.to_thread(patient.close_all_connections)
        await lease(broker)
        found = [held, *(one for one, _ in await collect(broker, 9))]
        assert {one.job.id: one.crashes for one in found} == dict.fromkeys(names, ())


async def test_pausing_and_going_on_leaves_no_channels_behind(space: Space) -> None:
    async with RmqBroker(space.url()) as broker:
        await lease(broker)
        _, engine = await broker._shared.work()
        consumers = engine._consumers
        for _ in range(5):
            await put(broker, "a")
            await soon_claimed(broker)
            await claim(broker, queues=(), limit=0)
        await claim(broker)
        await soon(lambda: len(consumers._link.now.channels) <= 1 + len(BANDS))


async def soon_claimed(broker: RmqBroker) -> None:
    """Claim and finish one job."""
    assert len(await collect(broker, 1)) == 1


@both
async def test_a_queue_that_is_deleted_under_its_worker_is_consumed_again(space: Space, kind: Kind) -> None:
    async with app.client(space.url(kind)) as client, working(space.url(kind)):
        await client.perform_async(note, "a")
        await soon(lambda: runs == ["a"])
        for number in range(3):
            await space.delete("high.default", "normal.default", "low.default")
            await client.perform_async(note, f"b{number}")
            await soon(partial(runs.__contains__, f"b{number}"), 5)


@both
async def test_a_job_that_runs_while_its_queue_is_deleted_ends_without_harm(space: Space, kind: Kind) -> None:
    async with app.client(space.url(kind)) as client, working(space.url(kind)):
        await client.perform_async(wait, "a")
        await soon(lambda: runs == ["a"])
        await space.delete("normal.default")
        await client.perform_async(note, "b")
        await soon(lambda: "b" in runs)
        go.set()
    assert runs == ["a", "b"]
    assert await space.ready() == 0


@both
async def test_a_channel_that_is_closed_alone_costs_no_job_a_second_run(
    space: Space, kind: Kind, caplog: pytest.LogCaptureFixture
) -> None:
    async with app.client(space.url(kind)) as client, working(space.url(kind)) as (broker, _):
        await client.perform_async(wait, "a")
        await soon(lambda: runs == ["a"])
        home, engine = await broker._shared.work()
        for receiver in [*engine._consumers._receivers.values()]:
            # an acknowledgement of what was never delivered: the server closes the channel
            home.loop.call_soon_threadsafe(confuse, receiver)
        await soon(lambda: caplog.text.count("no longer came in") == len(BANDS))
        await client.perform_async(note, "b")
        await soon(lambda: "b" in runs)
        go.set()
    assert runs == ["a", "b"]
    assert await space.ready() == 0
    assert "connection to" not in caplog.text


def confuse(receiver: Receiver) -> None:
    receiver._wire.write(_frames.ack(receiver._channel.number, 999_999, multiple=False))


@dataclass
class Work:
    """What workers in several threads have to do."""

    stored: set[str] = field(default_factory=set[str])
    unknown: set[str] = field(default_factory=set[str])
    """Perhaps stored."""
    ended: set[str] = field(default_factory=set[str])
    harmed: bool = False
    over: bool = False
    """Whether nothing more is stored."""

    @property
    def is_over(self) -> bool:
        return self.over and self.ended >= self.stored

    async def store(self, broker: RmqBroker) -> None:
        """Jobs, for as long as harm is done, and one that comes after whatever was delivered again."""
        for number in count():
            last = self.harmed
            try:
                await put(broker, f"{number}")
            except BrokerUnavailable:
                self.unknown.add(f"{number}")
                await asyncio.sleep(0.01)
            else:
                self.stored.add(f"{number}")
                if last:
                    break
        self.over = True

    async def finish(self, broker: RmqBroker, worker: WorkerInfo) -> None:
        """Claim and finish jobs until all have ended, whoever did it."""
        resume, done, tried = 0, list[Done](), set[int]()
        async with broker:
            while not self.is_over:
                try:
                    beats = [Beat(outcome.id, outcome.epoch) for outcome in done]
                    await broker.heartbeat(worker, beats, 60, resume)
                    turn = await broker.turn(done, Claim(worker.id, ["default"], 20, resume=resume))
                except BrokerError:
                    tried.update(outcome.epoch for outcome in done)
                    await asyncio.sleep(0.01)
                    continue
                late = {token.epoch for token in turn.refused} - tried  # of those tried before, a part may be stored
                self.ended.update(outcome.id for outcome in done if outcome.epoch not in late)
                resume = max(resume, turn.resume)
                done = [Done(delivery.job.id, delivery.epoch) for delivery in turn.deliveries]


@both
async def test_workers_in_several_threads_finish_every_job_while_connections_are_lost(
    harmed: Space, patient: Node, kind: Kind
) -> None:
    work = Work()
    workers = [WorkerInfo(id=name, host="here", concurrency=20) for name in "abc"]
    async with RmqBroker(harmed.url(kind)) as broker, asyncio.TaskGroup() as group:
        for worker in workers:
            group.create_task(asyncio.to_thread(asyncio.run, work.finish(broker.twin(), worker)))
        group.create_task(work.store(broker))
        for _ in range(3):
            await asyncio.to_thread(patient.close_all_connections)
        work.harmed = True
    assert len(work.stored) > 100
    async with RmqBroker(harmed.url(kind)) as broker:
        assert set(await drain(broker)) <= work.unknown


async def test_a_turn_that_waits_for_nothing_does_not_wait_for_the_thread_of_the_connections(space: Space) -> None:
    async with RmqBroker(space.url()) as broker:
        await put(broker, "a", "b")
        await lease(broker)
        (first,) = (await claim(broker, limit=1)).deliveries
        home, _ = await broker._shared.work()
        free = threading.Event()
        home.soon(partial(free.wait, 60))
        try:
            async with asyncio.timeout(10):
                (second,) = (await claim(broker, Done(first.job.id, first.epoch), limit=1)).deliveries
        finally:
            free.set()
        assert second.job.id == "b"
        await claim(broker, Done(second.job.id, second.epoch), limit=0)
    async with RmqBroker(space.url()) as broker:
        assert await drain(broker) == []


async def test_turns_that_find_nothing_wake_nobody_who_waits_for_jobs(space: Space) -> None:
    async with RmqBroker(space.url()) as broker:
        assert await drain(broker) == []
        waiting = asyncio.create_task(broker.wait(["default"], 60))
        for _ in range(3):
            assert not (await claim(broker)).deliveries
        assert not waiting.done()
        await put(broker, "a")
        async with asyncio.timeout(10):
            await waiting


async def test_what_comes_through_a_receiver_that_was_given_up_is_not_claimed_but_comes_again(space: Space) -> None:
    async with RmqBroker(space.url()) as broker:
        assert await drain(broker) == []
        _, engine = await broker._shared.work()
        for receiver in engine._consumers._receivers.values():
            receiver.lose()
        await put(broker, "a")
        assert not (await claim(broker)).deliveries
    async with RmqBroker(space.url()) as broker:
        assert [one.job.id for one, _ in await collect(broker, 1)] == ["a"]
