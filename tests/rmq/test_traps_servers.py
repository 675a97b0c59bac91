"""Traps on the way to a server: what is there already, which address answers, and when to come back."""

import random
from itertools import accumulate, islice

import pytest
from aiormq.exceptions import ChannelNotFoundEntity, ChannelPreconditionFailed
from pamqp.common import FieldValue

from jobq.errors import BrokerRefused, BrokerUnavailable
from jobq_rmq import RmqBroker
from jobq_rmq._errors import undeclared
from jobq_rmq._link import pauses
from jobq_rmq._topology import Binding, Kind, Queue
from jobq_rmq._url import parse
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


@pytest.mark.parametrize(
    ("argument", "value", "has"),
    [
        ("x-max-length", 5, "with the x-max-length '5', and not with no x-max-length"),
        ("x-message-ttl", 60_000, "with the x-message-ttl '60000', and not with no x-message-ttl"),
        (
            "x-dead-letter-exchange",
            "theirs",
            "with the x-dead-letter-exchange 'theirs', and not with the x-dead-letter",
        ),
    ],
)
async def test_an_argument_that_differs_is_named_with_both_values_and_ways_out(
    space: Space, argument: str, value: FieldValue, has: str
) -> None:
    name = f"{space.prefix}.low.default"
    channel = await space.connection.channel()
    async with RmqBroker(space.url()) as broker:
        await put(broker, "a")
    await space.delete("low.default")
    for entity in space.topology().of_queue("default"):
        if isinstance(entity, Queue) and entity.name == name:
            await channel.queue_declare(name, durable=True, arguments=entity.arguments | {argument: value})
        elif isinstance(entity, Binding) and entity.target == name:
            await channel.queue_bind(name, entity.source, routing_key=entity.key)
    async with RmqBroker(space.url()) as broker:
        with pytest.raises(BrokerRefused) as caught:
            await put(broker, "b")
    for part in (f"has the queue '{name}' {has}", "?declare=no", "?prefix=", "drain and delete"):
        assert part in str(caught.value)
    async with RmqBroker(space.url(declare="no")) as broker:
        await put(broker, "c", priority=0)
        assert sorted(one.job.id for one, _ in await collect(broker, 2)) == ["a", "c"]


async def test_an_exchange_of_another_type_is_named_with_both_types_and_ways_out(space: Space) -> None:
    name = space.topology().jobs
    channel = await space.connection.channel()
    await channel.exchange_declare(name, exchange_type="fanout", durable=True)
    with pytest.raises(BrokerRefused) as caught:
        async with RmqBroker(space.url()):
            pass
    for part in (f"has the exchange '{name}' with the type 'fanout', and not with the type 'direct'", "?prefix="):
        assert part in str(caught.value)
    assert "?declare=no" not in str(caught.value)  # it would send each job to all queues


@pytest.mark.parametrize("kind", ["quorum", "classic"])
async def test_of_two_types_the_one_that_is_there_is_the_way_out(space: Space, kind: Kind) -> None:
    other: Kind = "classic" if kind == "quorum" else "quorum"
    async with RmqBroker(space.url(kind)):
        pass
    with pytest.raises(
        BrokerRefused, match=rf"the x-queue-type '{kind}', and not .*'{other}'\. Ways out: .*\?type={kind}"
    ):
        async with RmqBroker(space.url(other)):
            pass


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


@pytest.mark.parametrize(
    "said",
    [
        "PRECONDITION_FAILED - inequivalent arg 'x-dead-letter-exchange' for queue 'cut off by the server: 255 by",
        "PRECONDITION_FAILED - invalid arg 'x-queue-type' for queue 'q' in vhost '/': \"stream\"",
        "",
    ],
)
def test_a_mismatch_in_words_that_are_not_known_is_told_in_these(said: str) -> None:
    error = undeclared(ChannelPreconditionFailed(said), parse("amqp://u:secret@h"))
    assert isinstance(error, BrokerRefused)
    for part in (said, "amqp://u:***@h", "?prefix=", "drain and delete"):
        assert part in str(error)


def test_a_queue_whose_node_is_down_is_not_called_missing() -> None:
    down = ChannelNotFoundEntity(
        "NOT_FOUND - home node 'x@y' of durable queue 'q' in vhost '/' is down or inaccessible"
    )
    for url in ("amqp://h", "amqp://h?declare=no"):
        assert type(undeclared(down, parse(url))) is BrokerUnavailable


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
        longest = min(0.1 * 2**number, 5)
        assert max(moments) - min(moments) > longest / 2
        crowd = max(sum(at <= other < at + longest / 10 for other in moments) for at in moments)
        assert crowd <= 20
    assert all(0 <= pause <= 5 for pause in islice(pauses(), 100))
