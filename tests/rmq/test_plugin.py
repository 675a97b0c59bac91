"""Delays by the plug-in: what is sent to it, and that it is refused where it cannot serve.

A server that has the plug-in is not to be had from Debian: what needs one runs where a variable names it.
"""

import math
import os
import random
import re
import time
from collections.abc import AsyncIterator

import pytest
from aiormq.exceptions import ChannelNotFoundEntity
from hypothesis import example, given
from hypothesis import strategies as st

from jobq.errors import BrokerRefused
from jobq.model import Again, Outcome, Trail
from jobq_rmq import RmqBroker, _delay, _frames, _messages, _properties
from jobq_rmq._messages import Message, Stored
from jobq_rmq._plugin import check_version
from jobq_rmq._topology import BANDS, Kind, Topology
from tests.rmq.test_delay import World
from tests.rmq.tools import KINDS, Space, claim, collect, drain, envelope, job, lease, put, space_on

TOPOLOGY = Topology("p", "quorum", "plugin")
LONGEST = 4_294_967.295
"""Seconds that the plug-in can hold a message."""
INSTALL = "rabbitmq-plugins enable rabbitmq_delayed_message_exchange"
VARIABLE = "JOBQ_TEST_RMQ_PLUGIN_URL"
both = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
async def delaying() -> AsyncIterator[Space]:
    """A prefix of the test's own on a server that has the plug-in."""
    url = os.environ.get(VARIABLE)
    if not url:
        pytest.skip(f"{VARIABLE} names no server with the plug-in for delayed messages")
    async with space_on(url) as space:
        yield space


def delayed(delay: float) -> Message:
    return _messages.new(TOPOLOGY, job("j", queue="mail"), delay)


@given(st.floats(0, LONGEST, exclude_min=True))
@example(LONGEST)
@example(math.nextafter(0, 1))
@example(0.1 + 0.2)
def test_the_plug_in_waits_for_whole_milliseconds_and_never_too_few(delay: float) -> None:
    wait = delayed(delay).headers["x-delay"]
    assert type(wait) is int  # any other number is delivered at once
    assert 1 <= wait <= (1 << 32) - 1
    assert -1e-5 <= wait - delay * 1000 <= 1


@pytest.mark.parametrize("delay", [LONGEST + 0.001, 1e7, _delay.LONGEST, 1e11, math.inf])
def test_what_is_too_long_for_the_plug_in_goes_by_the_ladder(delay: float) -> None:
    message = delayed(delay)
    assert message.exchange.startswith("p.delay.quorum.v1.")
    assert (message.levels, message.mandatory) == (True, True)
    assert "x-delay" not in message.headers


def test_the_plug_in_gets_messages_that_are_persistent_and_not_mandatory_and_say_when_they_are_due() -> None:
    message = delayed(5)
    assert (message.exchange, message.levels, message.mandatory) == ("p.delayed.quorum", False, False)
    assert message.headers.keys() == {"x-delay", "jobq-eta"}
    assert float(message.headers["jobq-eta"]) == pytest.approx(time.time() + 5, abs=1)
    read = _properties.read(_frames.properties(message))
    assert read.headers == message.headers


def test_what_is_due_goes_to_its_queue_and_never_with_the_delay_of_its_last_time() -> None:
    assert (delayed(0).exchange, delayed(0).mandatory) == ("p.jobs", True)
    old = Stored("j", "mail", 2, envelope("j"))
    for message in (
        _messages.again(TOPOLOGY, old, queue="mail", trail=Trail(attempt=1), delay=0),
        _messages.copy(TOPOLOGY, old),
        _messages.dead(TOPOLOGY, old, Trail()),
    ):
        assert "x-delay" not in message.headers


@both
def test_what_the_plug_in_lets_go_ends_in_its_own_queue_or_among_the_unroutable(kind: Kind) -> None:
    names = ["a", "b.a", "high.a"]
    topology, world = Topology("p", kind, "plugin"), World(names, kind, "plugin")
    for queue in names:
        for band in BANDS:
            key = _delay.key(0, topology.destination(queue, band))
            assert world.walk(topology.delayed, key) == ({topology.ready(queue, band)}, 0)
    assert world.walk(topology.delayed, _delay.key(0, "normal.gone")) == ({topology.unroutable}, 0)


