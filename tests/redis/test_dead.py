"""What is kept of a dead job, and what is not."""

from collections.abc import Callable

import pytest

from jobq.codec import decode_crashes, decode_trail
from jobq.errors import BrokerFull
from jobq.model import Again, Dead, Event, Failure, Happening, Trail
from jobq_redis import RedisBroker
from jobq_redis._dead import RedisDeadLetters
from tests.redis.tools import WORKER, Client, Tools, claim, drain, lease, put
from tests.servers import Server

Start = Callable[..., Server]

TRAIL = Trail(2, None, Failure("ValueError", "no", "…"), (Event(1.0, Happening.DEAD, "w"),))


async def test_a_dead_job_keeps_its_blob_trail_and_crashes_byte_for_byte(
    broker: RedisBroker, redis: Client, base: str
) -> None:
    await put(broker, "a", queue="q")
    blob = await redis.hget(f"{base}jobs", "a")
    await lease(broker)
    [lost] = (await claim(broker, queues=["q"])).deliveries
    await broker.sweep(WORKER.host, 10, [WORKER.id])
    await lease(broker)
    [found] = (await claim(broker, queues=["q"])).deliveries
    await claim(broker, Dead("a", found.epoch, TRAIL), limit=0)
    assert await redis.hget(f"{base}dead-jobs", "a") == blob
    assert decode_trail(await redis.hget(f"{base}dead-trails", "a")) == TRAIL
    crashes = decode_crashes(await redis.hget(f"{base}dead-crashes", "a"))
    assert [crash.epoch for crash in crashes] == [lost.epoch]
    assert await redis.zrange(f"{base}dead:q", 0, -1) == [b"a"]
    for left in ("jobs", "trails", "crashes"):
        assert not await redis.hexists(f"{base}{left}", "a")


async def test_a_dead_job_that_is_not_to_be_kept_leaves_nothing_alone_and_beside_others(
    broker: RedisBroker, redis: Client, base: str
) -> None:
    await put(broker, "a", "b", "c", "d")
    await lease(broker)
    epochs = {delivery.job.id: delivery.epoch for delivery in (await claim(broker)).deliveries}
    await claim(broker, Dead("a", epochs["a"], TRAIL, keep=False), limit=0)
    mixed = (
        Dead("b", epochs["b"], TRAIL, keep=False),
        Dead("c", epochs["c"], TRAIL),
        Again("d", epochs["d"], TRAIL),
    )
    await claim(broker, *mixed, limit=0)
    for key in ("dead-jobs", "dead-trails"):
        assert await redis.hkeys(f"{base}{key}") == [b"c"]
    assert await redis.zrange(f"{base}dead:default", 0, -1) == [b"c"]
    assert await redis.hkeys(f"{base}jobs") == [b"d"]


async def bury(broker: RedisBroker, *names: str) -> None:
    await put(broker, *names, client=names[0])
    await lease(broker)
    for found in (await claim(broker, limit=len(names))).deliveries:
        await claim(broker, Dead(found.job.id, found.epoch, TRAIL), limit=0)


async def test_when_memory_is_full_no_dead_job_moves_and_all_may_be_deleted(start: Start, tools: Tools) -> None:
    server = start("--maxmemory-policy", "noeviction")
    broker, client = await tools.broker(server.url), await tools.client(server.url)
    letters = broker.dead_letters
    await bury(broker, "a", "b", "c")
    await client.config_set("maxmemory", 1)
    before = {key: await client.dump(key) for key in await client.keys()}
    with pytest.raises(BrokerFull, match="maxmemory"):
        await letters.replay("default")
    assert {key: await client.dump(key) for key in await client.keys()} == before
    assert len(await letters.peek("default", 10)) == 3
    assert len(await letters.pop("default", 1)) == 1
    assert await letters.purge("default") == 2
    assert not [key for key in await client.keys() if b"dead" in key]


async def test_what_has_died_again_since_it_was_looked_at_is_not_touched(
    broker: RedisBroker, redis: Client, base: str
) -> None:
    letters = broker.dead_letters
    assert isinstance(letters, RedisDeadLetters)
    await bury(broker, "a", "b", "c")
    found = await letters._find("default", 10)
    await redis.hset(f"{base}dead-trails", "a", b'{"attempt":9}')
    await redis.zadd(f"{base}dead:default", {"b": 5})
    assert [one.dead.id for one in await letters._exhume("default", "R", found)] == ["c"]
    assert await letters.count("default") == 2
    assert await drain(broker) == ["c"]


async def test_what_is_damaged_hides_no_other(broker: RedisBroker, redis: Client, base: str) -> None:
    letters = broker.dead_letters
    await redis.zadd(f"{base}dead:default", {"ghost": 1, b"\xff": 2})
    await redis.hset(f"{base}dead-jobs", b"\xff", b"\x00garbage")
    await redis.hset(f"{base}dead-trails", b"\xff", b"garbage")
    await bury(broker, "a")
    bad, good = await letters.peek("default", 10)
    assert (bad.envelope, good.id) == (b"\x00garbage", "a")
    assert bad.malformed
    assert await letters.replay("default") == 2
    assert await redis.hget(f"{base}jobs", b"\xff") == b"\x00garbage"
    assert sorted(await drain(broker)) == sorted(["a", bad.id])
    assert (await letters.count("default"), await letters.purge("default")) == (1, 1)


async def test_no_key_is_left_of_jobs_that_were_popped_or_purged(broker: RedisBroker, redis: Client, base: str) -> None:
    await bury(broker, "a", "b")
    await broker.dead_letters.pop("default", 1)
    await broker.dead_letters.purge("default")
    assert [key async for key in redis.scan_iter(f"{base}*dead*")] == []
