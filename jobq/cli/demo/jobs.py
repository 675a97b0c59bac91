"""The demo's app: one job per file. Each run is one line in the results file, from which everything is counted."""

import hashlib
import os
import random
from functools import cache
from typing import Final

import msgspec

from jobq import App, Job, Retry, current

__all__ = ["RESULTS", "Line", "app", "digest"]

RESULTS: Final = "JOBQ_DEMO_RESULTS"
"""The environment variable that names the results file."""

app = App()


class Line(msgspec.Struct, frozen=True, omit_defaults=True):
    """One run of a job: `what` is done, failed or dead."""

    path: str
    what: str
    pid: int
    lines: int = 0
    words: int = 0
    bytes: int = 0
    sha256: str = ""


class Stumbled(Exception):
    """The failure that some jobs are asked to have in their first run."""


def _soon(retry: int) -> float:
    return random.uniform(0.1, 0.5) * (retry + 1)


def _dead(job: Job, exc: BaseException) -> None:
    del exc
    args, _ = digest.signature.decode(job.body)
    _write(Line(args[0], "dead", os.getpid()))


@app.task(retry=Retry(max_retries=3, backoff=_soon), on_dead=_dead)
def digest(path: str, *, stumble: bool = False) -> None:
    """Count a file's lines, words and bytes, and hash it. With `stumble`, the first run fails."""
    if stumble and current().attempt == 1:
        _write(Line(path, "failed", os.getpid()))
        raise Stumbled(path)
    with open(path, "rb") as file:  # noqa: PTH123 - a third of the time of pathlib
        content = file.read()
    _write(
        Line(
            path,
            "done",
            os.getpid(),
            lines=content.count(b"\n"),
            words=len(content.split()),
            bytes=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
        )
    )


def _write(line: Line) -> None:
    # One write in append mode: whole lines, from any number of threads and processes, and kill -9 cannot tear one.
    os.write(_results(), msgspec.json.encode(line) + b"\n")


@cache
def _results() -> int:
    return os.open(os.environ[RESULTS], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
