"""Opening and closing, also by several at once, and the loop that the connections live on."""

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import partial

import pytest

from jobq import App, Client
from jobq.errors import BrokerUnavailable, OutcomeUnknown
from jobq.model import Job, Stamp
from jobq_rmq import RmqBroker
from jobq_rmq._home import Home
from jobq_rmq._link import end
from tests.rmq.tidy import Namespace
from tests.rmq.tools import collect, lease, put, space_on
from tests.servers import free_port

app = App()


@app.task
async def nothing() -> None:
    pass


@pytest.fixture
async def broker(rabbitmq_url: str) -> AsyncIterator[RmqBroker]:
    namespace = Namespace(rabbitmq_url, f"life-{os.getpid()}", "classic")
    yield namespace.broker()
    await namespace.clear()
    await namespace.delete()


async def use(broker: RmqBroker, name: str) -> None:
    async with broker:
        await use_entered(broker, name)


async def use_entered(broker: RmqBroker, name: str) -> None:
    await broker.enqueue([Job(id=name, task="t")], Stamp(name, 1))


async def test_several_may_enter_and_leave_at_once(broker: RmqBroker) -> None:
    await asyncio.gather(*(use(broker, f"{number}") for number in range(5)))


async def test_a_twin_on_another_loop_may_enter_and_leave_meanwhile(broker: RmqBroker) -> None:
    twin = broker.twin()
    await asyncio.gather(use(broker, "a"), asyncio.to_thread(asyncio.run, use(twin, "b")))


async def test_who_enters_with_others_in_vain_may_try_again() -> None:
    broker = RmqBroker(f"amqp://127.0.0.1:{free_port()}")
    for _ in range(2):
        errors = await asyncio.gather(*(use(broker, "a") for _ in range(3)), return_exceptions=True)
        assert [type(error) for error in errors] == [BrokerUnavailable] * 3


async def test_who_loses_a_cancellation_is_ended_all_the_same() -> None:
    waiting, lost = asyncio.Event(), asyncio.Event()

    async def lose_one() -> None:
        with suppress(asyncio.CancelledError):
            waiting.set()
            await asyncio.Event().wait()
        lost.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(lose_one())
    await waiting.wait()
    async with asyncio.timeout(10):
        await end(task)
    assert lost.is_set()
    assert task.cancelled()


async def test_what_is_under_way_when_its_loop_ends_is_unknown() -> None:
    home = Home()
    call = asyncio.ensure_future(home.call(partial(asyncio.sleep, 60)))
    await home.call(partial(asyncio.sleep, 0))
    await home.close()
    with pytest.raises(OutcomeUnknown):
        await call


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "jobq-rmq"]


async def test_who_only_enqueues_has_no_thread_and_a_worker_has_one(broker: RmqBroker) -> None:
    async with broker:
        await put(broker, "a")
        assert not threads()
        await lease(broker)
        await put(broker, "b")
        assert len(threads()) == 1
        assert {delivery.job.id for delivery, _ in await collect(broker, 2)} == {"a", "b"}
    assert not threads()


async def test_what_is_under_way_when_its_broker_begins_to_work_is_stored(broker: RmqBroker) -> None:
    async with broker:
        early = [asyncio.ensure_future(use_entered(broker, f"{number}")) for number in range(20)]
        await asyncio.sleep(0)
        await lease(broker)
        await asyncio.gather(*early)
        assert len(await collect(broker, 20)) == 20


async def test_a_broker_with_a_twin_does_not_depend_on_a_loop_that_may_be_blocked(broker: RmqBroker) -> None:
    broker.twin()
    async with broker:
        await put(broker, "a")
        assert len(threads()) == 1


async def test_an_enqueue_goes_on_when_its_caller_is_cancelled(broker: RmqBroker) -> None:
    async with broker:
        # to a queue that is not there yet, so that several answers have to be waited for
        call = asyncio.ensure_future(broker.enqueue([Job(id="a", task="t", queue="new")], Stamp("s", 1)))
        await asyncio.sleep(0)
        call.cancel()
        await asyncio.wait([call])
        assert call.cancelled()
        (delivery, _) = (await collect(broker, 1, queues=["new"]))[0]
        assert delivery.job.id == "a"


async def test_an_enqueue_that_is_under_way_when_its_broker_is_left_is_unknown(broker: RmqBroker) -> None:
    async with broker:
        call = asyncio.ensure_future(broker.enqueue([Job(id="a", task="t", queue="new")], Stamp("s", 1)))
        await asyncio.sleep(0)
    with pytest.raises(OutcomeUnknown):
        await call


async def test_a_client_whose_loop_was_blocked_for_several_heartbeats_enqueues_again(rabbitmq_url: str) -> None:
    async with space_on(rabbitmq_url) as space, Client(space.url(heartbeat=1)) as client:
        await client.perform_async(nothing)
        time.sleep(3.5)
        await client.perform_async(nothing)
        await space.has("normal.default", 2)
