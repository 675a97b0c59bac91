"""Who is measured, and with which commands."""

import hashlib
import os
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from benchmarks.processes import Failed

__all__ = ["Contender", "cache", "contenders"]

_TASKIQ: Final = ("taskiq==0.13.*", "taskiq-redis==1.2.*", "redis[hiredis]==8.*", "uvloop==0.*")
_TASKIQ_RMQ: Final = ("taskiq==0.13.*", "taskiq-aio-pika==0.*", "uvloop==0.*")
_HUEY: Final = ("huey==3.*",)


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A library, or the raw loop, on one broker.

    `client` is a command to which MODE, URL and AMOUNT are added (see `programs/load.py`); `worker` makes the command
    of a worker process from URL and concurrency. Without one, the client program has a mode `drain` instead.
    """

    role: str
    name: str
    client: Sequence[str]
    worker: Callable[[str, int], Sequence[str]] | None = None
    rows: frozenset[str]
    jobs: int = 100_000
    concurrency: int = 100
    """For jobs that take no time."""


def cache() -> Path:
    """Where virtual environments and work directories are kept: outside the repository, on disk."""
    base = os.environ.get("XDG_CACHE_HOME")
    home = Path(base) if base else Path.home() / ".cache"
    directory = home / "jobq-bench"
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError:
        directory = Path(tempfile.gettempdir()) / "jobq-bench"
        directory.mkdir(exist_ok=True)
    return directory


def contenders(broker: str, *, peers: bool) -> list[Contender]:
    """Those for `broker`, jobq first."""
    match broker:
        case "redis":
            return [_jobq(), _raw("redis"), *([_taskiq("taskiq_on_redis", _TASKIQ)] if peers else [])]
        case "rmq" | "rmq-classic":
            raw = replace(_raw("rmq", "one", "together", "bulk", "drain", "pickup"), worker=_raw_rmq_worker)
            return [_jobq(), raw, *([_taskiq("taskiq_on_rmq", _TASKIQ_RMQ)] if peers else [])]
        case "postgres":
            return [_jobq(), _raw("postgres", "one", "bulk", "drain")]
        case "sqlite":
            return [_jobq(), _raw("sqlite"), *([_huey()] if peers else [])]
        case _:
            rows = frozenset({"one", "together", "bulk", "drain", "naps", "pickup"})
            return [Contender(role="jobq", name="jobq", client=_program("jobq_memory"), rows=rows)]


def _program(name: str, python: str = sys.executable) -> list[str]:
    return [python, "-m", f"benchmarks.programs.{name}"]


def _jobq() -> Contender:
    rows = frozenset({"one", "together", "bulk", "drain", "naps", "pickup", "scaling"})
    return Contender(role="jobq", name="jobq", client=_program("jobq_client"), worker=_jobq_worker, rows=rows)


def _jobq_worker(url: str, concurrency: int) -> list[str]:
    command = [sys.executable, "-m", "jobq.worker", "benchmarks.programs.jobq_app:app"]
    return [*command, "--broker", url, "--concurrency", str(concurrency)]


def _raw(broker: str, *rows: str) -> Contender:
    measured = frozenset(rows or {"one", "together", "bulk", "drain"})
    return Contender(role="raw", name="raw loop", client=_program(f"raw_{broker}"), rows=measured)


def _raw_rmq_worker(url: str, _: int) -> list[str]:
    return [*_program("raw_rmq"), "work", url, "0"]


def _taskiq(app: str, requirements: Sequence[str]) -> Contender:
    python = _environment(app, requirements)
    worker = [str(Path(python).with_name("taskiq")), "worker", f"benchmarks.programs.{app}:broker", "--workers=1"]
    worker += ["--max-prefetch=400", "--log-level=WARNING"]
    return Contender(
        role="peer",
        name="taskiq",
        client=[*_program("taskiq_client", python), app],
        worker=lambda _, concurrency: [*worker, f"--max-async-tasks={concurrency}"],
        rows=frozenset({"one", "together", "drain", "naps", "pickup"}),
        jobs=20_000,
    )


def _huey() -> Contender:
    python = _environment("huey", _HUEY)
    consumer = [str(Path(python).with_name("huey_consumer")), "benchmarks.programs.huey_app.huey"]
    consumer += ["--quiet", "--worker-type=thread"]
    return Contender(
        role="peer",
        name="huey",
        client=_program("huey_client", python),
        worker=lambda _, concurrency: [*consumer, f"--workers={concurrency}"],
        rows=frozenset({"one", "together", "drain", "naps", "pickup"}),
        jobs=5_000,
        concurrency=8,
    )


def _environment(name: str, requirements: Sequence[str]) -> str:
    """The Python of a virtual environment with `requirements`, made if it is not there."""
    key = hashlib.sha256(repr((sys.version, requirements)).encode()).hexdigest()[:10]
    directory = cache() / f"{name}-{key}"
    python, ready = directory / "bin" / "python", directory / "ready"
    if not ready.exists():
        print(f"installing {' '.join(requirements)} …", file=sys.stderr)
        venv.create(directory, with_pip=True, clear=True)
        command = [str(python), "-m", "pip", "install", "--disable-pip-version-check", *requirements]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Failed(f"pip could not install {' '.join(requirements)}:\n{done.stderr[-1500:]}")
        ready.touch()
    return str(python)
