"""Jobs that are longer than a server lets anybody hold a message."""

import asyncio
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Final

import pytest

from jobq.model import Again, Delivery, Done, Released, Trail
from jobq_rmq import RmqBroker
from jobq_rmq._topology import Kind
from tests.proxy import Proxy
from tests.rmq.node import Node, one
from tests.rmq.tools import KINDS, WORKER, Space, claim, collect, drain, lease, put, soon, space_on, until

LONGEST: Final = 2.0
"""Seconds that the node lets anybody hold a message; it looks twice a second."""
pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def strict() -> Iterator[Node]:
    """A node with little patience."""
    with one("-rabbit", "consumer_timeout", "2000", "-rabbit", "channel_tick_interval", "500") as node:
        yield node


@pytest.fixture
async def space(strict: Node) -> AsyncIterator[Space]:
    """A prefix on it."""
    async with space_on(strict.url) as space:
        yield space


@pytest.fixture
def url(space: Space) -> str:
    """Of a broker that changes messages in time."""
    return space.url("quorum", handover=0.5)


@asynccontextmanager
async def holding(url: str, *job_ids: str, priority: int = 2) -> AsyncGenerator[tuple[RmqBroker, list[Delivery]]]:
    """A broker that holds these jobs; leases and all."""
    async with RmqBroker(url) as broker:
        await lease(broker)
        await put(broker, *job_ids, priority=priority)
        held: list[Delivery] = []
        while len(held) < len(job_ids):
            held += (await claim(broker, limit=len(job_ids) - len(held))).deliveries
        yield broker, held


async def patience_runs_out(*brokers: RmqBroker, limit: int = 50) -> list[Delivery]:
    """What these receive until the server has lost its patience twice over."""
    found: list[Delivery] = []
    for broker in brokers:
        await lease(broker)
    end = asyncio.get_running_loop().time() + 2 * LONGEST
    while (left := end - asyncio.get_running_loop().time()) > 0:
        for broker in brokers:
            found += (await claim(broker, limit=limit)).deliveries
        await asyncio.wait([asyncio.create_task(broker.wait(["default"], left)) for broker in brokers])
    return found


async def comes_back(broker: RmqBroker) -> None:
    """The server has lost its patience with the one job that this holds, and it has come again."""
    _, engine = await broker._shared.work()
    (held,) = engine._ledger.of(WORKER.id)
    first = held.arrival
    while held.arrival is first:
        assert not (await claim(broker, limit=50)).deliveries
        await broker.wait(["default"], 0.1)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_job_that_the_server_would_not_wait_for_runs_once(
    space: Space, kind: Kind, caplog: pytest.LogCaptureFixture
) -> None:
    url = space.url(kind, handover=0.5)
    async with holding(url, "long", "too") as (broker, held), RmqBroker(url) as other:
        assert await patience_runs_out(other, broker) == []
        turn = await claim(broker, *(Done(delivery.job.id, delivery.epoch) for delivery in held))
        assert not turn.refused
    async with RmqBroker(url) as last:
        await lease(last)
        assert not (await claim(last)).deliveries
    assert not caplog.records  # no channel was closed


async def test_without_that_the_server_gives_a_long_job_to_somebody_else(space: Space) -> None:
    url = space.url("quorum", handover=60)
    async with holding(url, "long"), RmqBroker(url) as other:
        assert [delivery.job.id for delivery in await patience_runs_out(other)] == ["long"]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_long_job_that_was_taken_away_and_comes_back_is_the_one_that_runs_here(
    space: Space, kind: Kind
) -> None:
    url = space.url(kind, handover=60)
    async with holding(url, "long") as (broker, (held,)):
        await comes_back(broker)
        assert not (await claim(broker, Done(held.job.id, held.epoch), limit=0)).refused
    async with RmqBroker(url) as last:
        assert await drain(last) == []