@pytest.mark.parametrize("version", ["4.3.0", "4.3.5", "4.10.1", "5.0.0-rc.1", "10.0"])
def test_a_server_whose_version_can_have_no_plug_in_is_refused(version: str) -> None:
    with pytest.raises(BrokerRefused, match=rf"RabbitMQ {version} at URL .*4\.2.*\?delay=ttl"):
        check_version(version, "URL")


@pytest.mark.parametrize("version", ["3.10.8", "3.13.7", "4.0.9", "4.2.1", "None", "", "unknown"])
def test_other_versions_are_asked(version: str) -> None:
    check_version(version, "URL")


@pytest.mark.parametrize("declare", ["yes", "no"])
async def test_a_server_without_the_plug_in_is_refused_before_anything_is_made(space: Space, declare: str) -> None:
    with pytest.raises(BrokerRefused) as caught:
        async with RmqBroker(space.url(delay="plugin", declare=declare)):
            pass
    text = str(caught.value)
    assert re.match(r"RabbitMQ .*at amqp://guest:\*\*\*@", text)
    assert "?delay=ttl" in text
    too_new = "4.2 is the last that can" in text
    assert too_new or ("x-delayed-message" in text and INSTALL in text)
    channel = await space.connection.channel()
    with pytest.raises(ChannelNotFoundEntity):
        await channel.exchange_declare(space.topology().jobs, passive=True)


@both
async def test_the_plug_in_delays_to_the_moment(delaying: Space, kind: Kind) -> None:
    chance = random.Random(7)
    delays = {f"{number}": chance.uniform(0.05, 3) for number in range(100)}
    due: dict[str, float] = {}
    async with RmqBroker(delaying.url(kind, delay="plugin")) as broker:
        assert not await drain(broker)
        for job_id, delay in delays.items():
            due[job_id] = time.time() + delay
            await put(broker, job_id, delay=delay)
        found = await collect(broker, len(delays))
        assert not await drain(broker)
    assert sorted(one.job.id for one, _ in found) == sorted(delays)
    late = sorted(at - due[one.job.id] for one, at in found)
    assert late[0] >= 0
    assert late[90] <= 0.5  # the others have to do with a machine that is busy with something else
    assert await delaying.ready("unroutable") == 0


@both
async def test_what_the_plug_in_can_hold_waits_there_and_what_is_longer_on_the_ladder(
    delaying: Space, kind: Kind
) -> None:
    async with RmqBroker(delaying.url(kind, delay="plugin")) as broker:
        for delay in (20, 40, 100, 3e6, LONGEST, LONGEST + 1):  # on the wire, integers of different sizes
            await put(broker, f"{delay}", delay=delay)
        await put(broker, "short", delay=0.1)
        assert [one.job.id for one, _ in await collect(broker, 1)] == ["short"]
    await delaying.has(f"delay.{kind}.v1.25", 1)


@both
async def test_processes_with_and_without_the_plug_in_work_on_the_same_jobs(delaying: Space, kind: Kind) -> None:
    modes = [{"delay": "plugin"}, {"delay": "ttl"}, {"delay": "plugin", "declare": "no"}]
    async with RmqBroker(delaying.url(kind, **modes[0])) as first:
        await put(first, "a", delay=0.1)
        await put(first, "b", delay=0.1)
    for attempt, mode in enumerate(modes):
        async with RmqBroker(delaying.url(kind, **mode)) as broker:
            await lease(broker)
            outcomes: list[Outcome] = []
            while len(outcomes) < 2:
                for one in (await claim(broker, limit=2)).deliveries:
                    assert one.trail.attempt == attempt
                    outcomes.append(Again(one.job.id, one.epoch, Trail(attempt=attempt + 1), 0.2))
                await broker.wait(["default"], 0.05)
            await claim(broker, *outcomes, limit=0)
    async with RmqBroker(delaying.url(kind)) as last:
        assert sorted(one.job.id for one, _ in await collect(last, 2)) == ["a", "b"]
        assert not await drain(last)
    assert await delaying.ready("unroutable") == 0


@both
async def test_what_the_plug_in_holds_for_a_deleted_queue_is_parked(delaying: Space, kind: Kind) -> None:
    delaying.queues.add("gone")
    async with RmqBroker(delaying.url(kind, delay="plugin")) as broker:
        await put(broker, "lost", queue="gone", delay=0.7)
        await put(broker, "good", delay=0.7)
        await delaying.delete("high.gone", "normal.gone", "low.gone")
        assert [one.job.id for one, _ in await collect(broker, 1)] == ["good"]
    await delaying.has("unroutable", 1)
