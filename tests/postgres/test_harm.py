"""Locks, limits and lost connections: a clear error in time, and everything goes on afterwards."""

import asyncio
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from importlib import import_module
from typing import Any

import pytest

from jobq.errors import BrokerRefused, BrokerUnavailable, OutcomeUnknown
from jobq.model import Claim, Done, Job, Stamp, Token, WorkerInfo
from jobq_postgres import PostgresBroker, _ears, _lines
from tests.proxy import Proxy
from tests.servers import Server
from tests.services import POSTGRES

asyncpg: Any = import_module("asyncpg")
INFO = WorkerInfo(id="w", host="h")


@pytest.fixture
async def admin(postgres_url: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(postgres_url)
    yield connection
    await connection.close()


@pytest.fixture
async def broker(url: str) -> AsyncIterator[PostgresBroker]:
    async with PostgresBroker(f"{url}&timeout=1") as broker:
        yield broker


def job(name: str) -> Job:
    return Job(id=name, task="t")


async def drained(broker: PostgresBroker) -> list[str]:
    await broker.heartbeat(INFO, [], 60)
    turn = await broker.turn([], Claim("w", ["default"], 100))
    await broker.turn([Done(one.job.id, one.epoch) for one in turn.deliveries], Claim("w"))
    return [one.job.id for one in turn.deliveries]


async def test_a_table_that_somebody_has_locked_is_an_error_in_time_and_nothing_was_stored(
    broker: PostgresBroker, admin: Any, schema: str
) -> None:
    began = time.monotonic()
    async with admin.transaction():
        await admin.execute(f"LOCK TABLE {schema}.jobs")
        with pytest.raises(BrokerUnavailable, match="cannot do this now: canceling statement due to") as caught:
            await broker.enqueue([job("a")], Stamp("c", 1))
    assert not isinstance(caught.value, OutcomeUnknown)
    assert time.monotonic() - began < 1.5
    await broker.enqueue([job("b")], Stamp("c", 1))
    assert await drained(broker) == ["b"]


async def test_a_deadlock_is_an_error_and_nothing_was_stored(url: str, admin: Any, schema: str) -> None:
    """With a migration of the user's that locks our tables in another order."""
    async with PostgresBroker(url) as broker:
        await broker.enqueue([job("a")], Stamp("c", 1))
        async with admin.transaction():
            await admin.execute("SET LOCAL deadlock_timeout = '1min'")  # so that the other one notices first
            await admin.execute(f"LOCK TABLE {schema}.jobs IN SHARE MODE")
            storing = asyncio.ensure_future(broker.enqueue([job("b")], Stamp("c", 2)))  # has its stamp, wants the jobs
            await asyncio.wait([storing], timeout=0.2)
            await admin.execute(f"UPDATE {schema}.stamps SET at = now() WHERE client = 'c'")
            with pytest.raises(BrokerUnavailable, match="cannot do this now: deadlock detected") as caught:
                await storing
        assert not isinstance(caught.value, OutcomeUnknown)
        await broker.enqueue([job("b")], Stamp("c", 2))
        assert await drained(broker) == ["a", "b"]


async def test_a_schema_that_was_dropped_says_what_to_do(broker: PostgresBroker, admin: Any, schema: str) -> None:
    await admin.execute(f"DROP SCHEMA {schema} CASCADE")
    with pytest.raises(BrokerRefused, match=r"is not what this jobq needs .*jobq schema apply"):
        await broker.enqueue([job("a")], Stamp("c", 1))


async def test_a_server_that_only_reads_is_waited_for(broker: PostgresBroker, admin: Any) -> None:
    await admin.execute("SELECT pg_sleep(0)")
    for line in broker._lines._idle:
        await line.connection.execute("SET default_transaction_read_only = on")
    with pytest.raises(BrokerUnavailable, match="cannot do this now: cannot execute"):
        await broker.enqueue([job("a")], Stamp("c", 1))
    await broker.enqueue([job("a")], Stamp("c", 2))
    assert await drained(broker) == ["a"]


async def test_a_lost_reply_is_an_unknown_outcome_and_a_repetition_stores_nothing_twice(
    postgres_url: str, schema: str
) -> None:
    port = int(postgres_url.rpartition(":")[2].partition("/")[0])
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(Proxy("127.0.0.1", port))
        url = postgres_url.replace(str(port), str(proxy.port))
        broker = await stack.enter_async_context(PostgresBroker(f"{url}?schema={schema}&timeout=1"))
        await broker.enqueue([job("first")], Stamp("c", 1))
        proxy.lose_replies(b"the-lost-one", times=1)
        with pytest.raises(OutcomeUnknown, match="was lost before the reply"):
            await broker.enqueue([job("the-lost-one")], Stamp("c", 2))
        await broker.enqueue([job("the-lost-one")], Stamp("c", 2))
        assert await drained(broker) == ["first", "the-lost-one"]
        await broker.enqueue([job("the-lost-one")], Stamp("c", 2))
        assert await drained(broker) == []


async def test_calls_to_a_silent_server_end_in_time_and_what_they_did_is_unknown(
    postgres_url: str, schema: str
) -> None:
    port = int(postgres_url.rpartition(":")[2].partition("/")[0])
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(Proxy("127.0.0.1", port))
        url = postgres_url.replace(str(port), str(proxy.port))
        broker = await stack.enter_async_context(PostgresBroker(f"{url}?schema={schema}&timeout=1&notify=no"))
        await asyncio.gather(*(broker.enqueue([job(f"warm-{n}")], Stamp(f"c{n}", 1)) for n in range(2)))

        async def cut_off(name: str, client: str) -> float:
            began = time.monotonic()
            with pytest.raises(OutcomeUnknown, match="no answer in time"):
                await broker.enqueue([job(name)], Stamp(client, 2))
            return time.monotonic() - began

        proxy.blackhole()
        first = asyncio.create_task(cut_off("a", "c0"))
        await asyncio.wait([first], timeout=0.5)
        second = asyncio.create_task(cut_off("b", "c1"))
        for took in await asyncio.gather(first, second):
            assert 0.95 < took < 1.4
        proxy.heal()
        await broker.enqueue([job("a")], Stamp("c0", 2))
        found = await drained(broker)
        assert sorted(name for name in found if name != "b") == [
            "a",
            "warm-0",
            "warm-1",
        ]  # "b" may have arrived as well


async def test_three_hundred_idle_connections_of_others_slow_nothing_down() -> None:
    with Server(POSTGRES, arguments=("-c", "max_connections=400")) as server:
        async with PostgresBroker(server.url) as broker:
            await hundred(broker)
            empty = await hundred(broker)
            crowd = await asyncio.gather(*(asyncpg.connect(server.url) for _ in range(300)))
            full = await hundred(broker)
            for connection in crowd:
                connection.terminate()
    assert full < 3 * empty


async def hundred(broker: PostgresBroker) -> float:
    """The seconds that each of a hundred jobs takes: the median, as others are at work on this machine, too."""
    seconds = list[float]()
    for number in range(100):
        began = time.monotonic()
        await broker.enqueue([job(f"job-{number}")], Stamp("c", time.monotonic_ns()))
        assert await drained(broker) == [f"job-{number}"]
        seconds.append(time.monotonic() - began)
    return statistics.median(seconds)


async def test_who_sleeps_looks_for_himself_while_the_connection_that_hears_is_lost(
    url: str, admin: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(_: int) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(_ears, "rest", never)
    async with PostgresBroker(url) as sleeper, PostgresBroker(f"{url}&notify=no") as quiet:
        sleeping = asyncio.ensure_future(sleeper.wait(["default"], 60))
        async with asyncio.timeout(10):
            while not (ears := sleeper._wakes._ears) or not ears._asleep:
                await asyncio.wait([sleeping], timeout=0.01)
            hearing: Any = ears._connection
            await admin.execute("SELECT pg_terminate_backend($1)", hearing.get_server_pid())
            await quiet.enqueue([job("a")], Stamp("c", 1))
            await sleeping


async def test_a_broker_whose_server_is_silent_is_left_in_time() -> None:
    with Server(POSTGRES) as server:
        async with PostgresBroker(server.url) as broker:
            await broker.enqueue([job("a")], Stamp("c", 1))
            settlement = broker.transactions.settle("w", Token("a", 1))
            await settlement.begin()
            await settlement.rollback()
            server.pause()
            broker._bell.ring()
            began = time.monotonic()
        assert time.monotonic() - began < 3.0


async def test_a_jobs_connection_is_ended_and_its_place_free_if_giving_it_back_is_cut_short(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with PostgresBroker(f"{url}&transactions=1") as broker:
        settlement = broker.transactions.settle("w", Token("a", 1))
        connection = await settlement.begin()

        async def cut(_: object) -> None:
            raise asyncio.CancelledError

        with monkeypatch.context() as patch:
            patch.setattr(asyncpg.Connection, "reset", cut)
            with pytest.raises(asyncio.CancelledError):
                await settlement.rollback()
        assert connection.is_closed()
        async with asyncio.timeout(5):
            other = broker.transactions.settle("w", Token("a", 1))
            await other.begin()
            await other.rollback()


async def test_pauses_between_attempts_stay_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    slept = list[float]()

    async def note(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", note)
    for _ in range(20):
        await _lines.rest(5000)
    assert 1 < max(slept) <= 5
