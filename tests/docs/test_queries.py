"""The queries on the page of brokers show what is in a SQLite file."""

import shlex
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from jobq.model import Claim, Dead, Failure, Job, Stamp, Trail, WorkerInfo
from jobq_sqlite import SqliteBroker
from tests.docs.pages import ROOT, blocks

COMMANDS: Final = [
    shlex.split(line)
    for block in blocks(ROOT / "docs/brokers.md")
    for line in block.text.splitlines()
    if line.startswith("sqlite3 ")
]


async def fill(path: Path) -> None:
    """In `default` one job is ready, one is running, one is scheduled, and one has died; in `mail` two are ready."""
    jobs = [Job(id=name, task="t") for name in ("dead", "running", "ready")]
    jobs += [Job(id="late", task="t", delay=3600), *(Job(id=name, task="t", queue="mail") for name in ("m", "n"))]
    async with SqliteBroker(f"sqlite:///{path}") as broker:
        await broker.enqueue(jobs, Stamp("client", 1))
        await broker.heartbeat(WorkerInfo("w", "here"), (), 60)
        dead, _ = (await broker.turn((), Claim("w", ["default"], 2))).deliveries
        trail = Trail(attempt=1, failure=Failure("ConnectionError", "no such server"))
        await broker.turn([Dead(dead.job.id, dead.epoch, trail)], Claim("w", ["default"], 0))


def answer(file: Path, sql: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(file)) as db:
        return db.execute(sql).fetchall()


async def test_the_queries_on_the_page_count_the_living_and_name_the_dead(tmp_path: Path) -> None:
    files, (living, dead) = {command[1] for command in COMMANDS}, [command[2] for command in COMMANDS]
    (file,) = (tmp_path / file for file in files)
    await fill(file)
    assert sorted(answer(file, living)) == [("default", 3, 1, 1), ("mail", 2, 0, 0)]
    ((name, died, why),) = answer(file, dead)
    assert (name, why) == ("dead", "no such server")
    assert abs(datetime.fromisoformat(died).replace(tzinfo=UTC) - datetime.now(UTC)) < timedelta(minutes=1)
