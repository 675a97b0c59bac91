"""Traps on the way to a server: what is there already, which address answers, and when to come back."""

import random
from itertools import accumulate, islice

import pytest

from jobq.errors import BrokerRefused
from jobq_rmq import RmqBroker
from jobq_rmq._link import pauses
from tests.proxy import Proxy
from tests.rmq.tools import Space, claim, collect, drain, envelope, lease, put, stored_at_last


async def test_a_queue_of_the_other_type_is_named_with_both_types_and_ways_out(space: Space) -> None:
    async with RmqBroker(space.url("classic")) as broker:
        await put(broker, "a")
    with pytest.raises(BrokerRefused) as caught:
        async with RmqBroker(space.url("quorum")):
            pass
    text = str(caught.value)
    for part in (f"{space.prefix}.unroutable", "x-queue-type", "'quorum'", "'classic'", "?type=", "?prefix=", "delete"):
        assert part in text


async def test_a_queue_with_other_arguments_is_told_to_who_enqueues_and_who_works(space: Space) -> None:
    async with RmqBroker(space.url()) as broker:
        channel = await space.connection.channel()
        await channel.queue_declare(f"{space.prefix}.high.default", durable=True, arguments={"x-max-length": 5})
        with pytest.raises(BrokerRefused, match=r"high\.default.*\?prefix="):
            await put(broker, "a")
        await lease(broker)
        with pytest.raises(BrokerRefused, match=r"high\.default.*\?prefix="):
            await claim(broker)
        await space.delete("high.default")
        await put(broker, "a")
        assert await drain(broker) == ["a"]


async def test_a_queue_that_is_missing_when_it_is_looked_into_costs_nothing(space: Space) -> None:
    async with RmqBroker(space.url()) as broker:
        await put(broker, "a")
        assert await drain(broker) == ["a"]
        await space.delete("high.default", "normal.default", "low.default", "dead.default")
        await drain(broker)  # looks into the queues of which it may not know yet that they are gone
        await put(broker, "b")
        assert [one.job.id for one, _ in await collect(broker, 1)] == ["b"]


async def test_of_two_addresses_the_other_is_used_when_one_is_gone(space: Space) -> None:
    login, _, place = space.server.removeprefix("amqp://").rstrip("/").rpartition("@")
    host, _, port = place.partition(":")
    async with Proxy(host, int(port)) as first, Proxy(host, int(port)) as second:
        both_of_them = f"amqp://{login}@127.0.0.1:{first.port},127.0.0.1:{second.port}/"
        async with RmqBroker(space.url(server=both_of_them)) as broker:
            for number, gone in enumerate((first, second)):
                gone.refuse()
                await lease(broker)
                await stored_at_last(broker, f"{number}")
                assert f"{number}" in [one.job.id for one, _ in await collect(broker, 1)]
                gone.heal()


async def test_messages_without_an_id_are_all_run(space: Space) -> None:
    async with RmqBroker(space.url()) as broker:
        assert await drain(broker) == []
        for number in range(3):
            await space.publish("jobs", "normal.default", envelope(f"{number}"), correlation_id=f"{number}")
        assert sorted(await drain(broker)) == ["0", "1", "2"]


def test_clients_that_were_cut_off_together_come_back_apart() -> None:
    random.seed(17)
    attempts = list(zip(*(islice(accumulate(pauses()), 12) for _ in range(50)), strict=True))
    for number, moments in enumerate(attempts):
        longest = min(0.1 * 2**number, 30)
        assert max(moments) - min(moments) > longest / 2
        crowd = max(sum(at <= other < at + longest / 10 for other in moments) for at in moments)
        assert crowd <= 20
    assert all(0 <= pause <= 30 for pause in islice(pauses(), 100))
