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
_PIECE: Final = 1 << 18

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
    _write(_count(path))


def _count(path: str) -> Line:
    sha256, lines, words, size, in_word = hashlib.sha256(), 0, 0, 0, False
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - several times as fast as pathlib
        while piece := file.read(_PIECE):
            sha256.update(piece)
            lines += piece.count(b"\n")
            # a word that goes on from the last piece is counted already
            words += len(piece.split()) - (in_word and not piece[:1].isspace())
            size += len(piece)
            in_word = not piece[-1:].isspace()
    return Line(path, "done", os.getpid(), lines=lines, words=words, bytes=size, sha256=sha256.hexdigest())


def _write(line: Line) -> None:
    # One write in append mode: whole lines, from any number of threads and processes, and kill -9 cannot tear one.
    os.write(_results(), msgspec.json.encode(line) + b"\n")


@cache
def _results() -> int:
    return os.open(os.environ[RESULTS], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
