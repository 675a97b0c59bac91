"""`jobq demo`: it proves itself from what its jobs wrote."""

import os
import pty
import re
import signal
from contextlib import suppress
from pathlib import Path

import pytest

from jobq.cli.demo.tally import Tally
from tests.cli.program import Program, Project, alive, until

SMALL_DEMO = """
import sys
from jobq.cli.demo import command
plan = command.Plan(files={files!r}, broker=None, kill=False, concurrency=2)
sys.exit(command._conclude(command._run(plan)))
"""
ALL_DONE = "every file has its result"


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


def test_every_file_is_counted(project: Project, folder: Path) -> None:
    program = demo(project, folder)
    assert program.wait() == 0, program.err
    said = facts(program)
    lines = sum(range(120))
    assert program.out[-1] == ALL_DONE
    assert said["jobs enqueued"].startswith("120 in ")
    assert said["retried"] == "6"
    assert said["runs"] == "126 in 1 worker process"
    assert said["dead"] == "0"
    assert said["files done"] == "120 of 120, 0 of them more than once"
    assert said["found in them"] == f"{lines:,} lines, {lines * 3:,} words, {lines * 19:,} bytes"
    assert float(said["seconds"]) < 15
    assert leftovers(project) == []


def test_a_killed_worker_loses_nothing(project: Project, folder: Path) -> None:
    program = demo(project, folder, "--kill")
    assert program.wait() == 0, program.err
    said = facts(program)
    assert program.out[-1] == f"{ALL_DONE}, though a worker was killed"
    assert re.fullmatch(r"process \d+ after \d+ files, replaced \d+ ms later", said["killed"])
    assert said["runs"].endswith("in 2 worker processes")
    assert said["files done"].startswith("120 of 120, ")
    assert float(said["seconds"]) < 15


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
