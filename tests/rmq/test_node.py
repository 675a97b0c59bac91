"""The tools that look into RabbitMQ and harm it."""

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Final

import aio_pika
import pytest
from aio_pika.abc import AbstractChannel, AbstractQueue

from tests.rmq.node import Node, Queue, one
from tests.servers import ProgramFailed

PATIENCE: Final = 20.0
pytestmark = pytest.mark.timeout(180)  # a node takes seconds to start, and on a busy machine many


@pytest.fixture(scope="module")
def shared() -> Iterator[Node]:
    """A node for the tests that leave it as it was."""
    with one() as node:
        yield node


async def until(condition: Callable[[], bool]) -> None:
    """Wait until it holds; it is asked off the event loop."""
    end = time.monotonic() + PATIENCE
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < end, "it did not come true in time"


async def publish(channel: AbstractChannel, queue: str, body: bytes = b"text") -> None:
    """Publish a message that outlives its server, and wait until that has it."""
    message = aio_pika.Message(body, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
    await channel.default_exchange.publish(message, queue, timeout=PATIENCE)


async def bodies(queue: AbstractQueue, count: int) -> list[bytes]:
    """Of so many messages in it."""
    return [(await queue.get(no_ack=True, timeout=PATIENCE)).body for _ in range(count)]


def test_an_expression_is_evaluated_in_the_node(shared: Node) -> None:
    assert shared.eval("[1 + 1, node()].") == f"[2,{shared.name}]"


def test_a_command_that_fails_says_why(shared: Node) -> None:
    with pytest.raises(ProgramFailed, match="no_such_command"):
        shared.ctl("no_such_command")


@pytest.mark.parametrize("kind", ["classic", "quorum"])
async def test_what_is_in_a_queue_is_seen(shared: Node, kind: str) -> None:
    async with await aio_pika.connect(shared.url) as connection:
        channel = await connection.channel()
        queue = await channel.declare_queue(kind, durable=True, arguments={"x-queue-type": kind})
        for _ in range(3):
            await publish(channel, kind)
        await queue.get(timeout=PATIENCE)
        await until(lambda: shared.queues()[kind] == Queue(2, 1, kind))


async def test_connections_are_closed_by_the_server(shared: Node) -> None:
    async with await aio_pika.connect(shared.url) as connection:
        reasons = asyncio.Queue[object]()
        connection.close_callbacks.add(lambda _, reason: reasons.put_nowait(reason))
        await asyncio.to_thread(shared.close_all_connections)
        assert "closed by a test" in str(await asyncio.wait_for(reasons.get(), PATIENCE))


async def test_a_memory_alarm_blocks_who_publishes_until_it_ends(shared: Node) -> None:
    async with await aio_pika.connect(shared.url) as connection:
        channel = await connection.channel()
        await channel.declare_queue("alarming", durable=True)

        async def twice() -> None:
            for _ in range(2):  # a server may still take the first
                await publish(channel, "alarming")

        with shared.memory_alarm():
            held = asyncio.create_task(twice())
            await until(lambda: "blocked" in shared.ctl("list_connections", "state").split())
            assert not held.done()
        await held


async def test_a_killed_node_comes_back_with_its_queues_and_what_was_confirmed(node: Node) -> None:
    name, url = node.name, node.url
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        await channel.declare_queue("kept", durable=True)
        # A server that is killed milliseconds after it declared something may have forgotten it, but only the last.
        await channel.declare_queue("perhaps forgotten", durable=True)
        await publish(channel, "kept")
    node.server.kill()
    node.server.start()
    assert (node.name, node.url) == (name, url)
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        assert await bodies(await channel.declare_queue("kept", passive=True), 1) == [b"text"]