async def test_a_long_job_that_fails_runs_again_with_its_priority_and_its_past(url: str) -> None:
    async with holding(url, "long", priority=4) as (broker, (held,)):
        await patience_runs_out(broker)
        await claim(broker, Again(held.job.id, held.epoch, Trail(attempt=3)), limit=0)
        await put(broker, "other")
        first, second = [delivery for delivery, _ in await collect(broker, 2)]
    assert (first.job.id, first.trail.attempt, first.crashes) == ("long", 3, ())
    assert second.job.id == "other"


async def test_a_long_job_that_is_released_can_be_claimed_here_and_elsewhere(url: str) -> None:
    async with holding(url, "long") as (broker, (held,)):
        await patience_runs_out(broker)
        (again,) = (await claim(broker, Released(held.job.id, held.epoch))).deliveries
        await claim(broker, Released(again.job.id, again.epoch), limit=0, queues=())
        async with RmqBroker(url) as other:
            ((found, _),) = await collect(other, 1)
    assert found.crashes == again.crashes == ()


async def test_a_long_job_of_a_process_that_was_killed_runs_elsewhere_and_is_charged_a_crash(
    url: str, space: Space
) -> None:
    async with RmqBroker(url) as broker:
        await put(broker, "long")
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.rmq.holder", url, stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        assert await process.stdout.readline() == b"held\n"
        await patience_runs_out(broker)
        process.kill()
        await process.wait()
        ((found, _),) = await collect(broker, 1)
    assert len(found.crashes) == 1


async def test_a_long_job_whose_connection_is_lost_is_still_the_workers(url: str, strict: Node) -> None:
    async with holding(url, "long") as (broker, (held,)):
        await patience_runs_out(broker)
        await asyncio.to_thread(strict.close_all_connections)
        assert await patience_runs_out(broker) == []
        assert not (await claim(broker, Done(held.job.id, held.epoch))).refused
        assert await patience_runs_out(broker) == []


async def test_what_waits_for_a_slot_for_long_is_given_back_and_costs_no_channel(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with holding(url, "first", "second") as (broker, _):
        await put(broker, "third")
        assert await patience_runs_out(broker, limit=0) == []
        assert not caplog.records
        ((found, _),) = await collect(broker, 1)
    assert (found.job.id, found.crashes) == ("third", ())


async def test_what_waits_for_a_slot_while_the_server_is_out_of_memory_is_charged_no_crash(
    space: Space, strict: Node
) -> None:
    url = space.url("quorum", handover=0.5, timeout=0.5)
    async with holding(url, "first") as (broker, _):
        await put(broker, "second")
        async with strict.out_of_memory():
            assert await patience_runs_out(broker, limit=0) == []
        found = [found for found, _ in await collect(broker, 1)]
    # What was sent when the alarm began may have been stored in the end: then there are two.
    assert {(one.job.id, one.crashes) for one in found} == {("second", ())}


async def test_a_job_that_is_released_while_it_is_handed_over_comes_back_once(space: Space) -> None:
    host, _, port = space.server.rpartition("@")[2].strip("/").partition(":")
    async with Proxy(host, int(port)) as proxy:
        server = space.server.replace(f":{port}", f":{proxy.port}")
        async with holding(space.url("quorum", server, handover=0.5), "long") as (broker, (held,)):
            _, engine = await broker._shared.work()
            proxy.delay(50)
            await soon(lambda: engine._handover._coming)
            await claim(broker, Released(held.job.id, held.epoch), limit=0, queues=())
    async with RmqBroker(space.url("quorum")) as other:
        ((found, _),) = await collect(other, 1)
        assert (found.job.id, found.crashes) == ("long", ())
        assert await drain(other) == []


async def test_a_process_that_ends_leaves_no_queue_behind(url: str, strict: Node, space: Space) -> None:
    async with holding(url, "long") as (broker, (held,)):
        await until(lambda: _has_queue(strict, space))
        await claim(broker, Done(held.job.id, held.epoch), limit=0)
    assert not await _has_queue(strict, space)


async def _has_queue(node: Node, space: Space) -> bool:
    queues = await asyncio.to_thread(node.queues)
    return any(name.startswith(f"{space.prefix}.held.") for name in queues)
