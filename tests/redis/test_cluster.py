"""A cluster of three nodes: each namespace is in one slot, and any node says where that is."""

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from redis.crc import key_slot

from jobq.errors import BrokerRefused, BrokerUnavailable
from jobq.model import Done
from jobq_redis import RedisBroker
from jobq_redis._lines import Route
from jobq_redis._url import parse
from tests.redis.cluster import Cluster, say, started
from tests.redis.tools import WORKER, Tools, claim, drain, lease, put
from tests.servers import free_port


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with started() as cluster:
        yield cluster


async def test_every_verb_works_on_every_node(cluster: Cluster, tools: Tools) -> None:
    for node in range(3):
        namespace = cluster.namespace_on(node)
        broker = await tools.broker(f"{cluster.url}?namespace={namespace}")
        await put(broker, "a", "b")
        await put(broker, "c", number=2, delay=3600)
        await broker.wait(["default"], 10)
        await lease(broker)
        a, _ = (await claim(broker)).deliveries
        await claim(broker, Done("a", a.epoch), limit=0)
        await broker.heartbeat(WORKER, [], 0)
        assert (await broker.sweep("here", 10)).reclaimed == 1
        assert await drain(broker) == ["b"]
        assert say(cluster.servers[node], "EXISTS", f"jobq:{{{namespace}}}:epoch") == 1


async def test_one_node_that_answers_is_enough(cluster: Cluster, tools: Tools) -> None:
    namespace = cluster.namespace_on(2)
    host = f"127.0.0.1:{free_port()},127.0.0.1:{cluster.servers[0].port}"
    broker = await tools.broker(f"redis+cluster://{host}?namespace={namespace}")
    await put(broker, "a")
    assert await drain(broker) == ["a"]
    plain = await tools.broker(f"{cluster.servers[1].url}?namespace={namespace}")
    await put(plain, "b", client="d")
    assert await drain(broker) == ["b"]


async def test_a_silent_node_does_not_keep_us_from_the_others(cluster: Cluster, tools: Tools) -> None:
    cluster.servers[0].pause()
    try:
        options = "socket_connect_timeout=1&socket_timeout=0.5"
        broker = await tools.broker(f"{cluster.url}?{options}&namespace={cluster.namespace_on(1)}")
        await put(broker, "a")
        assert await drain(broker) == ["a"]
    finally:
        cluster.servers[0].resume()


def test_of_the_addresses_that_a_cluster_has_named_only_the_last_few_are_kept() -> None:
    url = [("h", 1), ("i", 2)]
    route = Route(parse("redis+cluster://h:1,i:2"))
    for number in range(20):
        route.moved("n", number)
    assert route._addresses == [("n", 19), ("n", 18), ("n", 17), *url]
    route.moved("i", 2)
    assert route._addresses == [("i", 2), ("n", 19), ("n", 18), ("n", 17), ("h", 1)]
    route.moved("", 18)  # the host that said so
    assert route._addresses[0] == ("i", 18)
    assert set(url) < set(route._addresses)


async def test_however_many_addresses_are_silent_connecting_takes_its_time_and_no_more() -> None:
    with ExitStack() as stack:
        ports = list[int]()
        for _ in range(13):
            listening = stack.enter_context(
                socket.create_server(("127.0.0.1", 0))
            )  # the kernel accepts, nobody answers
            ports.append(listening.getsockname()[1])
        first, *others = ports
        broker = RedisBroker(f"redis+cluster://127.0.0.1:{first}?socket_connect_timeout=0.5")
        for port in others:
            broker._route.moved("127.0.0.1", port)
        began = time.monotonic()
        with pytest.raises(BrokerUnavailable, match="no answer in time"):
            async with broker:
                pass
        assert time.monotonic() - began < 1.5


async def test_a_namespace_whose_slot_moves_pauses_and_goes_on(cluster: Cluster, tools: Tools) -> None:
    namespace = cluster.namespace_on(0)
    slot = key_slot(f"{{{namespace}}}".encode())
    source, target, other = [await tools.client(server.url) for server in cluster.servers]
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


async def test_a_node_that_is_gone() -> None:
    with started() as cluster:
        url = f"{cluster.url}?namespace={cluster.namespace_on(1)}"
        async with RedisBroker(url) as broker:
            cluster.servers[1].kill()
            with pytest.raises(BrokerUnavailable):
                await put(broker, "a")
        with pytest.raises(BrokerUnavailable):
            async with RedisBroker(url):
                pass


async def test_rights_are_checked_on_the_node_in_charge(cluster: Cluster) -> None:
    say(cluster.servers[2], "ACL", "SETUSER", "limited", "on", ">p", "~*", "+@all", "-lpop")
    for server in cluster.servers[:2]:
        say(server, "ACL", "SETUSER", "limited", "on", ">p", "~*", "+@all")
    with pytest.raises(BrokerRefused, match="ACL"):
        async with RedisBroker(f"{cluster.url.replace('//', '//limited:p@')}?namespace={cluster.namespace_on(2)}"):
            pass
