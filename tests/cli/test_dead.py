"""`jobq dead`, on the project's SQLite file."""

import base64
import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import pytest

from jobq.registry import Call
from tests.cli.program import Program, Project
from tests.cli.sample import evil, ping

QUEUE = ("--queue", "default")


def dead(project: Project, *arguments: object, code: int = 0) -> list[str]:
    """What `jobq dead …` prints."""
    program = start(project, *arguments)
    assert program.wait() == code, program.err
    return program.out if code == 0 else program.seen


def start(project: Project, *arguments: object) -> Program:
    return project.start("-m", "jobq", "dead", *arguments, JOBQ_BROKER=project.url)


def bury(project: Project, count: int) -> Sequence[str]:
    """Let jobs die; their ids in the order in which they died."""
    calls: list[Call[Any]] = [evil.options(id=f"evil-{number}").call() for number in range(count)]
    project.enqueue(*calls)
    assert project.worker("--burst", "--concurrency", "1").wait() == 0
    return [f"evil-{number}" for number in range(count)]


def test_dead_jobs_are_counted_shown_replayed_popped_and_purged(project: Project) -> None:
    ids = bury(project, 4)
    assert dead(project, "count", *QUEUE) == ["4"]
    lines = dead(project, "peek", *QUEUE, "--limit", 2)
    assert [line.split()[0] for line in lines] == ids[:2]
    assert lines[0].endswith("  evil  ValueError: one")
    assert dead(project, "replay", *QUEUE, "--id", ids[3], "--id", ids[1]) == ["2 replayed"]
    [popped] = dead(project, "pop", *QUEUE)
    assert popped.startswith(ids[0])
    assert dead(project, "replay", *QUEUE, "--limit", 5) == ["1 replayed"]
    assert project.worker("--burst").wait() == 0
    assert dead(project, "purge", *QUEUE, "--all") == ["3 deleted"]
    assert dead(project, "replay", *QUEUE, "--all") == ["0 replayed"]
    assert dead(project, "count", *QUEUE) == ["0"]


def test_as_json_all_is_there_that_is_known(project: Project) -> None:
    bury(project, 1)
    with closing(sqlite3.connect(project.directory / "jobq.db")) as db, db:
        db.execute("INSERT INTO dead (id, queue, died, envelope) VALUES ('x', 'default', 5, ?)", (b"\xff no job",))
    good, bad = (json.loads(line) for line in dead(project, "peek", *QUEUE, "--json"))
    assert (good["id"], good["task"], good["queue"]) == ("evil-0", "evil", "default")
    assert good["error"].startswith("ValueError: one\ntwo")
    assert good["envelope"]["task"] == "evil"
    assert (good["trail"]["attempt"], good["trail"]["history"][-1]["what"]) == (1, "dead")
    assert "raise ValueError" in good["trail"]["failure"]["traceback"]
    assert (bad["id"], bad["task"], bad["died"]) == ("x", "", 5)
    assert "not an envelope" in bad["malformed"]
    assert base64.b64decode(bad["bytes"]) == b"\xff no job"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("replay", *QUEUE), "say which"),
        (("replay", *QUEUE, "--all", "--limit", "1"), "say which"),
        (("replay", *QUEUE, "--id", "a", "--limit", "1"), "say which"),
        (("purge", *QUEUE), "--all"),
        (("count",), "--queue"),
        (("peek", *QUEUE, "--limit", "101"), "101"),
        (("count", "--queue", "no/queue"), "cannot name a queue"),
    ],
)
def test_what_is_not_said_clearly_is_not_done(project: Project, arguments: Sequence[str], reason: str) -> None:
    assert reason in "\n".join(dead(project, *arguments, code=2))


def test_ids_that_are_not_there_are_an_error(project: Project) -> None:
    project.enqueue(ping.options(id="alive").call(1))
    program = start(project, "replay", *QUEUE, "--id", "alive")
    assert program.wait() == 1
    assert program.out == ["0 replayed"]
    assert "1 of the ids" in program.err


def test_a_broker_that_is_away_is_an_error_in_words(project: Project) -> None:
    seen = dead(project, "count", *QUEUE, "--broker", "redis://127.0.0.1:1/0", code=1)
    assert "cannot reach Redis" in "\n".join(seen)
