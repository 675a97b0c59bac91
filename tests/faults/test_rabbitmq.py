"""RabbitMQ, where the connection is the lease: servers that die, networks that fail, and workers that freeze.

Whoever loses the connection loses what was held, and no write is refused: so a job may run twice, and none is lost.
"""

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import pytest

from jobq.errors import BrokerFull, NotAllStored
from jobq_rmq._topology import Kind
from tests.faults.app import flaky, gate, in_thread, nap, now, order
from tests.faults.conftest import rabbitmq_field
from tests.faults.field import GRACE, Field, after, until
from tests.faults.ledger import SECOND
from tests.faults.test_restarted import Load
from tests.proxy import Proxy
from tests.rmq.node import Node

SEED: Final = int(os.environ.get("JOBQ_SEED", "7"))
CUTS: Final = 15
AT_ONCE: Final = 5
HANDS: Final = 11
"""As many jobs are in the hands of a worker that runs ten at once."""
SPARE: Final = 2.0
LONG: Final = 60.0
NOTICED: Final = 6.0
"""Seconds after which a server has noticed that a client is silent whose heartbeat is one second."""
BACK: Final = 45.0
"""Seconds after which everybody has tried to connect again to a server that was away for ten."""
PUBLISH: Final = b"\x00\x3c\x00\x28"
"""How the frame of this method begins (AMQP 0-9-1, 4.2.4)."""


@pytest.fixture
async def proxy(rabbitmq_url: str) -> AsyncIterator[Proxy]:
    place = urlsplit(rabbitmq_url)
    async with Proxy(place.hostname or "localhost", place.port or 5672) as proxy:
        yield proxy


@pytest.fixture
async def wired(rabbitmq_url: str, proxy: Proxy, tmp_path: Path) -> AsyncIterator[Field]:
    """Everybody goes through the proxy."""
    via = rabbitmq_url.replace(urlsplit(rabbitmq_url).netloc.rpartition("@")[2], f"127.0.0.1:{proxy.port}")
    async with rabbitmq_field(rabbitmq_url, tmp_path, via, heartbeat=1, timeout=1) as field:
        yield field
        proxy.heal()


def cut_off(field: Field) -> None:
    """All workers may have lost what they held, while it went on there."""
    field.oracle.fenced |= {program.pid for program in field.programs}


async def test_connections_that_break_at_random_moments_lose_nothing(wired: Field, proxy: Proxy) -> None:
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
        await after(fate.uniform(0.01, 0.3))
        proxy.cut()
    await load
    cut_off(wired)
    wired.oracle.doubles = 2 * HANDS  # what was told through a connection that was just cut comes again
    await wired.settled()


async def test_jobs_of_a_worker_that_nothing_reaches_any_more_start_again_elsewhere(
    wired: Field, proxy: Proxy, rabbitmq_url: str
) -> None:
    names = await wired.enqueue(gate, "out", count=5)
    victim = wired.worker()
    await wired.started(5, victim.pid)
    wired.worker(url=wired.url.replace(f"127.0.0.1:{proxy.port}", urlsplit(rabbitmq_url).netloc.rpartition("@")[2]))
    proxy.blackhole()
    silent = now()
    for name in names:
        again = await wired.restarted(name)
        assert again.start - silent < NOTICED * SECOND
        assert again.attempt == 1
    wired.open("out")
    proxy.heal()
    cut_off(wired)
    seen = len(wired.ledger.by(victim.pid))
    await wired.enqueue(nap, 0.05, count=200)
    await wired.started(seen + 1, victim.pid)
    await wired.settled()


async def test_slow_networks_that_tear_frames_apart_repeat_and_lose_nothing(wired: Field, proxy: Proxy) -> None:
    proxy.slice(5)
    proxy.delay(20)
    wired.url = wired.url.replace("heartbeat=1&timeout=1", "timeout=10")
    wired.worker()
    await wired.enqueue(nap, 0.005, count=20)
    await wired.settled()
    assert len(wired.ledger.runs()) == 20


async def test_lost_confirmations_lose_nothing(wired: Field, proxy: Proxy) -> None:
    wired.worker()
    await wired.enqueue(flaky, 0, 1)
    await wired.started(1)
    proxy.lose_replies(PUBLISH, every=3)
    while proxy.lost < 4:
        await wired.enqueue(flaky, 0.005, 1, count=AT_ONCE)
        await after(0.05)
    proxy.heal()
    cut_off(wired)
    wired.oracle.doubles = proxy.lost * AT_ONCE
    await wired.settled()


async def test_a_worker_waits_for_a_rabbitmq_that_is_away_says_so_and_begins(wired: Field, proxy: Proxy) -> None:
    proxy.refuse()
    worker = wired.worker()
    await worker.says(f"cannot reach RabbitMQ at amqp://guest:***@127.0.0.1:{proxy.port}/")
    await worker.says("trying again in 0.4 s")
    assert worker.ended is None
    proxy.heal()
    await wired.enqueue(nap, 0, count=10)
    await wired.settled()


