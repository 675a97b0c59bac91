"""What the server's state and settings do to jobs."""

import logging
from collections.abc import Callable

import pytest

import jobq_redis
from jobq.errors import BrokerFull, BrokerRefused, BrokerUnavailable
from jobq.model import Again, Beat, Dead, Done, Failure, Released, Stamp, Trail
from jobq_redis import RedisBroker, _boot
from tests.redis.tools import WORKER, Client, Tools, claim, drain, heard, ids, job, lease, put
from tests.servers import Server

Start = Callable[..., Server]
AOF = ("--appendonly", "yes", "--appendfsync", "always")


async def test_acknowledged_jobs_survive_kill_9_with_an_aof(start: Start, tools: Tools) -> None:
    server = start(*AOF)
    broker = await tools.broker(server.url)
    await put(broker, "a", "b", "c", "d")
    await put(broker, "late", number=2, delay=3600)
    await lease(broker)
    a, b, c = (await claim(broker, limit=3)).deliveries
    await claim(broker, Done("a", a.epoch), Again("b", b.epoch, Trail(attempt=1)), limit=0)
    server.kill()
    server.start()
    await heard()
    turn = await claim(broker, Done("c", c.epoch))
    assert list(turn.refused) == []
    assert [(one.job.id, one.trail.attempt) for one in turn.deliveries] == [("b", 1), ("d", 0)]
    assert min(one.epoch for one in turn.deliveries) > c.epoch
    assert turn.next_due is not None
    assert turn.next_due > 3500
    await put(broker, "late", number=2)  # the stamp survived, too
    assert not (await claim(broker)).deliveries


async def test_a_script_flush_is_invisible(broker: RedisBroker, redis: Client) -> None:
    await put(broker, "a", "b")
    await lease(broker)
    for verb in (
        lambda: put(broker, "c", number=2),
        lambda: claim(broker, limit=1),
        lambda: lease(broker),
        lambda: broker.sweep("here", 10),
        lambda: broker.wait(["default"], 0.01),
    ):
        await redis.script_flush()
        await verb()
    assert ids((await claim(broker)).deliveries) == ["b", "c"]


async def stored(client: Client) -> object:
    return sorted(await client.keys()), await client.hlen("jobq:{main}:jobs"), await client.get("jobq:{main}:stamp:c")


async def test_when_memory_is_full_nothing_is_stored_and_everything_held_can_be_settled(
    start: Start, tools: Tools
) -> None:
    server = start("--maxmemory-policy", "noeviction")
    broker, client = await tools.broker(server.url), await tools.client(server.url)
    await put(broker, *"abcdefg")
    await lease(broker)
    a, b, c, d, e = (await claim(broker, limit=5)).deliveries
    await client.config_set("maxmemory", 1)
    before = await stored(client)
    with pytest.raises(BrokerFull, match="maxmemory"):
        await put(broker, "h", "i", number=2)
    with pytest.raises(BrokerFull):
        await put(broker, "h", "i", number=2, delay=5)
    assert await stored(client) == before

    trail = Trail(attempt=1, failure=Failure("E", "m" * 1000))
    turn = await claim(
        broker,
        Done("a", a.epoch),
        Again("b", b.epoch, trail, delay=3600),
        Dead("c", c.epoch, trail),
        Released("d", d.epoch),
        Again("e", e.epoch, trail, queue="elsewhere"),
    )
    assert list(turn.refused) == []
    assert ids(turn.deliveries) == ["d", "f", "g"]
    assert (await broker.heartbeat(WORKER, [], 60, turn.deliveries[-1].epoch)).returned == 3
    assert ids((await claim(broker)).deliveries) == ["d", "f", "g"]
    await broker.heartbeat(WORKER, [], 0)
    assert (await broker.sweep("here", 100)).reclaimed == 3
    await client.config_set("maxmemory", 0)
    await put(broker, "h", "i", number=2)
    assert sorted(await drain(broker)) == ["d", "f", "g", "h", "i"]
    assert await drain(broker, "elsewhere") == ["e"]


def documented_rights() -> list[str]:
    lines = (jobq_redis.__doc__ or "").split("ACL SETUSER jobq on >password ")[1].split("\n\n")[0]
    return lines.split()


async def exercise(broker: RedisBroker) -> None:
    """Every verb, and every branch of the scripts that needs a right of its own."""
    await put(broker, *"abcdef")
    await put(broker, "g", number=2, delay=0.001)
    await put(broker, "a", number=3)
    await lease(broker)
    a, b, c, d, *_ = (await claim(broker, limit=4)).deliveries
    await claim(
        broker,
        Done("a", a.epoch),
        Done("a", a.epoch),
        Again("b", b.epoch, Trail(attempt=1), delay=0.001, queue="other"),
        Dead("c", c.epoch, Trail(attempt=1)),
        Released("d", d.epoch),
        limit=1,
        resume=0,
    )
    await broker.wait(["default"], 0.1)
    await broker.heartbeat(WORKER, [], 0)
    await broker.sweep("here", 100)
    await put(broker, "c", number=4)
    await drain(broker, "default", "other")
    await put(broker, "h", number=5)
    (h,) = (await claim(broker)).deliveries
    assert (await broker.heartbeat(WORKER, [], 60, h.epoch)).returned == 1
    await drain(broker)


