"""Opening and closing, also by several at once, and the loop that the connections live on."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import partial

import pytest

from jobq.errors import BrokerUnavailable, OutcomeUnknown
from jobq.model import Job, Stamp
from jobq_rmq import RmqBroker
from jobq_rmq._home import Home
from jobq_rmq._link import end
from tests.rmq.tidy import Namespace
from tests.servers import free_port


@pytest.fixture
async def broker(rabbitmq_url: str) -> AsyncIterator[RmqBroker]:
    namespace = Namespace(rabbitmq_url, f"life-{os.getpid()}", "classic")
    yield namespace.broker()
    await namespace.clear()
    await namespace.delete()


async def use(broker: RmqBroker, name: str) -> None:
    async with broker:
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