async def test_stopping_while_rabbitmq_is_silent_is_in_time_and_loses_nothing(wired: Field, proxy: Proxy) -> None:
    await wired.enqueue(gate, "out", count=5)
    worker = wired.worker()
    await wired.started(5)
    proxy.blackhole()
    sent = now()
    worker.send(signal.SIGTERM)
    await worker.exit_code()
    assert worker.ended is not None
    assert worker.ended - sent < (GRACE + SPARE) * SECOND, worker.log
    proxy.heal()
    cut_off(wired)
    wired.open("out")
    wired.worker()
    await wired.settled()


async def test_what_will_not_stop_is_given_back_and_never_overlaps(on_rabbitmq: Field) -> None:
    field = on_rabbitmq
    client = await field.client()
    await client.perform_in(0.01, nap, 0)  # makes what delays need: a worker that ends has no time for that
    (name,) = await field.enqueue(in_thread, LONG)
    worker = field.worker(grace=0.3)
    await until(lambda: field.ledger.of(name), "a start")
    field.worker()
    worker.send(signal.SIGTERM)
    assert await worker.exit_code() == 0, worker.log
    assert worker.ended is not None
    again = await field.restarted(name)
    assert worker.ended < again.start
    assert again.attempt == 1
    assert not field.store.crashes(name)
    field.open(name)
    field.oracle.killed.add(worker.pid)
    await until(lambda: name in field.ledger.ended(), "its end")
    await field.stop()


async def test_what_a_frozen_worker_held_runs_elsewhere_and_when_it_is_back_nothing_is_lost(wired: Field) -> None:
    (ordered,) = await wired.enqueue(order)
    (gated,) = await wired.enqueue(gate, "out")
    (retried,) = await wired.enqueue(flaky, 1.0, 1)
    zombie = wired.worker()
    await wired.started(3)
    frozen = now()
    zombie.send(signal.SIGSTOP)
    heir = wired.worker()
    for name in (ordered, gated, retried):
        again = await wired.restarted(name)
        assert again.start - frozen < NOTICED * SECOND
    wired.open(f"{ordered}.{zombie.pid}", "return")
    zombie.send(signal.SIGCONT)
    await zombie.says("the consuming connection")
    wired.open(f"{ordered}.{heir.pid}", "return")
    wired.open("out")
    cut_off(wired)
    wired.oracle.doubles = 1  # the late retry
    await wired.settled()
    assert {run.pid for run in wired.ledger.of(gated)} == {zombie.pid, heir.pid}


@pytest.mark.parametrize(("planned", "kind"), [(False, "classic"), (True, "quorum")], ids=["killed", "planned"])
async def test_a_restarted_rabbitmq_has_lost_nothing_and_everybody_comes_back(
    patient: Node, tmp_path: Path, kind: Kind, *, planned: bool
) -> None:
    async with rabbitmq_field(patient.url, tmp_path, kind=kind) as field:
        workers = [field.worker(), field.worker()]
        async with Load(field):
            await field.started(50)
            await asyncio.to_thread(patient.server.stop if planned else patient.server.kill)
            patient.server.start()
            seen = {worker.pid: len(field.ledger.by(worker.pid)) for worker in workers}
            await until(lambda: all(len(field.ledger.by(pid)) > count for pid, count in seen.items()), "both", BACK)
        cut_off(field)
        await field.settled()


async def test_out_of_memory_stops_no_worker_and_keeps_none_from_stopping_and_nothing_is_lost(
    patient: Node, tmp_path: Path
) -> None:
    async with rabbitmq_field(patient.url, tmp_path, timeout=1) as field:
        gated = await field.enqueue(gate, "out", count=15)
        failing = await field.enqueue(flaky, 3.0, 1, count=5)
        steady, leaving = field.worker(), field.worker()
        await field.started(20)
        async with patient.out_of_memory():
            await refused(field)
            field.open("out")
            await until(lambda: set(gated) <= field.ledger.ended(), "the end of what needs no message")
            sent = now()
            leaving.send(signal.SIGTERM)
            assert await leaving.exit_code() == 0, leaving.log
            assert leaving.ended is not None
            assert leaving.ended - sent < (GRACE + SPARE) * SECOND, leaving.log
        await field.enqueue(nap, 0, count=20)
        field.oracle.fenced.add(leaving.pid)  # it could not say what had failed there
        field.oracle.doubles = len(failing)  # a retry that was sent when the alarm began may be stored in the end
        await field.settled()
        assert len(field.ledger.by(steady.pid)) >= 20 + len(failing)


async def refused(field: Field) -> None:
    """Enqueue until a call is refused: the server may still take the first."""
    with suppress(BrokerFull, NotAllStored):
        while True:
            await field.enqueue(nap, 0)
