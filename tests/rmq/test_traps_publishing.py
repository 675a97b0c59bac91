"""Traps for publishers: nothing is stored that is not said to be, nothing is said that is not so, and nothing hangs."""

import asyncio
import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from jobq.errors import BrokerError, BrokerFull, BrokerRefused, BrokerUnavailable, OutcomeUnknown
from jobq.model import Stamp
from jobq_rmq import RmqBroker, _messages
from jobq_rmq._messages import Message
from jobq_rmq._publisher import Publisher
from jobq_rmq._topology import Kind
from jobq_rmq._url import parse
from tests.proxy import Proxy
from tests.rmq.node import Node
from tests.rmq.tools import KINDS, Space, collect, drain, job, put, space_on, stored_at_last

READY = ("high.default", "normal.default", "low.default")
both = pytest.mark.parametrize("kind", KINDS)


@asynccontextmanager
async def publishing(space: Space, kind: Kind = "classic", server: str = "") -> AsyncGenerator[Publisher]:
    target = parse(space.url(kind, server))
    publisher = Publisher(target, space.topology(kind))
    await publisher.open()
    try:
        yield publisher
    finally:
        await publisher.close()


def good(space: Space, job_id: str) -> Message:
    return _messages.new(space.topology(), job(job_id), 0)


def lost(space: Space, job_id: str) -> Message:
    """One that no queue takes, however often its own is made."""
    return replace(good(space, job_id), key="nowhere")


@both
async def test_a_queue_that_was_deleted_is_made_again_and_the_job_is_stored(space: Space, kind: Kind) -> None:
    async with RmqBroker(space.url(kind)) as broker:
        await put(broker, "a")
        await space.delete(*READY, "dead.default")
        await put(broker, "b")
        await put(broker, "late", delay=0.1)
        assert [delivery.job.id for delivery, _ in await collect(broker, 2)] == ["b", "late"]


async def test_an_unroutable_job_is_an_error_if_its_queue_cannot_be_made_again(space: Space) -> None:
    async with RmqBroker(space.url()) as broker:
        await put(broker, "a")
        await space.delete("normal.default")
        channel = await space.connection.channel()
        await channel.queue_declare(f"{space.prefix}.normal.default", durable=True, arguments={"x-max-length": 5})
        with pytest.raises(BrokerRefused, match=r"x-max-length|x-dead-letter-exchange"):
            await put(broker, "b")
        assert await space.ready() == 0


async def test_a_message_that_no_queue_takes_is_an_error_beside_others_that_are_stored(space: Space) -> None:
    async with publishing(space) as publisher:
        results = await publisher.publish([good(space, "a"), lost(space, "b"), good(space, "c")])
    assert [type(result) is BrokerUnavailable or result for result in map(plain, results)] == [None, True, None]
    assert await space.ready() == 2


def plain(result: BrokerError | None) -> BrokerError | None:
    """An error as one of the classes that callers know."""
    if result is None or isinstance(result, OutcomeUnknown):
        return result
    assert isinstance(result, BrokerUnavailable)
    return BrokerUnavailable(str(result))


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_tiny_timeouts_among_unroutable_messages_hang_nothing(space: Space, seed: int) -> None:
    chance = random.Random(seed)
    host, _, port = space.server.rpartition("@")[2].strip("/").partition(":")
    async with (
        Proxy(host, int(port)) as proxy,
        publishing(space, server=f"amqp://guest:guest@127.0.0.1:{proxy.port}/") as publisher,
    ):

        async def one(number: int) -> BrokerError | None:
            publisher._target = replace(publisher._target, timeout=chance.uniform(0.003, 0.01))
            message = (lost if chance.random() < 0.3 else good)(space, f"{number}")
            try:
                return (await publisher.publish([message]))[0]
            except BrokerError as exc:
                return exc

        assert await publisher.publish([good(space, "first")]) == [None]
        proxy.delay(3)
        async with asyncio.timeout(20):
            results: list[BrokerError | None] = []
            for start in range(0, 700, 100):
                results += await asyncio.gather(*(one(number) for number in range(start, start + 100)))
            assert any(isinstance(result, OutcomeUnknown) for result in results)
            publisher._target = replace(publisher._target, timeout=10)
            assert await publisher.publish([good(space, "last")]) == [None]
    stored = sum(result is None for result in results)
    assert await space.ready() >= stored + 2


async def test_two_publishes_of_one_job_are_not_mixed_up(space: Space) -> None:
    async with publishing(space) as publisher:
        for number in range(5):
            pair = [lost(space, f"{number}"), good(space, f"{number}")]
            (bad,), (fine,) = await asyncio.gather(*(publisher.publish([message]) for message in pair))
            assert isinstance(bad, BrokerUnavailable)
            assert fine is None
    assert await space.ready() == 5


