"""Values that somebody else wrote straight into our keys: they cost nobody else anything."""

from collections.abc import Awaitable, Callable

import pytest

from jobq.errors import BrokerRefused
from jobq.model import Again, Beat, Crash, Dead, Done, Released, Trail, WorkerInfo
from jobq_redis import RedisBroker
from tests.redis.tools import WORKER, Client, claim, drain, ids, lease, put

Harm = Callable[[Client, str], Awaitable[object]]


@pytest.mark.parametrize(
    "blob",
    [
        b"",
        b"garbage",
        b"\n",
        b"2default\n",
        b"2default\nnot json",
        b'2default\n{"id":"someone else","task":"t"}',
        b'9default\n{"id":"x","task":"t"}',
        b'2\n{"id":"x","task":"t"',
        b"2default\n\xff\xfe\x00",
        b"2\xff\xfe\n{}",
        b"2default\n" + b"[" * 100_000,
    ],
)
async def test_a_blob_that_is_no_job_is_delivered_as_malformed_and_can_be_buried(
    broker: RedisBroker, redis: Client, base: str, blob: bytes
) -> None:
    await redis.hset(f"{base}jobs", "x", blob)
    await redis.rpush(f"{base}ready:default:2", "x")
    await put(broker, "good")
    await lease(broker)
    bad, good = (await claim(broker)).deliveries
    assert (bad.job.id, good.job.id) == ("x", "good")
    assert bad.malformed
    assert good.malformed is None
    outcomes = Dead("x", bad.epoch, Trail()), Done("good", good.epoch)
    assert list((await claim(broker, *outcomes)).refused) == []
    assert await redis.hget(f"{base}dead-jobs", "x") == blob


@pytest.mark.parametrize("blob", [b"", b"garbage", b"9default\n{}"])
async def test_a_blob_that_is_no_job_may_be_scheduled_reclaimed_and_given_back(
    broker: RedisBroker, redis: Client, base: str, blob: bytes
) -> None:
    await redis.hset(f"{base}jobs", mapping={"x": blob, "y": blob, "z": blob})
    await redis.zadd(f"{base}due", {"x": 1, "y": 2, "gone": 3})
    await redis.hset(f"{base}held:other", mapping={"z": "no number", "gone too": "1"})
    await redis.zadd(f"{base}workers", {"other": 1})
    await put(broker, "good")
    await lease(broker)
    assert (await broker.sweep("here", 100)).reclaimed == 2
    held = {one.job.id: one for one in (await claim(broker)).deliveries}
    assert set(held) == {"x", "y", "z", "good"}
    turn = await claim(
        broker,
        Again("x", held["x"].epoch, Trail(attempt=1)),
        Released("y", held["y"].epoch),
        Again("z", held["z"].epoch, Trail(attempt=1), queue="elsewhere"),
        Done("good", held["good"].epoch),
    )
    assert list(turn.refused) == []
    assert sorted(ids(turn.deliveries)) == ["x", "y"]
    assert ids((await claim(broker, queues=["elsewhere"])).deliveries) == ["z"]


async def test_ids_without_jobs_are_dropped_everywhere(broker: RedisBroker, redis: Client, base: str) -> None:
    await redis.rpush(f"{base}ready:default:4", "g1", "", b"\xff\xfe", "g2")
    await redis.rpush(f"{base}suspects:default", "g3")
    await redis.zadd(f"{base}due", {"g4": 1, "g5": float("-inf"), "g6": float("inf")})
    await redis.hset(f"{base}held:{WORKER.id}", mapping={"g7": 7, "g8": "x"})
    await redis.hset(f"{base}worker-epochs", WORKER.id, 9)
    await put(broker, "good")
    await lease(broker)
    turn = await claim(broker, Done("g7", 7), Again("g8", 8, Trail()), resume=0)
    assert [token.id for token in turn.refused] == ["g8"]
    assert ids(turn.deliveries) == ["good"]
    assert turn.next_due is not None
    assert (await broker.sweep("here", 10, [WORKER.id])).reclaimed == 2


async def test_an_id_that_is_no_text_survives_the_way_there_and_back(
    broker: RedisBroker, redis: Client, base: str
) -> None:
    await redis.hset(f"{base}jobs", b"\xff\x00\n", b'2default\n{"id":"x","task":"t"}')
    await redis.rpush(f"{base}ready:default:2", b"\xff\x00\n")
    await lease(broker)
    (bad,) = (await claim(broker)).deliveries
    assert bad.malformed
    assert list((await broker.heartbeat(WORKER, [Beat(bad.job.id, bad.epoch)], 60)).lost) == []
    assert list((await claim(broker, Done(bad.job.id, bad.epoch))).refused) == []
    assert await redis.hlen(f"{base}jobs") == 0


@pytest.mark.parametrize("stored", [b"garbage", b"{}", b"[1, 2]", b'[["a", [], {}]]', b"[" * 5000, b"null", b"[[1,2]]"])
async def test_crash_notes_that_are_none(broker: RedisBroker, redis: Client, base: str, stored: bytes) -> None:
    await put(broker, "a", "b")
    await lease(broker)
    a, _ = (await claim(broker)).deliveries
    await redis.hset(f"{base}crashes", "a", stored)
    assert [one.id for one in (await claim(broker, Done("a", a.epoch + 50))).refused] == ["a"]
    await broker.heartbeat(WORKER, [], 0)
    assert (await broker.sweep("here", 10)).reclaimed == 2
    await lease(broker)
    again, _ = (await claim(broker)).deliveries
    assert [crash.epoch for crash in again.crashes] == [a.epoch]
    assert all(isinstance(crash, Crash) for crash in again.crashes)


