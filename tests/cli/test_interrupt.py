"""Ctrl-C at whatever moment: no traceback."""

import random
import re
import signal
import sys
import time
from pathlib import Path

import pytest

from tests.cli.program import Program, Project

SCRIPT = Path(sys.executable).with_name("jobq")
AT_ONCE = 4
FIRST_SECOND = 1.0


def start(project: Project, *command: object) -> Program:
    """Start Python with `command`, and return when our first module has been imported: before, nothing is ours."""
    program = project.start("-X", "importtime", *command)
    program.expect(r"\| +jobq\._interrupt$")
    return program


def said(program: Program) -> str:
    return "\n".join(line for line in program.seen if not line.startswith("import time:"))


def as_shells_say(code: int) -> int:
    """A handled interrupt may still end in the signal's default action: Python does so if a string was executed."""
    return code if code >= 0 else 128 - code


@pytest.mark.parametrize(
    ("command", "codes", "moments"),
    [
        (("-m", "jobq.worker", "sample:app"), {130, 0}, 20),  # 0: it was at work already, and has stopped
        (("-m", "jobq", "demo"), {130}, 20),
        (("-m", "jobq.worker", "sample:app", "--processes", 2), {130, 0}, 8),
        ((SCRIPT, "worker", "sample:app"), {130, 0}, 8),
        ((SCRIPT, "demo"), {130}, 8),
    ],
    ids=["worker", "demo", "processes", "script-worker", "script-demo"],
)
def test_ctrl_c_at_any_moment_of_the_start_ends_it_quietly(
    project: Project, command: tuple[object, ...], codes: set[int], moments: int
) -> None:
    chance = random.Random(f"{command[1:]}")
    for _ in range(moments // AT_ONCE):
        programs = [(start(project, *command), chance.uniform(0, FIRST_SECOND)) for _ in range(AT_ONCE)]
        started = time.monotonic()
        for program, moment in sorted(programs, key=lambda pair: pair[1]):
            time.sleep(max(0.0, started + moment - time.monotonic()))
            program.send(signal.SIGINT)
        for program, moment in programs:
            code, seen = program.wait(), said(program)
            assert as_shells_say(code) in codes, f"after {moment} s: {seen}"
            assert not re.search("Traceback|Warning|Aborted", seen), f"after {moment} s: {seen}"


def test_ctrl_c_while_the_app_is_imported_lets_it_clean_up(project: Project) -> None:
    project.write(
        "slow.py",
        "import sys, time\n"
        "try:\n    print('importing', file=sys.stderr, flush=True)\n    time.sleep(60)\n"
        "finally:\n    print('cleaned up', file=sys.stderr, flush=True)\n",
    )
    program = project.worker(app="slow:app")
    program.expect("importing")
    program.send(signal.SIGINT)
    assert program.wait() == 130
    assert program.seen == ["importing", "cleaned up"]


@pytest.mark.parametrize("name", ["jobq", "other"])
def test_a_program_that_uses_jobq_keeps_its_keyboard_interrupt(project: Project, name: str) -> None:
    file = project.write(name, "import signal, jobq\nprint(signal.getsignal(signal.SIGINT).__name__)\n")
    for command in ([file], ["-c", file.read_text(), "-m", "jobq"]):
        program = project.start(*command)
        assert program.wait() == 0
        assert program.out == ["default_int_handler"]


def test_a_module_that_uses_jobq_keeps_its_keyboard_interrupt(project: Project) -> None:
    project.write("package/__init__.py", "import signal, jobq\nprint(signal.getsignal(signal.SIGINT).__name__)\n")
    project.write("package/__main__.py", "")
    program = project.start("-m", "package", "-m", "jobq")
    assert program.wait() == 0
    assert program.out == ["default_int_handler"]