async def test_the_documented_rights_are_enough(start: Start, tools: Tools) -> None:
    server = start()
    client = await tools.client(server.url)
    await client.execute_command("ACL", "SETUSER", "jobq", "on", ">password", *documented_rights())
    broker = await tools.broker(server.url.replace("://", "://jobq:password@"))
    await exercise(broker)
    log = await client.execute_command("ACL", "LOG")
    assert log == []


async def test_every_documented_right_is_needed(start: Start, tools: Tools) -> None:
    server = start()
    client = await tools.client(server.url)
    for right in documented_rights():
        if not right.startswith("+") or right in {"+info", "+select", "+blpop"}:
            continue
        rights = [one for one in documented_rights() if one != right]
        await client.execute_command("ACL", "SETUSER", "jobq", "reset", "on", ">password", *rights)
        with pytest.raises(BrokerRefused, match="ACL"):  # at once, not in the middle of something
            async with RedisBroker(server.url.replace("://", "://jobq:password@")):
                pass


async def test_a_user_without_info_may_connect(start: Start, tools: Tools) -> None:
    server = start()
    client = await tools.client(server.url)
    rights = [right for right in documented_rights() if right != "+info"]
    await client.execute_command("ACL", "SETUSER", "jobq", "on", ">password", *rights)
    broker = await tools.broker(server.url.replace("://", "://jobq:password@"))
    await exercise(broker)


async def test_a_replica_is_refused(start: Start) -> None:
    master = start()
    replica = start("--replicaof", "127.0.0.1", str(master.port))
    with pytest.raises(BrokerUnavailable, match="replica"):
        async with RedisBroker(replica.url):
            pass


async def test_a_master_that_became_a_replica_says_so_and_nothing_is_unknown(start: Start, tools: Tools) -> None:
    server, master = start(), start()
    broker = await tools.broker(server.url)
    client = await tools.client(server.url)
    await client.execute_command("REPLICAOF", "127.0.0.1", master.port)
    with pytest.raises(BrokerUnavailable, match="cannot do this now"):
        await put(broker, "a")


async def test_eviction_is_warned_about(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    server = start("--maxmemory-policy", "allkeys-lru")
    with caplog.at_level(logging.INFO, "jobq.redis"):
        for _ in range(2):
            async with RedisBroker(server.url):
                pass
    levels = [record.levelname for record in caplog.records]
    assert levels == ["WARNING", "INFO"]  # once each
    assert "noeviction" in caplog.text
    assert "appendonly yes" in caplog.text


@pytest.mark.parametrize("version", ["6.0.16", "5.0.7", "2.8"])
def test_an_old_server_is_refused(version: str) -> None:
    with pytest.raises(BrokerRefused, match=f"{version}; jobq needs 6.2"):
        _boot.check(f"redis_version:{version}\r\nrole:master\r\n".encode(), "redis://h")


@pytest.mark.parametrize("version", ["6.2.0", "7.0.15", "8.2.1", "255.255.255"])
def test_newer_servers_are_not(version: str) -> None:
    _boot.check(f"# Server\r\nredis_version:{version}\r\nrole:master\r\n".encode(), "redis://h")


async def test_two_namespaces_do_not_see_each_other(url: str, tools: Tools) -> None:
    one, two = await tools.broker(url), await tools.broker(f"{url}-b")
    await put(one, "a")
    assert await drain(two) == []
    assert await drain(one) == ["a"]


async def test_thousands_of_outcomes_and_claims_in_one_turn(broker: RedisBroker) -> None:
    for number in range(9):
        await broker.enqueue([job(f"{number}-{n}") for n in range(1000)], Stamp("c", number + 1))
    await lease(broker)
    deliveries = (await claim(broker, limit=9000)).deliveries
    assert len(deliveries) == 9000
    epochs = [one.epoch for one in deliveries]
    assert epochs == list(range(epochs[0], epochs[0] + 9000))
    released = [Released(one.job.id, one.epoch) for one in deliveries[:4500]]
    done = [Done(one.job.id, one.epoch) for one in deliveries[4500:]]
    turn = await claim(broker, *released, *done, limit=9000)
    assert list(turn.refused) == []
    assert len(turn.deliveries) == 4500
    assert len((await broker.heartbeat(WORKER, [Beat(one.job.id, one.epoch) for one in turn.deliveries], 0)).lost) == 0
    swept = await broker.sweep("here", 9000)
    assert (swept.reclaimed, swept.more) == (4500, False)


async def test_nothing_is_left_behind_when_all_jobs_have_ended(broker: RedisBroker, redis: Client, url: str) -> None:
    await exercise(broker)
    await drain(broker, "default", "other")
    await broker.heartbeat(WORKER, [], 0)
    base = f"jobq:{{{url.split('=')[1]}}}:"
    left = {key.decode().removeprefix(base) for key in await redis.keys(f"{base}*")}
    assert {key for key in left if not key.startswith("wake:")} == {"epoch", "stamp:c"}
