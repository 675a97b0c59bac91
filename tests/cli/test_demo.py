"""`jobq demo`: it proves itself from what its jobs wrote."""

import os
import pty
import re
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import cast

import msgspec
import pytest

from jobq import Client
from jobq.cli.demo import jobs
from jobq.cli.demo.crew import Crew
from jobq.cli.demo.run import Plan, Report, _Demo
from jobq.cli.demo.screen import Screen
from jobq.cli.demo.tally import Tally
from jobq.model import Claim, WorkerInfo
from jobq.testing import ManualClock
from jobq.worker.settings import Settings
from jobq_memory import MemoryBroker
from tests.cli.program import Program, Project, alive, until

SMALL_DEMO = """
import sys
from jobq.cli.demo import command
plan = command.Plan(files={files!r}, broker=None, kill=False, concurrency=2)
sys.exit(command._conclude(command._run(plan)))
"""
ALL_DONE = "every file has its result"
ROWS = ["jobs enqueued", "runs", "retried", "dead", "files done", "found in them", "seconds", "jobs/s"]
SHA256_OF_ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, B.1


@pytest.fixture
def folder(project: Project) -> Path:
    """Some files."""
    for number in range(120):
        project.write(f"files/{number % 7}/{number}.txt", "three little words\n" * number)
    project.write("files/__pycache__/no.txt", "no")
    (project.directory / "temporary").mkdir()
    project.env["TMPDIR"] = str(project.directory / "temporary")
    return project.directory / "files"


def demo(project: Project, *arguments: object) -> Program:
    return project.start("-m", "jobq", "demo", *arguments)


def leftovers(project: Project) -> list[str]:
    return [path.name for path in (project.directory / "temporary").iterdir()]


def facts(program: Program) -> dict[str, str]:
    """The table at the end."""
    return dict(re.findall(r"^  (\S.*?)  +(.*)$", "\n".join(program.out), re.MULTILINE))


def worker_of(project: Project, program: Program) -> int:
    """The pid of the demo's worker, once it has one that works."""
    children = Path(f"/proc/{program.pid}/task/{program.pid}/children")
    until(lambda: children.read_text().split(), "the demo's worker")
    return int(children.read_text().split()[0])


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the demo's jobs write in this process."""
    path = tmp_path / "results"
    monkeypatch.setenv(jobs.RESULTS, str(path))
    yield path
    os.close(jobs._results())
    jobs._results.cache_clear()


def test_every_file_is_counted(project: Project, folder: Path) -> None:
    program = demo(project, folder)
    assert program.wait() == 0, program.err
    said = facts(program)
    lines = sum(range(120))
    assert program.out[-1] == ALL_DONE
    assert list(said) == ROWS
    assert said["jobs enqueued"].startswith("120 in ")
    assert said["retried"] == "6"
    assert said["runs"] == "126 in 1 worker process"
    assert said["dead"] == "0"
    assert said["files done"] == "120 of 120, 0 of them more than once"
    assert said["found in them"] == f"{lines:,} lines, {lines * 3:,} words, {lines * 19:,} bytes"
    assert 1 <= float(said["seconds"]) < 15, "some are due a second later"
    assert int(said["jobs/s"]) == pytest.approx(120 / float(said["seconds"]), abs=1)
    assert leftovers(project) == []


def test_a_killed_worker_loses_nothing(project: Project, folder: Path) -> None:
    program = demo(project, folder, "--kill")
    assert program.wait() == 0, program.err
    said = facts(program)
    assert program.out[-1] == f"{ALL_DONE}, though a worker was killed"
    assert list(said) == [*ROWS, "killed"]
    assert re.fullmatch(r"process \d+ after \d+ files, replaced \d+ ms later", said["killed"])
    assert said["runs"].endswith("in 2 worker processes")
    assert said["files done"].startswith("120 of 120, ")
    assert float(said["seconds"]) < 15


async def test_the_worker_is_killed_with_kill_9_and_another_takes_its_place(tmp_path: Path) -> None:
    settings = Settings(app="jobq.cli.demo.jobs:app", broker=f"sqlite:///{tmp_path}/jobq.db")
    async with Crew(settings, tmp_path) as crew:
        first = crew._worker
        assert first is not None
        await crew.kill()
        assert first.returncode == -signal.SIGKILL
        assert crew.pid != first.pid
        assert alive(crew.pid)


async def handed_out(broker: MemoryBroker) -> set[str]:
    """The files of the jobs that a worker has got by now: what it does not say it has is delivered again."""
    await broker.heartbeat(WorkerInfo("w", "here"), (), 600)
    turn = await broker.turn((), Claim("w", ["demo"], 1000))
    return {jobs.digest.signature.decode(delivery.job.body)[0][0] for delivery in turn.deliveries}


async def test_a_delayed_job_is_not_handed_out_before_its_second_is_over(
    memory: MemoryBroker, clock: ManualClock, tmp_path: Path
) -> None:
    files, late = [f"{number}.txt" for number in range(120)], {"1.txt", "51.txt", "101.txt"}
    plan = Plan(files=files, broker=None, kill=False, concurrency=2)
    report = Report(tally=Tally(tmp_path / "results", files), queue="demo")
    async with Client(memory) as client:
        await _Demo(plan, cast("Screen", None), cast("Crew", None), client, report)._enqueue()
    assert await handed_out(memory) == set(files) - late
    clock.advance(0.999)
    assert await handed_out(memory) == set(files) - late
    clock.advance(0.001)
    assert await handed_out(memory) == set(files)


