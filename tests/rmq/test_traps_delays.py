"""Traps on the way of delayed jobs: none early, none late, none lost, none twice, and none in another queue."""

import asyncio
import random
import time

import pytest
from aiormq.abc import DeliveredMessage

from jobq.model import Again, Outcome, Trail
from jobq_rmq import RmqBroker
from jobq_rmq._topology import Kind
from tests.proxy import Proxy
from tests.rmq.tools import KINDS, Space, claim, collect, drain, envelope, lease, put, stored_at_last

both = pytest.mark.parametrize("kind", KINDS)
LATE = 0.5
"""Seconds after which a job is late: the unit, the hops, and a busy machine."""


@both
async def test_a_job_that_is_retried_thirty_times_arrives_thirty_times(space: Space, kind: Kind) -> None:
    async with RmqBroker(space.url(kind)) as broker:
        await put(broker, "a", "b")
        await lease(broker)
        attempts = {"a": 0, "b": 0}
        outcomes: list[Outcome] = []
        async with asyncio.timeout(30):
            while sum(attempts.values()) < 60:
                deliveries = (await claim(broker, *outcomes)).deliveries
                outcomes = []
                for one in deliveries:
                    assert one.trail.attempt == attempts[one.job.id]
                    attempts[one.job.id] += 1
                    delay = 0.125 if one.job.id == "a" else 0.01  # rounded up: through the same level each time
                    outcomes.append(Again(one.job.id, one.epoch, Trail(attempt=attempts[one.job.id]), delay))
                if not deliveries:
                    await broker.wait(["default"], 0.05)
        assert attempts == {"a": 30, "b": 30}
        again = [Again(outcome.id, outcome.epoch, Trail(attempt=31)) for outcome in outcomes]
        await claim(broker, *again, limit=0, queues=())
    await space.has("normal.default", 2)
    channel = await space.connection.channel()
    message: DeliveredMessage = await channel.basic_get(f"{space.prefix}.normal.default")
    assert set(message.header.properties.headers or ()) - counted(kind) == {"jobq-trail"}


def counted(kind: Kind) -> set[str]:
    """What the server itself may add: before RabbitMQ 4.0, quorum queues count a message that was given back."""
    return {"x-delivery-count"} if kind == "quorum" else set()


@both
async def test_a_delayed_job_arrives_in_its_own_queue_and_in_none_whose_name_ends_alike(
    space: Space, kind: Kind
) -> None:
    space.queues |= {"a", "b.a"}
    async with RmqBroker(space.url(kind)) as broker:
        await put(broker, "in a", queue="a", delay=0.2)
        await put(broker, "in b.a", queue="b.a", delay=0.2)
        found = await collect(broker, 2, queues=["a", "b.a"])
        assert sorted((one.job.id, one.job.queue) for one, _ in found) == [("in a", "a"), ("in b.a", "b.a")]
        assert not await drain(broker, "a", "b.a")
    assert await space.ready("unroutable") == 0


@both
async def test_delayed_jobs_of_a_deleted_queue_are_parked_and_stop_no_others(space: Space, kind: Kind) -> None:
    space.queues.add("gone")
    async with RmqBroker(space.url(kind)) as broker:
        await put(broker, "warm", delay=0.01)
        await collect(broker, 1)
        await put(broker, *(f"bad {number}" for number in range(40)), queue="gone", delay=1)
        await space.delete("high.gone", "normal.gone", "low.gone")
        due = time.time() + 1.1
        await put(broker, *(f"good {number}" for number in range(5)), delay=1.1)
        found = await collect(broker, 5)
        assert all(0 <= at - due < LATE + 0.1 for _, at in found)
    await space.has("unroutable", 40)


@both
async def test_a_job_that_comes_too_early_is_not_run_before_it_is_due(space: Space, kind: Kind) -> None:
    async with RmqBroker(space.url(kind)) as broker:
        await put(broker, "warm", delay=0.01)  # makes the queues and the ladder
        await collect(broker, 1)
        due = time.time() + 1
        headers = {"jobq-eta": repr(due)}
        await space.publish(
            "jobs", "normal.default", envelope("early"), headers=headers, correlation_id="early", message_id="m"
        )
        ((one, at),) = await collect(broker, 1)
        assert one.job.id == "early"
        assert -0.05 <= at - due < LATE + 0.1


@pytest.mark.parametrize("eta", ["nan", "inf", "-inf", "1e300", "soon", 5])
async def test_an_eta_that_somebody_invented_stops_no_others(space: Space, eta: object) -> None:
    async with RmqBroker(space.url()) as broker:
        assert not await drain(broker)
        properties = {"headers": {"jobq-eta": eta}, "correlation_id": "x"}
        await space.publish("jobs", "normal.default", envelope("x"), **properties)
        await put(broker, "good")
        assert "good" in await drain(broker)


async def test_a_ladder_that_takes_longer_to_make_than_a_call_may_take_is_there_in_the_end(space: Space) -> None:
    login, _, place = space.server.removeprefix("amqp://").rstrip("/").rpartition("@")
    host, _, port = place.partition(":")
    async with Proxy(host, int(port)) as far:
        far.delay(10)
        async with RmqBroker(space.url(server=f"amqp://{login}@127.0.0.1:{far.port}/", timeout=1)) as broker:
            await put(broker, "makes its queue")
            await stored_at_last(broker, "a", delay=0.1)
            assert {one.job.id for one, _ in await collect(broker, 2)} == {"makes its queue", "a"}


@both
async def test_delays_are_kept_to_the_moment(space: Space, kind: Kind) -> None:
    chance = random.Random(5)
    delays = {f"{number}": chance.uniform(0.2, 5) for number in range(300)}
    async with RmqBroker(space.url(kind)) as broker:
        await put(broker, "warm", delay=0.01)
        await collect(broker, 1)
        due: dict[str, float] = {}

        async def put_all() -> None:
            for job_id, delay in delays.items():
                due[job_id] = time.time() + delay
                await put(broker, job_id, delay=delay)

        found, _ = await asyncio.gather(collect(broker, 300), put_all())
        assert not await drain(broker)
    assert sorted(one.job.id for one, _ in found) == sorted(delays)
    late = sorted(at - due[one.job.id] for one, at in found)
    assert late[0] >= 0
    assert late[280] <= LATE  # the others have to do with a machine that is busy with something else
    assert late[-1] <= 4 * LATE
