"""One master, one replica, one Sentinel: a failover is survived."""

from collections.abc import Callable, Iterator

import pytest

from jobq.errors import BrokerRefused, BrokerUnavailable
from jobq.model import Done
from jobq_redis import RedisBroker
from tests.redis.sentinel import Watched, started
from tests.redis.tools import Tools, claim, drain, lease, put, until
from tests.servers import Server, free_port

Start = Callable[..., Server]


@pytest.fixture
def watched() -> Iterator[Watched]:
    with started() as watched:
        yield watched


async def test_jobs_survive_a_failover(watched: Watched, tools: Tools) -> None:
    replica, sentinel = await tools.client(watched.replica.url), await tools.client(watched.sentinel.url)

    async def replicated() -> bool:
        return bool((await replica.info("replication"))["master_link_status"] == "up")

    async def known() -> bool:
        return bool(await sentinel.execute_command("SENTINEL", "REPLICAS", "my-master"))

    async def arrived() -> bool:
        return bool(await replica.hlen("jobq:{main}:held:w") == 1)

    await until(replicated)
    await until(known)
    broker = await tools.broker(watched.url)
    await put(broker, "a", "b")
    await lease(broker, 600)
    (a,) = (await claim(broker, limit=1)).deliveries
    await until(arrived)
    watched.master.kill()
    with pytest.raises(BrokerUnavailable):
        await put(broker, "c", number=2)

    async def stored() -> bool:
        await put(broker, "c", number=2)
        return True

    await until(stored)
    assert list((await claim(broker, Done("a", a.epoch), limit=0)).refused) == []
    assert await drain(broker) == ["b", "c"]


async def test_a_service_that_the_sentinel_does_not_know(watched: Watched) -> None:
    broker = RedisBroker(watched.url.replace("my-master", "no-such"))
    with pytest.raises(BrokerUnavailable) as info:
        await broker.__aenter__()
    assert str(info.value) == (
        f"no Sentinel of {broker.url} names a master (1 of them could not be reached). "
        "Are they running, and is the service's name right?"
    )


async def test_sentinels_may_ask_for_a_password(watched: Watched, tools: Tools) -> None:
    sentinel = await tools.client(watched.sentinel.url)
    await sentinel.execute_command("ACL", "SETUSER", "default", "resetpass", ">secret")
    broker = await tools.broker(f"{watched.url}?sentinel_password=secret")
    await put(broker, "a")
    assert await drain(broker) == ["a"]
    for query in ("", "?sentinel_password=wrong"):
        refused = RedisBroker(watched.url + query)
        with pytest.raises(BrokerRefused) as info:
            await refused.__aenter__()
        assert str(info.value) == (
            f"the Sentinels of {refused.url} do not accept the user or the password; "
            "theirs are sentinel_username and sentinel_password in the query"
        )
        assert "wrong" not in refused.url


async def test_a_silent_sentinel_does_not_keep_us_from_the_next(watched: Watched, start: Start, tools: Tools) -> None:
    silent = start()
    silent.pause()
    hosts = f"127.0.0.1:{silent.port},127.0.0.1:{watched.sentinel.port}"
    broker = await tools.broker(f"redis+sentinel://{hosts}/my-master/3?socket_connect_timeout=0.6")
    await put(broker, "a")
    assert await drain(broker) == ["a"]
    assert await (await tools.client(f"{watched.master.url[:-1]}3")).exists("jobq:{main}:epoch")


async def test_no_sentinel_answers() -> None:
    with pytest.raises(BrokerUnavailable, match=r"no Sentinel of redis\+sentinel://.* names a master"):
        async with RedisBroker(f"redis+sentinel://127.0.0.1:{free_port()}/my-master"):
            pass
