"""What job bodies report, in memory shared with the process that measures. Standard library only: peers run it too.

A worker started by the benchmark has `JOBQ_BENCH_GAUGES` (a directory) in its environment; each process in which a job
runs keeps a file there, named by its pid. Elsewhere the cells are ordinary memory. Times are CLOCK_MONOTONIC in
nanoseconds, which all processes of one machine share.
"""

import mmap
import os
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

COUNT, FIRST_START, FIRST_END, LAST_END, CPU_FIRST, CPU_LAST, CPU_COUNT, RSS_FIRST, RSS_100K, RSS_LAST = range(10)
HEADER: Final = 16
SAMPLES: Final = 4096
DIRECTORY: Final = "JOBQ_BENCH_GAUGES"
GATE: Final = "JOBQ_BENCH_GATE"
LIFE: Final = 900
"""Seconds after which a worker ends by itself, should the process that measures be gone."""

_lock = threading.Lock()
_cells: "memoryview[int] | None" = None


def _open() -> "memoryview[int]":
    global _cells  # noqa: PLW0603 - one per process
    size = 8 * (HEADER + SAMPLES)
    directory = os.environ.get(DIRECTORY)
    if directory is None:
        _cells = memoryview(bytearray(size)).cast("q")
    else:
        with (Path(directory) / f"{os.getpid()}.gauge").open("w+b") as file:
            file.truncate(size)
            _cells = memoryview(mmap.mmap(file.fileno(), size)).cast("q")
    return _cells


def gate() -> None:
    """At the end of an app's module: wait, if the run wants all workers to begin together, and do not live for ever."""
    if DIRECTORY in os.environ:
        signal.alarm(LIFE)
    path = os.environ.get(GATE)
    if path is not None:
        (Path(os.environ[DIRECTORY]) / f"{os.getpid()}.ready").touch()
    while path is not None and not Path(path).exists():
        time.sleep(0.001)


def started() -> int:
    """The start of a body whose end is reported too."""
    return time.monotonic_ns()


def ended(start: int | None = None) -> None:
    """The end of a body; one that takes no time gives no start. It is this that costs the half microsecond."""
    now = time.monotonic_ns()
    with _lock:
        cells = _open() if _cells is None else _cells
        count = cells[COUNT] + 1
        cells[LAST_END] = now
        if count == 1:
            cells[FIRST_START] = now if start is None else start
            cells[FIRST_END] = now
            cells[CPU_FIRST] = time.process_time_ns()
            cells[RSS_FIRST] = cells[RSS_100K] = cells[RSS_LAST] = resident()
        elif count % 1000 == 0:
            _sample(cells, count)
        cells[COUNT] = count


def late(since: int) -> None:
    """The start of a body whose enqueue began at `since`."""
    now = time.monotonic_ns()
    with _lock:
        cells = _open() if _cells is None else _cells
        cells[HEADER + cells[COUNT] % SAMPLES] = now - since
        cells[COUNT] += 1


def _sample(cells: "memoryview[int]", count: int) -> None:
    cells[CPU_LAST], cells[CPU_COUNT] = time.process_time_ns(), count
    if count % 10_000 == 0:
        cells[RSS_LAST] = resident()
        if count == 100_000:
            cells[RSS_100K] = cells[RSS_LAST]


def resident() -> int:
    """Bytes of memory that this process has in RAM."""
    with Path("/proc/self/statm").open() as file:
        return int(file.read().split()[1]) * mmap.PAGESIZE


@dataclass(frozen=True, slots=True)
class Reading:
    """The gauges of one run, added up. Times are nanoseconds."""

    count: int
    first_start: int
    first_end: int
    last_end: int
    cpu_per_job: float
    rss_first: int
    rss_100k: int
    rss_last: int
    late: list[int]

    @property
    def rate(self) -> float:
        """Jobs a second, from the first one's start to the last one's end."""
        return self.count / ((self.last_end - self.first_start) / 1e9)


def read(directory: str | os.PathLike[str] | None = None) -> Reading:
    """All gauges in `directory`, or this process's own."""
    if directory is None:
        parts = [(_cells or _open()).tolist()]
    else:
        files = [path.read_bytes() for path in Path(directory).glob("*.gauge")]
        parts = [memoryview(data).cast("q").tolist() for data in files if len(data) == 8 * (HEADER + SAMPLES)]
    parts = [part for part in parts if part[COUNT]]
    sampled = sum(max(0, part[CPU_COUNT] - 1) for part in parts)
    cpu = sum(part[CPU_LAST] - part[CPU_FIRST] for part in parts if part[CPU_COUNT])
    return Reading(
        count=sum(part[COUNT] for part in parts),
        first_start=min((part[FIRST_START] for part in parts), default=0),
        first_end=min((part[FIRST_END] for part in parts), default=0),
        last_end=max((part[LAST_END] for part in parts), default=0),
        cpu_per_job=cpu / sampled if sampled else 0.0,
        rss_first=sum(part[RSS_FIRST] for part in parts),
        rss_100k=sum(part[RSS_100K] for part in parts),
        rss_last=sum(part[RSS_LAST] for part in parts),
        late=[sample for part in parts for sample in part[HEADER : HEADER + min(part[COUNT], SAMPLES)]],
    )


def count(directory: str | os.PathLike[str]) -> int:
    """How many jobs the gauges in `directory` have seen."""
    total = 0
    for path in Path(directory).glob("*.gauge"):
        with path.open("rb") as file:
            total += int.from_bytes(file.read(8), "little")
    return total
