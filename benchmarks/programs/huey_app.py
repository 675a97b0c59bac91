"""The jobs, as a huey app on SQLite. Runs in huey's own virtual environment."""
# pyright: basic, reportMissingImports=false

import os
import time

from huey import SqliteHuey

from benchmarks import gauge

huey = SqliteHuey(filename=os.environ["JOBQ_BENCH_URL"].removeprefix("sqlite:///"), results=False, fsync=True)


@huey.task()
def noop(_number: int) -> None:
    gauge.ended()


@huey.task()
def nap(_number: int) -> None:
    start = gauge.started()
    time.sleep(0.05)
    gauge.ended(start)


@huey.task()
def stamp(since: int) -> None:
    gauge.late(since)


gauge.gate()
