"""The schema is applied by whoever comes first, or by an operator, again and again, and by many at once."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from importlib import import_module
from typing import Any

import pytest

from jobq.errors import BrokerRefused
from jobq.model import Claim, Done, Job, Stamp, WorkerInfo
from jobq_postgres import PostgresBroker
from tests.servers import Server
from tests.services import POSTGRES

asyncpg: Any = import_module("asyncpg")


@pytest.fixture
async def admin(postgres_url: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(postgres_url)
    yield connection
    await connection.close()


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "jobq", "schema", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)


async def test_many_may_apply_it_at_once(url: str) -> None:
    brokers = [PostgresBroker(url) for _ in range(8)]
    await asyncio.gather(*(broker.__aenter__() for broker in brokers))
    for broker in brokers:
        await broker.__aexit__(None, None, None)
    assert await PostgresBroker(url).schema.lacking() is None


async def test_applied_again_it_changes_nothing_and_loses_no_job(url: str, admin: Any, schema: str) -> None:
    async with PostgresBroker(url) as broker:
        await broker.enqueue([Job(id="a", task="t")], Stamp("c", 1))
        assert not await broker.schema.apply()
        await admin.execute(broker.schema.script())
        assert await admin.fetchval(f"SELECT count(*) FROM {schema}.jobs") == 1


async def test_what_was_changed_by_an_older_version_is_brought_up_to_date(url: str, admin: Any, schema: str) -> None:
    async with PostgresBroker(url) as broker:
        await admin.execute(f"UPDATE {schema}.versions SET version = 0, digest = 'old'")
        lacking = await broker.schema.lacking()
        assert lacking is not None
        assert "has version 0" in lacking
        assert await broker.schema.apply()
        assert await broker.schema.lacking() is None


async def test_a_newer_schema_is_used_as_long_as_it_says_that_it_can_be(url: str, admin: Any, schema: str) -> None:
    async with PostgresBroker(url):
        await admin.execute(f"UPDATE {schema}.versions SET version = 99, digest = 'new'")
    async with PostgresBroker(url):
        await admin.execute(f"UPDATE {schema}.versions SET oldest = 98")
    with pytest.raises(BrokerRefused, match="version 99, which this jobq is too old for"):
        await PostgresBroker(url).__aenter__()


async def test_nothing_is_applied_if_the_url_says_so(url: str, admin: Any, schema: str) -> None:
    with pytest.raises(BrokerRefused, match=r"there is no jobq in the schema .*jobq schema apply"):
        await PostgresBroker(f"{url}&apply=no").__aenter__()
    assert not await admin.fetchval("SELECT to_regnamespace($1) IS NOT NULL", schema)


async def test_a_role_with_no_more_than_the_grants_can_do_everything(
    admin: Any, schema: str, postgres_url: str
) -> None:
    owner = PostgresBroker(f"{postgres_url}?schema={schema}")
    await owner.schema.apply()
    role = f'odd "{schema}" role'
    quoted = role.replace('"', '""')
    await admin.execute(f'CREATE ROLE "{quoted}" LOGIN')
    await admin.execute(owner.schema.grants(role))
    user = role.replace('"', "%22").replace(" ", "%20")
    async with PostgresBroker(f"{postgres_url.replace('jobq@', f'{user}@')}?schema={schema}") as broker:
        await everything(broker)
    await admin.execute(f'DROP OWNED BY "{quoted}"')
    await admin.execute(f'DROP ROLE "{quoted}"')


async def everything(broker: PostgresBroker) -> None:
    """Every verb, and every one of the dead letters' ."""
    info = WorkerInfo(id="w", host="h")
    await broker.heartbeat(info, [], 60)
    await broker.enqueue([Job(id=name, task="t") for name in "abc"], Stamp("c", 1))
    await broker.enqueue([Job(id="d", task="t", delay=60.0)], Stamp("c", 2))
    turn = await broker.turn([], Claim("w", ["default"], 10, resume=5))
    first, *others = turn.deliveries
    model: Any = import_module("jobq.model")
    dead = [model.Dead(one.job.id, one.epoch, model.Trail()) for one in others]
    await broker.turn([Done(first.job.id, first.epoch), *dead], Claim("w", ["default"], 10, resume=turn.resume))
    assert await broker.dead_letters.count("default") == 2
    assert await broker.dead_letters.replay("default", limit=1) == 1
    assert len(await broker.dead_letters.pop("default", 1)) == 1
    await broker.wait(["default"], 0.1)
    await broker.sweep("h", 10, ["w"])
    await broker.heartbeat(info, [], 0)


def test_the_command_checks_applies_and_prints(url: str) -> None:
    checked = run("check", "-b", url)
    assert (checked.returncode, "there is no jobq in the schema" in checked.stdout) == (1, True)
    assert run("apply", "-b", url).stdout == "applied\n"
    assert run("apply", "-b", url).stdout == "nothing to do\n"
    assert run("check", "-b", url).stdout == "up to date\n"
    printed = run("print", "-b", url, "--role", "worker").stdout
    assert "CREATE TABLE IF NOT EXISTS" in printed
    assert "GRANT USAGE ON SCHEMA" in printed


def test_what_is_printed_makes_what_is_checked_by_psql_or_anything_else(postgres_url: str, schema: str) -> None:
    url = f"{postgres_url}?schema={schema}"
    psycopg: Any = import_module("psycopg")
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(run("print", "-b", url).stdout.encode())
    assert run("check", "-b", url).stdout == "up to date\n"


def test_the_command_says_what_is_wrong() -> None:
    memory = run("check", "-b", "memory://")
    assert (memory.returncode, "has no schema to see to" in memory.stderr) == (1, True)
    assert run("check", "-b", "postgresql://h/d?schema=a-b").returncode == 2
    away = run("apply", "-b", "postgresql://127.0.0.1:1/d")
    assert (away.returncode, "cannot reach Postgres" in away.stderr) == (1, True)


async def test_a_database_in_another_encoding_is_refused() -> None:
    with Server(POSTGRES) as server:
        admin = await asyncpg.connect(server.url)
        await admin.execute("CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'")
        await admin.close()
        with pytest.raises(BrokerRefused, match="not encoded in UTF8"):
            await PostgresBroker(server.url.replace("/postgres", "/latin")).__aenter__()
        with pytest.raises(BrokerRefused, match="refuses the connection"):
            await PostgresBroker(server.url.replace("/postgres", "/nowhere")).__aenter__()
