"""Servers that are locked down: where nothing may be declared, and users that may do no more than they must."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from aiormq.exceptions import ChannelNotFoundEntity

from jobq.errors import BrokerRefused
from jobq.model import Again, Dead, Done, Released, Trail
from jobq_rmq import RmqBroker
from jobq_rmq.__main__ import main
from jobq_rmq._topology import Kind
from tests.rmq.node import Node, Rights
from tests.rmq.tools import KINDS, Space, claim, collect, drain, lease, put, space_on, stored_at_last

QUEUES = ("default", "other")
both = pytest.mark.parametrize("kind", KINDS)
COMMAND = r"python -m jobq_rmq 'amqp://.*' QUEUE…"


def printed(*arguments: str) -> str:
    """What the command prints."""
    return subprocess.run(
        [sys.executable, "-m", "jobq_rmq", *arguments], check=True, capture_output=True, text=True
    ).stdout


def provide(node: Node, url: str, queues: Sequence[str] = QUEUES) -> None:
    """What an operator does."""
    node.ctl("import_definitions", str(node.server.write("definitions.json", printed(url, *queues))))


async def live(broker: RmqBroker, space: Space) -> None:
    """All that happens to jobs."""
    await put(broker, "done", "again", "moved", "released", "dead")
    await lease(broker)
    held = {one.job.id: one for one in (await claim(broker)).deliveries}
    await put(broker, "late", delay=0.2)
    await claim(
        broker,
        Done("done", held["done"].epoch),
        Again("again", held["again"].epoch, Trail(attempt=1), 0.2),
        Again("moved", held["moved"].epoch, Trail(attempt=1), 0, "other"),
        Released("released", held["released"].epoch, 0.1),
        Dead("dead", held["dead"].epoch, Trail(attempt=1)),
        limit=0,
    )
    found = await collect(broker, 4, queues=QUEUES)
    assert sorted(one.job.id for one, _ in found) == ["again", "late", "moved", "released"]
    await space.has("dead.default", 1)
    assert await space.ready("unroutable") == 0


@pytest.fixture(scope="module")
def users(shared_node: Node) -> Iterator[dict[str, str]]:
    """Servers' URLs with users of different rights; all of those are on prefixes of tests, and on nothing else."""
    prefix = rf"^t{os.getpid()}-\d+\."
    rights = {
        "maker": Rights(prefix, prefix, prefix),
        "runner": Rights("^$", rf"{prefix}(jobs|dlx|delay\..*)$", rf"{prefix}(high|normal|low|suspects)\."),
        "producer": Rights("^$", rf"{prefix}(jobs|delay\..*)$", "^$"),
        "nobody": Rights("^$", "^$", "^$"),
    }
    with shared_node.users(rights) as urls:
        yield urls


@both
async def test_where_nobody_may_declare_jobs_live_on_what_was_imported_and_on_few_rights(
    patient: Node, users: dict[str, str], kind: Kind
) -> None:
    async with space_on(patient.url) as space:
        space.queues |= set(QUEUES)
        url = space.url(kind, users["runner"], declare="no")
        await asyncio.to_thread(provide, patient, url)
        async with RmqBroker(url) as broker:
            await live(broker, space)
        async with RmqBroker(space.url(kind)) as broker:  # one that declares finds nothing to be different
            await put(broker, "a", delay=0.1)
            assert [one.job.id for one, _ in await collect(broker, 1)] == ["a"]


@both
async def test_a_user_whose_rights_end_with_the_prefix_may_make_all_from_nothing(
    patient: Node, users: dict[str, str], kind: Kind
) -> None:
    async with space_on(patient.url) as space:
        space.queues |= set(QUEUES)
        async with RmqBroker(space.url(kind, users["maker"])) as broker:
            await live(broker, space)


async def test_who_only_enqueues_where_nobody_may_declare_needs_to_read_nothing(
    patient: Node, users: dict[str, str]
) -> None:
    async with space_on(patient.url) as space, RmqBroker(space.url()) as other:
        await stored_at_last(other, "a", delay=0.1)
        async with RmqBroker(space.url(server=users["producer"], declare="no")) as broker:
            await put(broker, "b")
            await put(broker, "c", delay=0.1)
        assert sorted(one.job.id for one, _ in await collect(other, 3)) == ["a", "b", "c"]


async def test_who_may_not_declare_is_told_the_rights_and_how_to_do_without(
    patient: Node, users: dict[str, str]
) -> None:
    async with space_on(patient.url) as space:
        name = rf"{space.prefix}\.unroutable"
        with pytest.raises(BrokerRefused, match=rf"ACCESS_REFUSED.*'{name}'.*'\^{space.prefix}\\\.'.*{COMMAND}"):
            async with RmqBroker(space.url(server=users["runner"])):
                pass


