"""Networks that fail, between Redis and everybody else."""

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator
from contextlib import closing
from typing import Any, cast

import pytest
from redis import Redis

from jobq_redis import _scripts
from tests.faults.app import gate, nap, now
from tests.faults.conftest import Make
from tests.faults.field import LEASE, SWEEP, Field, after, until
from tests.faults.ledger import SECOND
from tests.proxy import Proxy
from tests.servers import Server

SEED = int(os.environ.get("JOBQ_SEED", "7"))
CUTS = 40
MARGIN = 1.0


@pytest.fixture
async def proxy(server: Server) -> AsyncIterator[Proxy]:
    async with Proxy("127.0.0.1", server.port) as proxy:
        yield proxy


@pytest.fixture
def wired(make: Make, server: Server, proxy: Proxy) -> Field:
    """Everybody goes through the proxy."""
    return make(server.url, proxy.port)


def lease_end_of(pid: int, url: str) -> float:
    """In seconds since the epoch; on the server's clock, which is ours."""
    with closing(cast("Any", Redis).from_url(url)) as redis:
        for key in redis.keys("*workers"):
            for worker, milliseconds in redis.zrange(key, 0, -1, withscores=True):
                if worker.decode().split("-")[1] == str(pid):
                    return float(milliseconds) / 1000
    raise LookupError(pid)


def once(field: Field) -> bool:
    """Whether every job ran exactly once."""
    return sorted(run.id for run in field.ledger.runs()) == sorted(field.oracle.tried)


async def test_connections_that_break_at_random_moments_lose_and_repeat_nothing(wired: Field, proxy: Proxy) -> None:
    print(f"JOBQ_SEED={SEED}")
    fate = random.Random(SEED)
    wired.worker()
    wired.worker()

    async def produce() -> None:
        for _ in range(40):
            await wired.enqueue(nap, 0.005, count=10)
            await after(0.05)

    load = asyncio.ensure_future(produce())
    await wired.started(20)
    for _ in range(CUTS):
        await after(fate.uniform(0.01, 0.1))
        proxy.cut()
    await load
    await wired.settled()
    assert once(wired)


async def test_a_worker_that_cannot_renew_cancels_its_bodies_before_its_lease_ends(
    wired: Field, proxy: Proxy, server: Server
) -> None:
    names = await wired.enqueue(gate, "out", count=5)
    victim = wired.worker()
    await wired.started(5, victim.pid)
    direct = wired.url.replace(str(proxy.port), str(server.port))
    wired.worker(url=direct)
    proxy.blackhole()
    cut_off = now()
    wired.oracle.killed.add(victim.pid)  # as to what it could store; its bodies must not overlap
    lease_end = lease_end_of(victim.pid, server.url)
    lease_end_here = (lease_end - time.time()) * SECOND + now()
    await until(lambda: {run.how for run in wired.ledger.by(victim.pid)} == {"cancel"}, "cancelled bodies")
    assert max(run.finish or 0 for run in wired.ledger.by(victim.pid)) < lease_end_here
    for name in names:
        again = await wired.restarted(name)
        assert again.start - cut_off < (LEASE + 1.25 * SWEEP + MARGIN) * SECOND
    proxy.heal()
    await until(lambda: not any(wired.store.crashes(name) for name in names), "crashes are taken back")
    wired.open("out")
    seen = len(wired.ledger.by(victim.pid))
    await wired.enqueue(nap, 0.05, count=200)
    await wired.started(seen + 1, victim.pid)
    await wired.settled()


async def test_requests_and_replies_may_come_byte_by_byte(wired: Field, proxy: Proxy) -> None:
    proxy.slice(1)
    wired.url = wired.url.replace("socket_timeout=1", "socket_timeout=5")
    wired.worker(lease=20.0, renew=5.0)
    await wired.enqueue(nap, 0.005, count=50)
    await wired.settled()
    assert once(wired)


@pytest.mark.parametrize(("verb", "count"), [("enqueue", 4), ("turn", 4), ("heartbeat", 5), ("sweep", 4)])
async def test_lost_replies_repeat_nothing_and_lose_nothing(wired: Field, proxy: Proxy, verb: str, count: int) -> None:
    worker = wired.worker()
    await wired.enqueue(nap, 0)
    await wired.started(1)
    proxy.lose_replies(getattr(_scripts, verb.upper()).sha.encode(), every=2)
    while proxy.lost < count:
        await wired.enqueue(nap, 0.005, count=10)
        await after(0.05)
    proxy.heal()
    await wired.settled()
    assert once(wired)
    assert "giving up" not in worker.log, "replies that are lost now and then cost no lease"
