"""Names that are code, or look like it: they are data, wherever a verb or a filter takes one."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from importlib import import_module
from typing import Any

import pytest

from jobq.errors import BrokerRefused
from jobq.model import (
    NO_TRAIL,
    Again,
    Beat,
    Claim,
    Dead,
    Delivery,
    Done,
    Fate,
    Job,
    Outcome,
    Released,
    Stamp,
    Turn,
    WorkerInfo,
)
from jobq_postgres import PostgresBroker
from tests.postgres.connections import ASYNC, SYNC

asyncpg: Any = import_module("asyncpg")
_numbers = itertools.count(1)

NAMES = [
    "it's",
    '"quoted"',
    "'); DROP TABLE jobs; --",
    "$1",
    "$$ SELECT 1 $$",
    "$SCHEMA",
    "%s %(a)s",
    ":jobs",
    "{jobs}",
    "{a,NULL}",
    "NULL",
    "\\",
    "\\x00",
    "a\nb",
    "%_?",
    "日本語 \U0001f600",
    "",
]
"""A queue that is rung for by a notification with no text, or that is longer than a channel's name, is among them."""


def worker(name: str, queues: Sequence[str] = ()) -> WorkerInfo:
    return WorkerInfo(id=name, host=name, hostname=name, pid=1, queues=tuple(queues), concurrency=99, started=0.0)


@pytest.fixture
async def broker(url: str) -> AsyncIterator[PostgresBroker]:
    async with PostgresBroker(url) as broker:
        yield broker


async def turn(broker: PostgresBroker, who: str, outcomes: Sequence[Outcome], *queues: str) -> Turn:
    return await broker.turn(outcomes, Claim(who, queues, 99))


def ids(deliveries: Sequence[Delivery]) -> list[str]:
    return [delivery.job.id for delivery in deliveries]


async def test_any_name_may_be_that_of_a_job(broker: PostgresBroker) -> None:
    jobs = [Job(id=name, task=name, headers={name: name}) for name in NAMES]
    await broker.enqueue(jobs, Stamp("c", next(_numbers)))
    answers = await broker.enqueue(jobs, Stamp("c", next(_numbers)))
    assert [answer.fate for answer in answers] == [Fate.DUPLICATE] * len(NAMES)
    await broker.heartbeat(worker("w"), [], 60)
    found = (await turn(broker, "w", [], "default")).deliveries
    assert ids(found) == NAMES
    assert [delivery.job.task for delivery in found] == NAMES
    beats = [Beat(delivery.job.id, delivery.epoch) for delivery in found]
    orders = await broker.heartbeat(worker("w"), beats, 60, max(beat.epoch for beat in beats))
    assert (list(orders.lost), orders.returned) == ([], 0)
    assert not (await turn(broker, "w", [Done(beat.id, beat.epoch) for beat in beats])).refused


@pytest.mark.parametrize("name", NAMES)
async def test_any_name_may_be_that_of_a_queue_a_worker_and_a_client(broker: PostgresBroker, name: str) -> None:
    await broker.enqueue([Job(id=f"{number}", task="t", queue=name) for number in range(4)], Stamp(name, 1))
    await broker.enqueue([Job(id="other", task="t")], Stamp(name, 2))
    await broker.wait([name], 5)
    await broker.heartbeat(worker(name, [name]), [], 60)
    found = (await turn(broker, name, [], name)).deliveries
    assert ids(found) == ["0", "1", "2", "3"]
    token = [(delivery.job.id, delivery.epoch) for delivery in found]
    outcomes: list[Outcome] = [
        Again(*token[0], NO_TRAIL, queue=name),
        Released(*token[1]),
        Dead(*token[2], NO_TRAIL),
        Done(*token[3]),
    ]
    again = await turn(broker, name, outcomes, name)
    assert (sorted(ids(again.deliveries)), list(again.refused)) == (["0", "1"], [])
    assert await broker.dead_letters.count(name) == 1
    assert list((await broker.sweep(name, 10)).peers) == [name]


@pytest.mark.parametrize("name", NAMES)
async def test_any_name_may_be_asked_for_among_the_dead(broker: PostgresBroker, name: str) -> None:
    dead = broker.dead_letters
    await broker.enqueue([Job(id=one, task="t", queue=name) for one in (name, "other", "last")], Stamp("c", 1))
    await broker.heartbeat(worker("w"), [], 60)
    found = (await turn(broker, "w", [], name)).deliveries
    await turn(broker, "w", [Dead(delivery.job.id, delivery.epoch, NO_TRAIL) for delivery in found])
    assert [one.job.id for one in await dead.peek(name, 10)] == [name, "other", "last"]
    assert await dead.replay(name, ids=["nobody", name]) == 1
    assert ids((await turn(broker, "w", [], name)).deliveries) == [name]
    assert [one.job.id for one in await dead.pop(name, 1)] == ["other"]
    assert await dead.purge(name) == 1
    assert await dead.count(name) == 0


@pytest.mark.parametrize("way", ASYNC.values(), ids=ASYNC)
async def test_any_name_goes_through_any_connection(
    broker: PostgresBroker, url: str, postgres_url: str, way: Any
) -> None:
    jobs = [Job(id=name, task=name, queue=name) for name in NAMES]
    async with way(postgres_url) as (connection, _):
        await broker.transactions.join(connection).enqueue(jobs)
    await broker.heartbeat(worker("w"), [], 60)
    assert sorted(ids((await turn(broker, "w", [], *NAMES)).deliveries)) == sorted(NAMES)


@pytest.mark.parametrize("way", SYNC.values(), ids=SYNC)
def test_any_name_goes_through_any_synchronous_connection(url: str, postgres_url: str, way: Any) -> None:
    async def found() -> list[str]:
        async with PostgresBroker(url) as broker:
            await broker.heartbeat(worker("w"), [], 60)
            return ids((await turn(broker, "w", [], *NAMES)).deliveries)

    asyncio.run(found())  # makes the schema
    jobs = [Job(id=name, task=name, queue=name) for name in NAMES]
    with way(postgres_url) as (connection, _):
        PostgresBroker(url).transactions.join_sync(connection).enqueue(jobs)
    assert sorted(asyncio.run(found())) == sorted(NAMES)


async def test_what_postgres_cannot_hold_is_refused_and_costs_nobody_else(broker: PostgresBroker) -> None:
    for name in ("nul\0inside", "\0"):
        with pytest.raises(BrokerRefused):
            await broker.enqueue([Job(id=name, task="t", queue="q")], Stamp("bad", next(_numbers)))
    await broker.enqueue([Job(id="good", task="t", queue="q")], Stamp("c", next(_numbers)))
    await broker.heartbeat(worker("w"), [], 60)
    assert ids((await turn(broker, "w", [], "q")).deliveries) == ["good"]