async def test_trails_and_crash_notes_that_cannot_be_read_are_malformed(
    broker: RedisBroker, redis: Client, base: str
) -> None:
    await put(broker, "a", "b", "c")
    await redis.hset(f"{base}trails", "a", b"garbage")
    await redis.hset(f"{base}crashes", "b", b"garbage")
    await lease(broker)
    a, b, c = (await claim(broker)).deliveries
    assert a.malformed
    assert b.malformed
    assert c.malformed is None


async def test_a_stamp_that_is_none(broker: RedisBroker, redis: Client, base: str) -> None:
    for number, value in enumerate((b"garbage", b"", b"99999:XYZ", b"-1:"), 1):
        await redis.set(f"{base}stamp:c", value)
        await put(broker, f"{number}", number=number)
    await redis.delete(f"{base}stamp:c")
    await redis.rpush(f"{base}stamp:c", "a list")
    await put(broker, "5", number=5)
    assert await drain(broker) == ["1", "2", "3", "4", "5"]


@pytest.mark.parametrize(
    "key",
    ["ready:default:2", "ready:default:4", "suspects:default", "wake:default", "held:w", "held:other", "dead:default"],
)
@pytest.mark.parametrize("kind", ["string", "zset"])
async def test_a_key_of_a_wrong_type_gives_way(
    broker: RedisBroker, redis: Client, base: str, key: str, kind: str
) -> None:
    await put(broker, "early", queue="fine")
    if kind == "string":
        await redis.set(base + key, "x")
    else:
        await redis.zadd(base + key, {"x": 1})
    await broker.wait(["default"], 0.01)
    await put(broker, "a", "b", number=2)
    await lease(broker)
    await broker.heartbeat(WorkerInfo(id="other", host="here"), [], 60)
    assert sorted(await drain(broker, "default", "fine")) == ["a", "b", "early"]
    await broker.sweep("here", 10, ["other"])


@pytest.mark.parametrize(
    "key",
    [
        "jobs",
        "due",
        "epoch",
        "workers",
        "worker-info",
        "worker-epochs",
        "trails",
        "crashes",
        "dead-jobs",
        "dead-trails",
    ],
)
async def test_a_common_key_of_a_wrong_type_is_an_error_that_changes_nothing(
    broker: RedisBroker, redis: Client, base: str, key: str
) -> None:
    await put(broker, "a", "b")
    await lease(broker)
    (a,) = (await claim(broker, limit=1)).deliveries
    saved = await redis.dump(base + key)
    await redis.delete(base + key)
    await redis.rpush(base + key, "x")
    refusals: list[str] = []
    for verb in (
        lambda: put(broker, "c", number=2),
        lambda: put(broker, "c", number=3, delay=5),
        lambda: claim(broker, Again("a", a.epoch, Trail(attempt=1), delay=5)),
        lambda: claim(broker, Dead("a", a.epoch, Trail(attempt=1))),
        lambda: broker.heartbeat(WORKER, [Beat("a", a.epoch)], 60),
        lambda: broker.heartbeat(WORKER, [], 60, a.epoch),
        lambda: broker.sweep("here", 100, [WORKER.id]),
    ):
        before = await dump(redis, base)
        try:
            await verb()
        except BrokerRefused as exc:
            refusals.append(str(exc))
            assert await dump(redis, base) == before
    assert refusals
    assert all("WRONGTYPE" in refusal for refusal in refusals)
    await redis.delete(base + key)
    if saved is not None:
        await redis.restore(base + key, 0, saved)


async def dump(redis: Client, base: str) -> dict[bytes, bytes | None]:
    return {key: await redis.dump(key) for key in sorted(await redis.keys(base.replace("{", "\\{") + "*"))}


async def test_an_epoch_that_is_no_number_is_an_error_that_changes_nothing(
    broker: RedisBroker, redis: Client, base: str
) -> None:
    await put(broker, "a")
    await lease(broker)
    await redis.set(f"{base}epoch", "garbage")
    with pytest.raises(BrokerRefused, match="epoch is no number"):
        await claim(broker)
    await redis.delete(f"{base}epoch")
    assert await drain(broker) == ["a"]


async def test_leases_and_infos_that_are_none(broker: RedisBroker, redis: Client, base: str) -> None:
    await redis.zadd(f"{base}workers", {"ghost": float("inf"), "old ghost": float("-inf")})
    await redis.hset(f"{base}worker-info", mapping={"ghost": b"garbage", WORKER.id: b"\xff"})
    await redis.hset(f"{base}worker-epochs", mapping={WORKER.id: "garbage"})
    await put(broker, "a")
    assert await drain(broker) == ["a"]
    assert list((await broker.sweep("here", 10)).peers) == [WORKER.id]


async def test_a_clock_time_far_away_is_no_harm(broker: RedisBroker) -> None:
    await put(broker, "a", due=1e300)
    await put(broker, "b", number=2, delay=1e300)
    await put(broker, "c", number=3, due=-1e300)
    assert await drain(broker) == ["c"]
