"""The outbox: a job for one broker, stored in a transaction in a database, is moved on if that commits."""

import asyncio
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import pytest
from blockbuster import blockbuster_ctx
from click.testing import CliRunner

from jobq import App, Client, SyncClient, current
from jobq.cli import main
from jobq.clock import SYSTEM_CLOCK
from jobq.errors import ConfigError, Unsupported
from jobq.model import Job
from jobq.worker import Worker
from jobq.worker.relay import relay
from tests.core.bench import until
from tests.rmq.tools import space_on
from tests.servers import Server, free_port

asyncpg: Any = import_module("asyncpg")
app = App()
ran = Counter[str]()
seen: list[Job] = []
_numbers = count()


@app.task
async def note(name: str) -> None:
    ran[name] += 1
    seen.append(current().job)


@app.task(queue="mail", priority=4)
async def mail(name: str) -> None:
    await note(name)


@pytest.fixture(autouse=True)
def _no_blocked_loop() -> Iterator[None]:
    """Fail tests in which our code blocks an event loop, but for what a worker reads once, when it starts."""
    with blockbuster_ctx(["jobq", "jobq_postgres", "jobq_rmq", "jobq_redis"]) as blocking:
        for function in blocking.functions.values():
            function.can_block_in("asyncpg/connect_utils.py", "_parse_connect_dsn_and_args")
            function.can_block_in("jobq/plugins.py", "open_broker")
            function.can_block_in("jobq/worker/identity.py", {"host_id", "_start_time", "_is_dead"})
        yield


@pytest.fixture(autouse=True)
def _forget() -> None:
    ran.clear()
    seen.clear()


@pytest.fixture
def outbox(postgres_url: str) -> str:
    return f"{postgres_url}?schema=outbox_{os.getpid()}_{next(_numbers)}"


