"""A cluster of three nodes: each namespace is in one slot, and any node says where that is."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from redis.asyncio import Redis
from redis.crc import key_slot

from jobq.errors import BrokerRefused, BrokerUnavailable
from jobq.model import Done
from jobq_redis import RedisBroker
from tests.redis.tools import Tools, claim, drain, lease, put, until
from tests.servers import Server, free_port

Start = Callable[..., Server]
SLOTS = 16384


@dataclass
class Cluster:
    servers: list[Server]
    clients: list[Redis] = field(default_factory=list)

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"127.0.0.1:{server.port}" for server in self.servers)

    def namespace_on(self, node: int) -> str:
        return next(name for name in map(str, range(1000)) if key_slot(f"{{{name}}}".encode()) * 3 // SLOTS == node)

    async def form(self) -> None:
        first = self.servers[0]
        for number, client in enumerate(self.clients):
            low, high = -(-number * SLOTS // 3), -(-(number + 1) * SLOTS // 3) - 1
            await client.execute_command("CLUSTER", "ADDSLOTSRANGE", low, high)
            await client.execute_command("CLUSTER", "MEET", "127.0.0.1", first.port, first.arguments[-1])
        await until(self.formed)

    async def formed(self) -> bool:
        infos = [await client.execute_command("CLUSTER", "INFO") for client in self.clients]
        return all("cluster_state:ok" in str(info) and "cluster_known_nodes:3" in str(info) for info in infos)


@pytest.fixture
async def cluster(start: Start, tools: Tools) -> Cluster:
    options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "2000", "--cluster-port")
    servers = [start(*options, str(free_port())) for _ in range(3)]
    cluster = Cluster(servers, [await tools.client(server.url) for server in servers])
    await cluster.form()
    return cluster


async def test_every_verb_works_on_every_node(cluster: Cluster, tools: Tools) -> None:
    for node in range(3):
        broker = await tools.broker(f"{cluster.url}?namespace={cluster.namespace_on(node)}")
        await put(broker, "a", "b")
        await put(broker, "c", number=2, delay=3600)
        await broker.wait(["default"], 10)
        await lease(broker)
        a, _ = (await claim(broker)).deliveries
        await claim(broker, Done("a", a.epoch), limit=0)
        await broker.heartbeat(worker=_worker(), beats=[], lease=0)
        assert (await broker.sweep("here", 10)).reclaimed == 1
        assert await drain(broker) == ["b"]
        assert await cluster.clients[node].dbsize() > 0


def _worker():
    from tests.redis.tools import WORKER

    return WORKER


async def test_one_node_that_answers_is_enough(cluster: Cluster, tools: Tools) -> None:
    namespace = cluster.namespace_on(2)
    host = f"127.0.0.1:{free_port()},127.0.0.1:{cluster.servers[0].port}"
    broker = await tools.broker(f"redis+cluster://{host}?namespace={namespace}")
    await put(broker, "a")
    assert await drain(broker) == ["a"]
    plain = await tools.broker(f"{cluster.servers[1].url}?namespace={namespace}")
    await put(plain, "b", client="d")
    assert await drain(broker) == ["b"]


async def test_a_namespace_whose_slot_moves_pauses_and_goes_on(cluster: Cluster, tools: Tools) -> None:
    namespace = cluster.namespace_on(0)
    slot = key_slot(f"{{{namespace}}}".encode())
    source, target, other = cluster.clients
    source_id, target_id = [(await client.execute_command("CLUSTER", "MYID")).decode() for client in (source, target)]
    broker = await tools.broker(f"{cluster.url}?namespace={namespace}")
    await put(broker, "a", "b")
    await lease(broker)
    (a,) = (await claim(broker, limit=1)).deliveries
    await target.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", source_id)
    await source.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", target_id)
    for verb in (lambda: put(broker, "c", number=2), lambda: claim(broker, Done("a", a.epoch)), lambda: lease(broker)):
        with pytest.raises(BrokerUnavailable, match="cannot do this now"):
            await verb()
    keys = await source.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 100)
    await source.execute_command("MIGRATE", "127.0.0.1", cluster.servers[1].port, "", 0, 5000, "KEYS", *keys)
    for client in (target, source, other):
        await client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", target_id)
    await put(broker, "c", number=2)
    assert list((await claim(broker, Done("a", a.epoch), limit=0)).refused) == []
    assert await drain(broker) == ["b", "c"]


async def test_a_node_that_is_gone(cluster: Cluster) -> None:
    namespace = cluster.namespace_on(1)
    cluster.servers[1].kill()
    with pytest.raises(BrokerUnavailable):
        async with RedisBroker(f"{cluster.url}?namespace={namespace}"):
            pass


async def test_rights_are_checked_on_the_node_in_charge(cluster: Cluster) -> None:
    await cluster.clients[2].execute_command("ACL", "SETUSER", "default", "-lpop")
    with pytest.raises(BrokerRefused, match="ACL"):
        async with RedisBroker(f"{cluster.url}?namespace={cluster.namespace_on(2)}"):
            pass
