"""What is kept of a dead job, and what is not."""

from jobq.codec import decode_crashes, decode_trail
from jobq.model import Again, Dead, Event, Failure, Happening, Trail
from jobq_redis import RedisBroker
from tests.redis.tools import WORKER, Client, claim, lease, put

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
