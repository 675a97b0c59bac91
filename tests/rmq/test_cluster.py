"""Three nodes that are one cluster, of which one is killed."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from jobq import App, Client
from jobq.errors import BrokerError
from jobq.worker import Worker
from tests.proxy import Proxy
from tests.rmq.node import Cluster, Node
from tests.rmq.tools import soon

PREFIX = "c"
UNIT = 0.125
"""Seconds that the lowest level of delays takes."""
LEVELS = range(4, 7)
"""As many as there are nodes, which lead them in turn."""
app = App()
runs = list[str]()


@app.task
async def note(name: str) -> None:
    runs.append(name)


@asynccontextmanager
async def gateways(cluster: Cluster) -> AsyncGenerator[dict[str, Proxy]]:
    """A way to each node, by the node's name."""
    async with AsyncExitStack() as stack:
        proxies = {node.name: Proxy("127.0.0.1", node.server.port) for node in cluster.nodes}
        yield {name: await stack.enter_async_context(proxy) for name, proxy in proxies.items()}


def leader(cluster: Cluster, queue: str) -> Node:
    found = cluster.leader(f"{PREFIX}.{queue}")
    assert found is not None
    return found


def level_on(cluster: Cluster, victim: Node) -> int:
    """A level of delays that this node leads."""
    return next(level for level in LEVELS if leader(cluster, f"delay.quorum.v1.{level:02}") == victim)


class Producer:
    """Enqueues one job after the other."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.acked = list[str]()
        self.over = False

    async def run(self, name: str) -> None:
        number = 0
        while not self.over:
            number += 1
            try:
                await self._client.perform_async(note, f"{name}{number}")
            except BrokerError:
                continue  # not acknowledged, so nothing was promised
            self.acked.append(f"{name}{number}")


@pytest.mark.timeout(180)
async def test_a_killed_leader_costs_no_job_and_who_was_connected_to_it_moves(cluster: Cluster) -> None:
    async with gateways(cluster) as ways:
        hosts = ",".join(f"127.0.0.1:{way.port}" for way in ways.values())
        url = f"amqp://guest:guest@{hosts}/?prefix={PREFIX}&timeout=15"
        async with app.client(url, timeout=60) as client:
            await client.perform_in(UNIT * 2 ** LEVELS[-1], note, "first")  # makes all queues
        victim = await asyncio.to_thread(leader, cluster, "normal.default")
        level = await asyncio.to_thread(level_on, cluster, victim)
        others = [way for name, way in ways.items() if name != victim.name]
        for way in others:
            way.refuse()
        async with app.client(url, timeout=60) as client, Worker(app, url, concurrency=20):
            for way in others:
                way.heal()
            producer = Producer(client)
            producing = [asyncio.create_task(producer.run(name)) for name in "abcd"]
            await soon(lambda: len(runs) > 100)
            await client.perform_in(UNIT * 2**level, note, "late")
            await asyncio.to_thread(victim.server.kill)
            before = len(producer.acked)
            await soon(lambda: len(producer.acked) > before + 100, 60)
            producer.over = True
            await asyncio.gather(*producing)
            await soon(lambda: set(producer.acked) <= set(runs), 30)
            # what became due while a leader was elected may have to wait for the node: see docs/rabbitmq.md
            await asyncio.to_thread(victim.server.start)
            await soon(lambda: {"first", "late"} <= set(runs), 60)