@pytest.fixture
async def connection(postgres_url: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(postgres_url)
    yield connection
    await connection.close()


@pytest.fixture
async def target(request: pytest.FixtureRequest, tmp_path: Path, redis_url: str) -> AsyncIterator[str]:
    """Where the jobs go; Redis, if a test does not say."""
    kind = getattr(request, "param", "redis")
    match kind:
        case "redis":
            yield f"{redis_url}?namespace=outbox-{os.getpid()}-{next(_numbers)}"
        case "sqlite":
            yield f"sqlite:///{tmp_path}/jobs.db"
        case "rabbitmq":
            async with space_on(request.getfixturevalue("rabbitmq_url")) as space:
                space.queues.update({"mail"})
                yield space.url()
        case _:
            yield request.getfixturevalue("outbox")


everywhere = pytest.mark.parametrize("target", ["redis", "rabbitmq", "sqlite", "the outbox itself"], indirect=True)


@everywhere
async def test_what_commits_runs_once_and_what_is_rolled_back_never(target: str, outbox: str, connection: Any) -> None:
    async with app.client(target, outbox=outbox) as client, relay(outbox, target), Worker(app, target):
        async with connection.transaction():
            await client.within(connection).perform_async(note, "kept")
            await client.within(connection).perform_many([mail.call(f"{number}") for number in range(50)])
        undone = connection.transaction()
        await undone.start()
        await client.within(connection).perform_async(note, "undone")
        await undone.rollback()
        await client.perform_async(note, "straight")
        await until(lambda: len(ran) >= 52)
    assert ran == Counter(["kept", "straight", *(f"{number}" for number in range(50))])


async def test_a_moved_job_is_the_job_that_was_enqueued(target: str, outbox: str, connection: Any) -> None:
    at = datetime.now(UTC) - timedelta(minutes=1)
    async with app.client(target, outbox=outbox) as client, relay(outbox, target), Worker(app, target):
        async with connection.transaction():
            task = mail.options(id="mine", headers={"trace": "7"})
            handle = await client.within(connection).perform_at(at, task, "a")
        await until(lambda: len(seen) >= 1)
    (job,) = seen
    assert handle.id == job.id == "mine"
    assert (job.task, job.queue, job.priority, job.headers) == ("mail", "mail", 4, {"trace": "7"})


async def test_a_scheduled_job_is_not_early(target: str, outbox: str, connection: Any) -> None:
    times: dict[str, float] = {}
    other = App()

    @other.task
    async def clock(name: str) -> None:
        times[name] = SYSTEM_CLOCK.time()

    async with other.client(target, outbox=outbox) as client, relay(outbox, target), Worker(other, target):
        begin = SYSTEM_CLOCK.time()
        async with connection.transaction():
            await client.within(connection).perform_in(0.7, clock, "late")
            await client.within(connection).perform_async(clock, "now")
        await until(lambda: len(times) == 2)
    assert times["now"] < times["late"]
    assert times["late"] - begin >= 0.7


def test_synchronous_code_has_an_outbox_too(target: str, outbox: str, postgres_url: str) -> None:
    with SyncClient(target, outbox=outbox) as client, psycopg.connect(postgres_url) as db:
        with db.transaction():
            client.within(db).perform_async(note, "kept")
        with db.transaction(force_rollback=True):
            client.within(db).perform_async(note, "undone")
    asyncio.run(moved(outbox, target))
    assert ran == Counter(["kept"])


async def moved(outbox: str, target: str) -> None:
    """Move what is there, and run it."""
    await relay(outbox, target, burst=True).run()
    await Worker(app, target, burst=True).run()


async def test_a_job_that_is_moved_twice_is_stored_once(target: str, outbox: str, connection: Any) -> None:
    async with app.client(target, outbox=outbox) as client:
        async with connection.transaction():
            await client.within(connection).perform_async(note.options(id="one"), "a")
        await client.perform_async(note.options(id="one"), "a")  # as a relay does that dies before it has noted it
        await moved(outbox, target)
    assert ran == Counter(["a"])


async def test_jobs_wait_while_their_broker_is_away(outbox: str, connection: Any, tmp_path: Path) -> None:
    port = free_port()
    url = f"redis://127.0.0.1:{port}/0?socket_timeout=1"
    async with Client(f"sqlite:///{tmp_path}/other.db", outbox=outbox) as client, relay(outbox, url) as moving:
        async with connection.transaction():
            await client.within(connection).perform_async(note, "a")
        await until(lambda: moving.running)
        await until(lambda: not moving.running, 20)
        with Server(port=port):
            async with Worker(app, url):
                await until(lambda: ran, 30)
    assert ran == Counter(["a"])


def relay_process(outbox: str, target: str, *arguments: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "jobq", "relay", "--outbox", outbox, "--broker", target, *arguments]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def end(process: "subprocess.Popen[bytes]") -> None:
    """Kill -9."""
    process.kill()
    process.wait()


def has_run(least: int) -> bool:
    return len(ran) >= least


async def test_killed_relays_lose_nothing(target: str, outbox: str, connection: Any) -> None:
    names = [f"{number}" for number in range(3000)]
    async with app.client(target, outbox=outbox) as client:
        async with connection.transaction():
            await client.within(connection).perform_many([note.call(name) for name in names])
        relays = [await asyncio.to_thread(relay_process, outbox, target) for _ in range(2)]
        try:
            async with Worker(app, target):
                for least in (100, 1000, 2000):
                    await until(partial(has_run, least), 30)
                    relays.append(await asyncio.to_thread(relay_process, outbox, target))
                    await asyncio.to_thread(end, relays.pop(0))
                await until(lambda: len(ran) == len(names), 30)
        finally:
            for process in relays:
                await asyncio.to_thread(end, process)
    assert set(ran) == set(names)


async def test_a_relay_ends_when_it_is_told_to(target: str, outbox: str, connection: Any) -> None:
    async with app.client(target, outbox=outbox) as client:
        process = await asyncio.to_thread(relay_process, outbox, target)
        async with Worker(app, target):
            async with connection.transaction():
                await client.within(connection).perform_async(note, "a")
            await until(lambda: ran, 20)
    process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(process.wait, 20) == 0


async def test_a_worker_moves_the_jobs_that_it_then_runs(tmp_path: Path, outbox: str, connection: Any) -> None:
    (tmp_path / "sample.py").write_text(SAMPLE)
    target = f"sqlite:///{tmp_path}/jobs.db"
    async with app.client(target, outbox=outbox) as client, connection.transaction():
        await client.within(connection).perform_async(note, "a")
    command = [sys.executable, "-m", "jobq.worker", "sample:app", "--broker", target, "--outbox", outbox, "--burst"]
    done = await asyncio.to_thread(
        subprocess.run, command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, "ran a\n"), done.stderr


SAMPLE = """
from jobq import App
app = App()
@app.task
async def note(name: str) -> None:
    print("ran", name, flush=True)
"""


def test_an_outbox_is_where_transactions_can_be_joined(target: str, outbox: str) -> None:
    with pytest.raises(ConfigError, match="joins no transactions, so nobody has an outbox there"):
        relay(target, outbox)
    done = CliRunner().invoke(main, ["relay", "--outbox", target, "--broker", outbox])
    assert (done.exit_code, "joins no transactions" in done.output) == (2, True)
    done = CliRunner().invoke(main, ["worker", "sample:app", "--broker", target, "--outbox", target])
    assert (done.exit_code, "joins no transactions" in done.output) == (2, True)


async def test_without_an_outbox_the_error_names_it(target: str, connection: Any) -> None:
    async with app.client(target) as client:
        with pytest.raises(Unsupported, match="outbox"):
            client.within(connection)
