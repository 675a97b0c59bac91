"""Dead jobs on a server that has only queues: replays that are cut short, what the server gives up, and order."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from jobq.broker import DeadLetters
from jobq.errors import BrokerUnavailable
from jobq.model import MAX_PEEK, Dead, DeadJob, Event, Failure, Happening, Trail
from jobq_rmq import RmqBroker
from jobq_rmq._topology import Kind
from tests.proxy import Proxy
from tests.rmq.node import Node
from tests.rmq.tools import KINDS, PATIENCE, WORKER, Space, claim, drain, envelope, lease, put, space_on, until

REPLAYER = Path(__file__).with_name("replayer.py")
TRAIL = Trail(3, None, Failure("ValueError", "no"), (Event(1.5, Happening.DEAD, "w", "ValueError: no"),))
GARBAGE = b"\xff\x00 no job"


@asynccontextmanager
async def opened(space: Space, kind: Kind) -> AsyncGenerator[tuple[RmqBroker, DeadLetters]]:
    async with RmqBroker(space.url(kind)) as broker:
        yield broker, broker.dead_letters


async def bury(broker: RmqBroker, *names: str) -> None:
    """Let these jobs die in this order."""
    await put(broker, *names)
    await lease(broker)
    left = set(names)
    while left:
        found = (await claim(broker, limit=len(names))).deliveries
        left -= {delivery.job.id for delivery in found}
        await claim(broker, *(Dead(delivery.job.id, delivery.epoch, TRAIL) for delivery in found), limit=0)
    await broker.heartbeat(WORKER, [], 0)  # what is ready stays on the server from now on


def numbers(count: int) -> list[str]:
    return [f"{number:04}" for number in range(count)]


def names(jobs: Sequence[DeadJob]) -> list[str]:
    return [dead.id for dead in jobs]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_process_that_is_killed_in_the_middle_of_a_replay_loses_no_job(space: Space, kind: Kind) -> None:
    async with opened(space, kind) as (broker, letters):
        await bury(broker, *numbers(40))
        command = [sys.executable, str(REPLAYER), space.url(kind)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as replayer:
            assert replayer.stdout is not None
            confirmed = int(await asyncio.to_thread(replayer.stdout.readline))
            replayer.kill()
        assert 0 < confirmed < 40
        await space.has("dead.default", 40)
        assert await space.ready() == confirmed
        assert await letters.replay("default") == 40
        ran = await drain(broker)
        assert (set(ran), len(ran)) == (set(numbers(40)), 40 + confirmed)


async def test_a_thousand_are_replayed_once_though_each_dies_again_meanwhile(space: Space) -> None:
    async with opened(space, "quorum") as (broker, letters):
        await bury(broker, *numbers(1000))
        await lease(broker)
        replay = asyncio.ensure_future(letters.replay("default"))
        dead_again = 0
        async with asyncio.timeout(2 * PATIENCE):
            while dead_again < 1000:
                found = (await claim(broker, limit=500)).deliveries
                outcomes = [Dead(one.job.id, one.epoch, one.trail) for one in found]
                await claim(broker, *outcomes, limit=0)
                dead_again += len(found)
                if not found:
                    await broker.wait(["default"], 0.05)
        assert await replay == 1000
        await space.has("dead.default", 1000)
        for dead in await letters.peek("default", MAX_PEEK):
            assert [event.what for event in dead.trail.history] == [Happening.DEAD, Happening.REPLAYED]


async def test_a_look_at_many_leaves_their_order(space: Space) -> None:
    async with opened(space, "quorum") as (broker, letters):
        await bury(broker, *numbers(120))
        expected = numbers(120)
        for _ in range(2):
            assert names(await letters.peek("default", MAX_PEEK)) == expected[:MAX_PEEK]
        assert await letters.replay("default", ids=["0110"]) == 1
        expected.remove("0110")
        assert names(await letters.pop("default", MAX_PEEK)) == expected[:MAX_PEEK]


@pytest.mark.parametrize("kind", KINDS)
async def test_what_is_popped_does_not_come_back(space: Space, kind: Kind) -> None:
    async with opened(space, kind) as (broker, letters):
        await bury(broker, *numbers(120))
        popped = names(await letters.pop("default", MAX_PEEK))
        rest = names(await letters.pop("default", MAX_PEEK))
        assert (len(popped), popped + rest) == (MAX_PEEK, numbers(120))
        assert await letters.count("default") == 0


@pytest.mark.parametrize("kind", KINDS)
async def test_bytes_that_are_no_job_are_counted_shown_and_replayed_byte_by_byte(space: Space, kind: Kind) -> None:
    async with opened(space, kind) as (broker, letters):
        assert await drain(broker) == []  # makes the queues
        await space.publish("jobs", "normal.default", GARBAGE, message_id="m")
        [found] = (await claim(broker)).deliveries
        await claim(broker, Dead(found.job.id, found.epoch, TRAIL), limit=0)
        assert await letters.count("default") == 1
        [dead] = await letters.peek("default", 10)
        assert (dead.id, dead.task, dead.envelope, dead.error) == ("m", "", GARBAGE, "ValueError: no")
        assert dead.malformed
        assert await letters.replay("default", ids=["m"]) == 1
        [again] = (await claim(broker)).deliveries
        assert again.malformed
        assert bytes(again.job.body) == GARBAGE
        await claim(broker, Dead("m", again.epoch, again.trail), limit=0)
        assert [dead.envelope for dead in await letters.pop("default", 10)] == [GARBAGE]


async def test_what_others_put_among_the_dead_hides_nothing(space: Space) -> None:
    async with opened(space, "classic") as (broker, letters):
        await bury(broker, "a")
        await space.publish("dlx", "default", b"")
        await space.publish(
            "dlx", "default", GARBAGE, headers={"x-death": "yes", "jobq-trail": "{", "jobq-crashes": "{"}
        )
        await space.publish("dlx", "default", envelope("b"), correlation_id="b", headers={"x-death": [1, {}]})
        looks = [names(await letters.peek("default", 10)) for _ in range(2)]
        assert looks[0] == looks[1]
        a, empty, garbage, b = await letters.peek("default", 10)
        assert (a.id, b.id, b.malformed, b.error, b.died) == ("a", "b", None, "", None)
        assert (empty.envelope, garbage.envelope) == (b"", GARBAGE)
        assert await letters.replay("default", ids=["a", "b", garbage.id]) == 3
        assert await letters.purge("default") == 1
        assert sorted(await drain(broker)) == sorted(["a", "b", garbage.id])


@pytest.mark.parametrize("kind", KINDS)
async def test_without_a_queue_there_are_no_dead_jobs(space: Space, kind: Kind) -> None:
    async with opened(space, kind) as (_, letters):
        assert await letters.count("nobody") == await letters.purge("nobody") == await letters.replay("nobody") == 0
        assert list(await letters.peek("nobody", 10)) == list(await letters.pop("nobody", 10)) == []


async def test_what_was_rejected_is_shown_with_the_servers_word_and_its_past(space: Space) -> None:
    async with opened(space, "quorum") as (broker, letters):
        await put(broker, "a")
        channel = await space.connection.channel()
        message = await channel.basic_get(f"{space.prefix}.normal.default")
        assert message.delivery_tag is not None
        await channel.basic_reject(message.delivery_tag, requeue=False)
        await space.has("dead.default", 1)
        [dead] = await letters.peek("default", 1)
        assert (dead.id, dead.reason, dead.error) == ("a", "rejected", "given up by the server: rejected")
        assert dead.died is not None
        assert await letters.replay("default") == 1
        await lease(broker)
        [back] = (await claim(broker)).deliveries
        assert [event.what for event in back.trail.history] == [Happening.REPLAYED]
        await claim(broker, Dead("a", back.epoch, TRAIL), limit=0)
        assert (await letters.peek("default", 1))[0].reason == ""


async def test_what_the_server_gives_up_by_its_own_limits_can_be_replayed(patient: Node) -> None:
    async with space_on(patient.url) as space, opened(space, "quorum") as (broker, letters):
        await put(broker, "a")
        await asyncio.to_thread(patient.limit, space.prefix, '{"delivery-limit":1}')
        await until(lambda: given_back(space, letters))
        [dead] = await letters.peek("default", 1)
        assert (dead.id, dead.reason) == ("a", "delivery_limit")
        assert await letters.replay("default") == 1
        assert await drain(broker) == ["a"]
    async with space_on(patient.url) as space, opened(space, "classic") as (broker, letters):
        await put(broker, "b", "c")
        await asyncio.to_thread(patient.limit, space.prefix, '{"max-length":1}')
        await space.has("dead.default", 1)
        [dead] = await letters.peek("default", 1)
        assert (dead.id, dead.reason) == ("b", "maxlen")


async def test_a_connection_that_breaks_in_the_middle_of_a_replay_loses_no_job(space: Space) -> None:
    login, _, place = space.server.removeprefix("amqp://").rstrip("/").rpartition("@")
    host, _, port = place.partition(":")
    async with Proxy(host, int(port)) as proxy:
        server = f"amqp://{login}@127.0.0.1:{proxy.port}/"
        async with RmqBroker(space.url("quorum", server, timeout=1)) as broker:
            await bury(broker, *numbers(100))
            for harm in (proxy.cut, proxy.blackhole):
                proxy.delay(10)
                before = await space.ready()
                replay = asyncio.ensure_future(broker.dead_letters.replay("default"))
                await until(partial(is_under_way, space, before, replay))
                harm()
                with suppress(BrokerUnavailable):
                    await replay
                proxy.heal()
    async with opened(space, "quorum") as (broker, letters):
        ran = set(await drain(broker))
        assert ran
        await until(lambda: are_dead(letters, set(numbers(100)) - ran))


async def is_under_way(space: Space, before: int, replay: "asyncio.Future[int]") -> bool:
    return replay.done() or await space.ready() > before


async def are_dead(letters: DeadLetters, names: set[str]) -> bool:
    return names <= {dead.id for dead in await letters.peek("default", MAX_PEEK)}


async def given_back(space: Space, letters: DeadLetters) -> bool:
    """Take what is ready and refuse it; whether that was once too often."""
    channel = await space.connection.channel()
    message = await channel.basic_get(f"{space.prefix}.normal.default")
    if message.delivery_tag is not None:
        await channel.basic_reject(message.delivery_tag, requeue=True)
    await channel.close()
    return await letters.count("default") == 1