@both
async def test_a_mistake_in_one_publish_costs_the_others_nothing_but_a_repetition(space: Space, kind: Kind) -> None:
    async with publishing(space, kind) as publisher:

        async def stored(message: Message) -> None:
            while True:
                try:
                    (result,) = await publisher.publish([message])
                except BrokerUnavailable:
                    continue
                if result is None:
                    return

        messages = [good(space, f"{number}") for number in range(50)]
        mistakes = [replace(message, exchange=f"{space.prefix}.no-such-exchange") for message in messages[::10]]
        async with asyncio.timeout(20):
            results, _ = await asyncio.gather(publisher.publish(mistakes), asyncio.gather(*map(stored, messages)))
        assert all(isinstance(result, BrokerUnavailable) for result in results)
    async with RmqBroker(space.url(kind)) as broker:
        assert set(await drain(broker)) == {f"{number}" for number in range(50)}


@both
async def test_an_exchange_that_was_deleted_is_made_again(space: Space, kind: Kind) -> None:
    async with RmqBroker(space.url(kind)) as broker:
        await put(broker, "a")
        channel = await space.connection.channel()
        await channel.exchange_delete(f"{space.prefix}.jobs")
        await stored_at_last(broker, "b")
        await put(broker, "c", delay=0.1)
        await channel.exchange_delete(f"{space.prefix}.delay.{kind}.v1.00")
        await stored_at_last(broker, "d", delay=0.1)
        assert {delivery.job.id for delivery, _ in await collect(broker, 4)} == {"a", "b", "c", "d"}


async def test_a_call_that_is_repeated_after_all_was_stored_stores_nothing_more(space: Space) -> None:
    async with RmqBroker(space.url()) as broker:
        for _ in range(2):
            assert [answer.id for answer in await broker.enqueue([job("a")], Stamp("c", 1))] == ["a"]
        assert await drain(broker) == ["a"]


async def test_a_publish_during_a_lost_connection_waits_for_the_next_one(patient: Node) -> None:
    async with space_on(patient.url) as space, RmqBroker(space.url()) as broker:
        await put(broker, "a")
        await asyncio.to_thread(patient.close_all_connections)
        await stored_at_last(broker, "b")
        assert set(await drain(broker)) == {"a", "b"}


async def fill(broker: RmqBroker) -> None:
    """Enqueue more than there is room for: a quorum queue takes some that it has no room for."""
    for number in range(5):
        await put(broker, f"b{number}")


@pytest.mark.parametrize("kind", KINDS)
async def test_a_full_queue_is_told_and_takes_jobs_when_there_is_room_again(patient: Node, kind: Kind) -> None:
    async with space_on(patient.url) as space, RmqBroker(space.url(kind)) as broker:
        await put(broker, "a")
        await asyncio.to_thread(patient.limit, space.prefix, '{"max-length":1,"overflow":"reject-publish"}')
        with pytest.raises(BrokerFull):
            await fill(broker)
        assert (await drain(broker))[0] == "a"
        await put(broker, "c")
        assert await drain(broker) == ["c"]


async def test_a_channel_on_which_the_server_falls_silent_is_given_up(patient: Node) -> None:
    async with space_on(patient.url) as space, RmqBroker(space.url("quorum", timeout=1)) as broker:
        async with RmqBroker(space.url("quorum")) as other:
            await stored_at_last(other, "a", delay=0.01)  # makes all queues, which may take more than a second
        await put(broker, "warm")
        silence = patient.silence()
        await asyncio.to_thread(silence.__enter__)
        try:
            with pytest.raises(OutcomeUnknown):
                await put(broker, "b")
            await put(broker, "c")
            await put(broker, "d", delay=0.1)
        finally:
            await asyncio.to_thread(silence.__exit__, None, None, None)
        left = {"a", "warm", "c", "d"}  # "b" may come as well
        async with asyncio.timeout(20):
            while left:
                left -= {one.job.id for one, _ in await collect(broker, 1)}


@pytest.mark.timeout(120)
async def test_confirmed_jobs_survive_a_kill_of_their_server(patient: Node) -> None:
    now, late = [f"{number}" for number in range(100)], [f"late {number}" for number in range(20)]
    async with space_on(patient.url) as first, space_on(patient.url) as second:
        urls = [first.url("classic"), second.url("quorum")]
        for url in urls:
            async with RmqBroker(url) as broker:
                await put(broker, "warm", delay=0.1)
                await collect(broker, 1)
        async with RmqBroker(urls[0]) as classic, RmqBroker(urls[1]) as quorum:
            for broker in (classic, quorum):
                await put(broker, *late, delay=1)
                await put(broker, *now)
            patient.server.kill()
        patient.server.start()
        for url in urls:
            async with RmqBroker(url) as broker:
                found = [delivery.job.id for delivery, _ in await collect(broker, 120)]
            assert sorted(found) == sorted(now + late)


async def test_of_the_addresses_the_one_that_answers_is_used(space: Space) -> None:
    host = space.server.removeprefix("amqp://").rstrip("/")
    login, _, place = host.rpartition("@")
    dead = ",".join("127.0.0.1:1" for _ in range(3))
    async with RmqBroker(space.url(server=f"amqp://{login}@{dead},{place}/")) as broker:
        await put(broker, "a")
        assert await drain(broker) == ["a"]
