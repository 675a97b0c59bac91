"""What the documentation shows is run, and prints what it says."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Final

import pytest

from jobq.worker.command import worker
from jobq.worker.settings import Settings
from tests.docs.pages import PAGES, Block, blocks, environment, name

ALL: Final = [block for page in PAGES for block in blocks(page)]
PYTHON: Final = [block for block in ALL if block.language == "python"]
RUN: Final = [page for page in PAGES if any(b.mark.startswith("run") for b in ALL if b.page == page)]
SNIPPETS: Final = [page for page in PAGES if any(b.file is None for b in PYTHON if b.page == page)]
PATIENCE: Final = 40.0
SNIPPET_RUNNER: Final = """
import ast, asyncio, json, sys
async def main():
    names = {"__name__": "snippets"}
    for where, text in json.loads(sys.argv[1]):
        awaiting = eval(compile(text, where, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), names)
        if awaiting is not None:
            await awaiting
asyncio.run(main())
"""

# What differs from run to run.
_VARIABLE = re.compile(
    r"\b[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}\b"  # ids
    r"|\b[0-9a-f]{12}-\d+-\d+-[0-9a-f]{8}\b"  # workers
    r"|\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}"  # times
    r"|\d+(\.\d+)*"
)


@pytest.mark.parametrize("page", SNIPPETS, ids=name)
def test_the_snippets_of_a_page_run_from_top_to_bottom(page: Path, tmp_path: Path) -> None:
    snippets = list[tuple[str, str]]()
    for block in blocks(page):
        if block.file is not None:
            (tmp_path / block.file).write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            snippets += [(f"before {block.where}", block.mark.removeprefix("after: ")), (block.where, block.text)]
    command = [sys.executable, "-W", "error", "-c", SNIPPET_RUNNER, json.dumps(snippets)]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(), timeout=PATIENCE, check=False, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_every_toml_block_can_be_read() -> None:
    for block in ALL:
        if block.language == "toml":
            tomllib.loads(block.text)


@pytest.mark.parametrize("page", RUN, ids=name)
def test_the_commands_of_a_page_print_what_it_says(page: Path, tmp_path: Path) -> None:
    for block in blocks(page):
        if block.file is not None:
            (tmp_path / block.file).write_text(block.text, encoding="utf-8")
        elif block.mark.startswith("run"):
            _run(block, tmp_path)


def test_commands_of_the_worker_that_are_only_shown_are_understood() -> None:
    shown = [block.text for block in ALL if block.language == "console" and not block.mark]
    commands = re.findall(r"^\$ python -m jobq\.worker (.*)$", "".join(shown), re.MULTILINE)
    assert len(commands) >= 3
    for command in commands:
        Settings(**worker.make_context("worker", shlex.split(command)).params).check()


def test_every_file_that_is_shown_is_run() -> None:
    for block in PYTHON:
        if block.file is not None:
            commands = [b.text for b in blocks(block.page) if b.mark.startswith("run")]
            module = block.file.removesuffix(".py")
            texts = commands + [b.text for b in blocks(block.page) if b.file]
            assert any(module in text for text in texts if text != block.text), f"nothing runs {block.where}"


def _run(block: Block, directory: Path) -> None:
    lines = block.text.splitlines()
    starts = [i for i, line in enumerate(lines) if line.startswith("$ ")]
    assert starts, f"{block.where}: no command"
    for start in starts:
        expected = list(takewhile(lambda line: not line.startswith("$ "), lines[start + 1 :]))
        last = start == starts[-1]
        until = block.mark.removeprefix("run until: ") if last and block.mark.startswith("run until: ") else None
        output = _output(lines[start][2:], directory, until)
        _compare(expected, output.splitlines(), f"{block.where}: {lines[start]}")


def _output(command: str, directory: Path, until: str | None) -> str:
    command = command.replace(".venv/bin/", "")  # the environment that runs the tests comes first on the PATH
    process = subprocess.Popen(
        f"exec {command}" if "&&" not in command else command,
        shell=True,
        cwd=directory,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    output = ""
    try:
        if until is not None:
            for line in process.stdout:
                output += line
                if until in line:
                    os.killpg(process.pid, signal.SIGINT)
                    break
            else:
                pytest.fail(f"{command!r} never printed {until!r} but:\n{output}")
        output += process.communicate(timeout=PATIENCE)[0]
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
    return output


def _compare(expected: Sequence[str], printed: Sequence[str], where: str) -> None:
    """Each expected line was printed, in this order; `…` stands for anything, also for lines left out."""
    left = iter(printed)
    for line in expected:
        if line.strip() in {"", "…", "^C"}:
            continue
        pattern = re.compile(".*".join(re.escape(_plain(part)) for part in line.split("…")))
        assert any(pattern.fullmatch(_plain(one.rstrip())) for one in left), (
            f"{where}: not printed: {line}\n" + "\n".join(printed)
        )


def _plain(text: str) -> str:
    return _VARIABLE.sub("#", text).rstrip()
