"""Who is measured, and with which commands."""

import hashlib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks.processes import Failed

__all__ = ["Contender", "cache", "contenders"]

_TASKIQ: Final = ("taskiq==0.13.*", "taskiq-redis==1.2.*", "redis[hiredis]==8.*", "uvloop==0.*")
_TASKIQ_RMQ: Final = ("taskiq==0.13.*", "taskiq-aio-pika==0.*", "uvloop==0.*")
_HUEY: Final = ("huey==3.*",)
_PGQUEUER: Final = ("pgqueuer[asyncpg]==1.*", "asyncpg==0.*", "uvloop==0.*")
_OBAN: Final = ("oban==0.7.*", "psycopg[binary,pool]==3.*", "uvloop==0.*")
_OBAN_PYTHON: Final = (3, 12)
_PROCRASTINATE: Final = ("procrastinate==3.*", "psycopg[binary,pool]==3.*", "uvloop==0.*")
_ALL: Final = frozenset({"one", "together", "bulk", "drain", "naps", "pickup"})


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A library, or the raw loop, on one broker.

    `client` is a command to which MODE, URL and AMOUNT are added (see `programs/load.py`); `worker` makes the command
    of a worker process from URL and concurrency. Without one, the client program has a mode `drain` instead.
    """

    name: str
    """`jobq`, `raw`, or the peer's."""
    client: Sequence[str]
    worker: Callable[[str, int], Sequence[str]] | None = None
    rows: frozenset[str]
    jobs: int = 100_000
    concurrency: int = 100
    """For jobs that take no time."""
    prepares: bool = False
    """Whether the client has a mode `prepare`, which makes its tables; it is called before all others."""


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
            raw = _raw("rmq", "one", "together", "bulk", "drain", "pickup")
            return [_jobq(), raw, *([_taskiq("taskiq_on_rmq", _TASKIQ_RMQ)] if peers else [])]
        case "postgres":
            raw = _raw("postgres", "one", "bulk", "drain", "pickup", prepares=True)
            return [_jobq("jobq_on_postgres", "dead", "claims"), raw, *(_on_postgres() if peers else [])]
        case "sqlite":
            return [_jobq(), _raw("sqlite"), *([_huey()] if peers else [])]
        case _:
            return [Contender(name="jobq", client=_program("jobq_memory"), rows=_ALL)]


def _program(name: str, python: str = sys.executable) -> list[str]:
    return [python, "-m", f"benchmarks.programs.{name}"]


def _jobq(client: str = "jobq_client", *more: str) -> Contender:
    return Contender(name="jobq", client=_program(client), worker=_jobq_worker, rows=_ALL | {"scaling", *more})


def _jobq_worker(url: str, concurrency: int) -> list[str]:
    command = [sys.executable, "-m", "jobq.worker", "benchmarks.programs.jobq_app:app"]
    return [*command, "--broker", url, "--concurrency", str(concurrency)]


def _raw(broker: str, *rows: str, prepares: bool = False) -> Contender:
    program, measured = _program(f"raw_{broker}"), frozenset(rows or {"one", "together", "bulk", "drain"})
    worker = partial(_work, program) if "pickup" in measured else None
    return Contender(name="raw", client=program, worker=worker, rows=measured, prepares=prepares)


def _work(program: Sequence[str], url: str, concurrency: int) -> list[str]:
    """The worker of a program that is client and worker in one."""
    return [*program, "work", url, str(concurrency)]


def _on_postgres() -> list[Contender]:
    """Fewer jobs for the slower ones, so that each drain takes a few seconds."""
    found = [_peer("pgqueuer", _PGQUEUER, 20_000)]
    python = _python(_OBAN_PYTHON)
    if python is None:
        print("oban is left out: it needs a Python 3.12, or a newer one, on the PATH", file=sys.stderr)
    else:
        found.append(_peer("oban", _OBAN, 10_000, python))
    return [*found, _peer("procrastinate", _PROCRASTINATE, 2_000)]


def _peer(name: str, requirements: Sequence[str], jobs: int, python: str = sys.executable) -> Contender:
    program = _program(f"peer_{name}", _environment(name, requirements, python))
    return Contender(name=name, client=program, worker=partial(_work, program), rows=_ALL, jobs=jobs, prepares=True)


def _taskiq(app: str, requirements: Sequence[str]) -> Contender:
    python = _environment(app, requirements)
    worker = [str(Path(python).with_name("taskiq")), "worker", f"benchmarks.programs.{app}:broker", "--workers=1"]
    worker += ["--max-prefetch=400", "--log-level=WARNING"]
    return Contender(
        name="taskiq",
        client=[*_program("taskiq_client", python), app],
        worker=lambda _, concurrency: [*worker, f"--max-async-tasks={concurrency}"],
        rows=_ALL - {"bulk"},
        jobs=20_000,
    )


def _huey() -> Contender:
    python = _environment("huey", _HUEY)
    consumer = [str(Path(python).with_name("huey_consumer")), "benchmarks.programs.huey_app.huey"]
    consumer += ["--quiet", "--worker-type=thread"]
    return Contender(
        name="huey",
        client=_program("huey_client", python),
        worker=lambda _, concurrency: [*consumer, f"--workers={concurrency}"],
        rows=_ALL - {"bulk"},
        jobs=5_000,
        concurrency=8,
    )


def _environment(name: str, requirements: Sequence[str], base: str = sys.executable) -> str:
    """The Python of a virtual environment of `base` with `requirements`, made if it is not there."""
    key = hashlib.sha256(repr((_version(base), requirements)).encode()).hexdigest()[:10]
    directory = cache() / f"{name}-{key}"
    python, ready = directory / "bin" / "python", directory / "ready"
    if not ready.exists():
        print(f"installing {' '.join(requirements)} …", file=sys.stderr)
        _run([base, "-m", "venv", "--clear", str(directory)])
        _run([str(python), "-m", "pip", "install", "--disable-pip-version-check", *requirements])
        ready.touch()
    return str(python)


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(f"{' '.join(command)} failed:\n{done.stdout[-1500:]}{done.stderr[-1500:]}")


def _python(oldest: tuple[int, int]) -> str | None:
    """One that is not older: this one, or one on the PATH."""
    candidates = (sys.executable, "python3", *(f"python3.{minor}" for minor in range(oldest[1], oldest[1] + 5)))
    for python in candidates:
        if tuple(map(int, re.findall(r"\d+", _version(python))[:2])) >= oldest:
            return python
    return None


def _version(python: str) -> str:
    """`sys.version` of that Python; empty if it does not run."""
    if python == sys.executable:
        return sys.version
    try:
        done = subprocess.run(
            [python, "-c", "import sys; print(sys.version)"], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return ""
    return done.stdout.strip()