def test_a_file_is_measured_and_hashed(tmp_path: Path, results: Path) -> None:
    (tmp_path / "abc").write_text("abc")
    jobs.digest.function(str(tmp_path / "abc"))
    line = msgspec.json.decode(results.read_bytes(), type=jobs.Line)
    assert line == jobs.Line(
        str(tmp_path / "abc"), "done", os.getpid(), lines=0, words=1, bytes=3, sha256=SHA256_OF_ABC
    )


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_demo_leaves_nothing_behind(
    project: Project, folder: Path, number: signal.Signals, code: int
) -> None:
    del folder  # too few files: it would be over
    program = demo(project)
    worker = worker_of(project, program)
    until(lambda: " of " in "\n".join(program.out), "the first results")
    os.killpg(program.pid, number)
    assert program.wait() == code
    assert not alive(worker)
    assert leftovers(project) == []
    assert "Traceback" not in program.err


def test_a_demo_that_is_killed_takes_its_worker_along(project: Project, folder: Path) -> None:
    program = demo(project, folder)
    worker = worker_of(project, program)
    program.send(signal.SIGKILL)
    until(lambda: not alive(worker), "the worker's end")


def test_another_broker_and_fewer_files(project: Project, folder: Path, redis_url: str) -> None:
    program = demo(project, folder, "--broker", f"{redis_url}?namespace=demo-test", "--limit", 30)
    assert program.wait() == 0, program.err
    assert facts(program)["files done"] == "30 of 30, 0 of them more than once"


def test_a_file_without_a_result_fails_the_demo(project: Project, folder: Path) -> None:
    files = [str(folder / "0" / "7.txt"), str(folder / "gone.txt")]
    program = project.start("-c", SMALL_DEMO.format(files=files))
    assert program.wait() == 1
    said = facts(program)
    assert said["dead"] == "1"
    assert said["files done"] == "1 of 2, 0 of them more than once"
    assert program.seen == [f"no result: {files[1]}", "1 of 2 files have no result"]


def demo_on_a_terminal(project: Project, folder: Path) -> str:
    """What a terminal is sent."""
    parent, child = pty.openpty()
    program = project.start("-m", "jobq", "demo", folder, stdout=child, TERM="xterm", COLUMNS="100")
    os.close(child)
    shown = b""
    with suppress(OSError):  # how a terminal says that nobody writes to it any more
        while news := os.read(parent, 4096):
            shown += news
    os.close(parent)
    assert program.wait() == 0, program.err
    return shown.decode()


def test_a_terminal_gets_a_bar_and_a_live_rate(project: Project, folder: Path) -> None:
    text = demo_on_a_terminal(project, folder)
    assert "120/120" in text
    assert "━" in text
    assert re.search(r"[1-9]\d* files/s", text)
    assert ALL_DONE in text


def test_without_rich_a_terminal_gets_lines_with_a_live_rate(project: Project, folder: Path) -> None:
    project.write("rich.py", "raise ModuleNotFoundError('no rich', name='rich')\n")
    text = demo_on_a_terminal(project, folder)
    progress = re.findall(r"^(\d+) of 120 files, \d+ retried, (\d+) files/s\r$", text, re.MULTILINE)
    assert len(progress) == text.count(" retried, ") >= 2
    (first, rate), (last, _) = progress[0], progress[-1]
    assert 0 < int(first) < int(last) == 120
    assert int(rate) > 0
    assert "\x1b" not in text
    assert ALL_DONE in text


def test_lines_that_are_not_whole_yet_wait(tmp_path: Path) -> None:
    results = tmp_path / "results"
    tally = Tally(results, ["a", "b"])
    assert not tally.read()
    results.write_bytes(b'{"path":"a","what":"done","pid":1,"lines":2}\n{"path":"b","wh')
    assert tally.read()
    assert (tally.processed, tally.complete, tally.missing) == (1, False, ["b"])
    assert not tally.read()
    with results.open("ab") as file:
        file.write(b'at":"done","pid":2}\n{"path":"a","what":"done","pid":1,"lines":2}\n')
    assert tally.read()
    assert (tally.processed, tally.complete, tally.twice, tally.runs, tally.lines) == (2, True, 1, 3, 2)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--broker", "memory"], 2, "memory:// lives inside one process"),
        (["--broker", "kafka://x"], 2, "no installed broker serves 'kafka://'"),
        (["--broker", "redis://127.0.0.1:1/0"], 1, "cannot reach Redis at redis://127.0.0.1:1/0"),
        (["nowhere"], 2, "'nowhere' does not exist"),
    ],
)
def test_mistakes_are_explained(project: Project, arguments: list[str], code: int, words: str) -> None:
    program = demo(project, *arguments)
    assert program.wait() == code
    assert words in " ".join(program.err.split())
    assert "Traceback" not in program.err


def test_an_empty_folder_is_a_mistake(project: Project) -> None:
    (project.directory / "empty").mkdir()
    program = demo(project, "empty")
    assert program.wait() == 2
    assert "there are no readable files in empty" in program.err