async def test_who_may_not_write_or_read_is_told_the_rights(patient: Node, users: dict[str, str]) -> None:
    async with space_on(patient.url) as space, RmqBroker(space.url()) as broker:
        await put(broker, "a")
        async with RmqBroker(space.url(server=users["nobody"], declare="no")) as poor:
            rights = rf"to write and to read '\^{space.prefix}\\\.'"
            with pytest.raises(BrokerRefused, match=rf"ACCESS_REFUSED.*'{space.prefix}\.jobs'.*{rights}"):
                await put(poor, "b")
            await lease(poor)
            with pytest.raises(BrokerRefused, match=rf"ACCESS_REFUSED.*'{space.prefix}\.high\.default'.*{rights}"):
                await claim(poor)
        assert await drain(broker) == ["a"]


async def test_whether_the_plug_in_is_there_can_be_asked_without_any_rights(
    patient: Node, users: dict[str, str]
) -> None:
    async with space_on(patient.url) as space:
        with pytest.raises(BrokerRefused, match=r"unknown exchange type|the last that can"):
            async with RmqBroker(space.url(server=users["nobody"], delay="plugin", declare="no")):
                pass


async def exists(space: Space, exchange: str) -> bool:
    channel = await space.connection.channel()
    try:
        await channel.exchange_declare(f"{space.prefix}.{exchange}", passive=True)
    except ChannelNotFoundEntity:
        return False
    return True


async def test_what_is_missing_is_named_and_not_made(space: Space) -> None:
    async with RmqBroker(space.url(declare="no")) as broker:
        with pytest.raises(BrokerRefused, match=rf"no exchange '{space.prefix}\.jobs'.*{COMMAND}"):
            await put(broker, "a")
        await lease(broker)
        with pytest.raises(BrokerRefused, match=rf"no queue '{space.prefix}\.high\.default'.*{COMMAND}"):
            await claim(broker)
        assert not await exists(space, "jobs")
        async with RmqBroker(space.url()) as other:
            await put(other, "b")
        with pytest.raises(BrokerRefused, match=rf"no exchange '{space.prefix}\.delay\.classic.*{COMMAND}"):
            await put(broker, "c", delay=1)
        await space.delete("normal.default")
        with pytest.raises(BrokerRefused, match=rf"no queue for 'normal\.default' at .*{COMMAND}"):
            await put(broker, "d")
        assert not await exists(space, "delay.classic.v1.00")


async def test_when_what_was_missing_is_there_jobs_go_on(space: Space) -> None:
    async with RmqBroker(space.url(declare="no")) as locked:
        await lease(locked)
        for work in (put(locked, "a"), claim(locked)):
            with pytest.raises(BrokerRefused):
                await work
        async with RmqBroker(space.url()) as other:
            await put(other, "b")
        await put(locked, "c")
        assert sorted(await drain(locked)) == ["b", "c"]
        await space.delete("high.default", "normal.default", "low.default")
        with pytest.raises(BrokerRefused, match="no queue"):
            await put(locked, "d")
        async with RmqBroker(space.url()) as other:
            await put(other, "e")
        assert [one.job.id for one, _ in await collect(locked, 1)] == ["e"]


async def test_what_is_printed_is_what_is_declared(patient: Node) -> None:
    async with space_on(patient.url) as space, space_on(patient.url) as other:
        urls = [space.url("classic"), other.url("quorum")]
        for url in urls:
            async with RmqBroker(url) as broker:
                await stored_at_last(broker, "a", delay=0.1)
        exported = json.loads(await asyncio.to_thread(patient.ctl, "export_definitions", "-"))
        for url, prefix in zip(urls, (space.prefix, other.prefix), strict=True):
            for part, entities in json.loads(printed(url, "default")).items():
                made = [one for one in exported[part] if is_under(prefix, one)]
                if part == "queues":  # the server says their type twice
                    made = [{key: one[key] for key in one if key != "type"} for one in made]
                assert ordered(made) == ordered(entities)


def is_under(prefix: str, entity: dict[str, Any]) -> bool:
    name: str = entity.get("name") or entity["source"]
    return name.startswith(f"{prefix}.")


def ordered(entities: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(entities, key=lambda entity: json.dumps(entity, sort_keys=True))


def test_definitions_are_of_the_url_s_virtual_host_and_of_each_queue_once(capsys: pytest.CaptureFixture[str]) -> None:
    main(["amqp://u:***@h/my%20v?prefix=q&type=classic&delay=plugin&declare=no", "a", "b", "a"])
    found = json.loads(capsys.readouterr().out)
    assert {one["vhost"] for part in found.values() for one in part} == {"my v"}
    assert [one["name"] for one in found["queues"]].count("q.normal.a") == 1
    assert [one["name"] for one in found["exchanges"] if one["type"] == "x-delayed-message"] == ["q.delayed.classic"]


def test_a_url_that_is_wrong_is_told_without_its_password(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["amqp://u:secret@h?typ=classic", "a"])
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert "there is no option 'typ'" in said
    assert "secret" not in said
