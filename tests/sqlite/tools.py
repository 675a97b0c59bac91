"""What the tests of the SQLite broker share."""

import sqlite3
import sys
from collections.abc import Generator
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path
from subprocess import PIPE, Popen

import msgspec

from jobq.model import Claim, Delivery, Done, Job, Outcome, Stamp, Turn, WorkerInfo
from jobq_sqlite import SqliteBroker

CHILD = Path(__file__).with_name("child.py")
WORKER = WorkerInfo(id="w", host="h")
numbers = count(1)


def url_of(path: Path, options: str = "") -> str:
    return f"sqlite:///{path}{options}"


def job(name: str, *, queue: str = "default", delay: float | None = None, size: int = 0, priority: int = 2) -> Job:
    return Job(
        id=name,
        task="t",
        queue=queue,
        delay=delay,
        priority=priority,
        body=msgspec.Raw(b'{"args":["%s"]}' % (b"x" * size)),
    )


def stamp() -> Stamp:
    return Stamp(f"client-{next(numbers)}", 1)


async def put(broker: SqliteBroker, *names: str, queue: str = "default") -> None:
    await broker.enqueue([job(name, queue=queue) for name in names], stamp())


async def claim(broker: SqliteBroker, limit: int = 1000, *, queue: str = "default") -> list[Delivery]:
    """Claim as a worker that has received all that it was sent before."""
    await broker.heartbeat(WORKER, (), 60)
    return list((await turn(broker, (), limit, queue=queue)).deliveries)


_received: dict[str, int] = {}
"""The highest epoch that each worker has received in any test."""


async def turn(
    broker: SqliteBroker, outcomes: tuple[Outcome, ...], limit: int, *, queue: str = "default", worker: str = "w"
) -> Turn:
    received = _received.get(worker, 0)
    answer = await broker.turn(outcomes, Claim(worker, (queue,), limit, suspects=True, resume=received))
    _received[worker] = max([received, *(delivery.epoch for delivery in answer.deliveries)])
    return answer


async def fetch(broker: SqliteBroker, *, queue: str = "default") -> list[Delivery]:
    """Claim everything and see it."""
    await broker.heartbeat(WORKER, (), 60)
    return list((await broker.turn((), Claim("w", (queue,), 1_000_000, suspects=True))).deliveries)


def done(delivery: Delivery) -> Done:
    return Done(delivery.job.id, delivery.epoch)


@contextmanager
def raw(path: Path) -> Generator[sqlite3.Connection, None, None]:
    """A connection of somebody else's."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        yield db


@contextmanager
def child(*arguments: object) -> Generator["Popen[str]", None, None]:
    """Another Python process that runs a function of `child.py`; killed in the end."""
    with Popen([sys.executable, str(CHILD), *map(str, arguments)], stdout=PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def line_of(process: "Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()
