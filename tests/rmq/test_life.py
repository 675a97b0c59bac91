"""Opening and closing, also by several at once, and the loop that the connections live on."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from jobq.errors import BrokerUnavailable, OutcomeUnknown
from jobq.model import Delivery, Done, Job, Stamp
from jobq_rmq import RmqBroker
from jobq_rmq._home import Home
from tests.rmq.node import Node
from tests.rmq.tidy import Namespace
from tests.rmq.tools import claim, lease, put, soon, space_on, until
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


async def test_what_was_not_claimed_when_the_connection_was_lost_is_not_charged(
    patient: Node, caplog: pytest.LogCaptureFixture
) -> None:
    async with space_on(patient.url) as space, RmqBroker(space.url()) as broker:
        await put(broker, "a", "b", "c")
        await lease(broker)
        a, *_ = (await claim(broker, limit=1)).deliveries
        await asyncio.to_thread(patient.close_all_connections)
        await soon(lambda: "the consuming connection" in caplog.text)
        found = list[Delivery]()

        async def are_back() -> bool:
            with suppress(BrokerUnavailable):
                found.extend((await claim(broker)).deliveries)
            return len(found) == 2

        await until(are_back)
        assert [(delivery.job.id, delivery.crashes) for delivery in found] == [("b", ()), ("c", ())]
        assert not (await claim(broker, Done("a", a.epoch))).refused


async def test_what_is_under_way_when_its_loop_ends_is_unknown() -> None:
    home = Home()
    call = asyncio.ensure_future(home.call(asyncio.sleep(60)))
    await home.call(asyncio.sleep(0))
    await home.close()
    with pytest.raises(OutcomeUnknown):
        await call
