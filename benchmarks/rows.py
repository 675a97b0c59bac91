"""The measurements. Each starts everything it needs anew and returns numbers by name."""

import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks import gauge
from benchmarks.contenders import Contender
from benchmarks.places import Place, place
from benchmarks.processes import Failed, Processes, wait_for

__all__ = ["ROUNDS", "ROWS", "Sizes", "Values", "measure"]

Values = dict[str, float]

MB: Final = 1 << 20
SKIPPED: Final = 20
"""Pick-ups at the beginning that do not count."""


@dataclass(frozen=True)
class Sizes:
    """How much is done."""

    seconds: float = 1.0
    share: float = 1.0
    naps: int = 2_000
    pickups: int = 500
    bulk: int = 10_000
    million: bool = False

    def jobs(self, contender: Contender) -> int:
        """To be drained."""
        if self.million and contender.name == "jobq":
            return 1_000_000
        return int(contender.jobs * self.share)


@dataclass
class Bench:
    """One measurement's processes, place and gauges."""

    contender: Contender
    sizes: Sizes
    place: Place
    processes: Processes
    directory: Path

    @property
    def gauges(self) -> Path:
        return self.directory / "gauges"

    def client(self, mode: str, amount: float) -> Values:
        return self.processes.run([*self.contender.client, mode, self.place.url, str(amount)])

    def worker(self, concurrency: int, gate: Path | None = None) -> subprocess.Popen[bytes]:
        assert self.contender.worker is not None
        environment = {"JOBQ_BENCH_URL": self.place.url, gauge.DIRECTORY: str(self.gauges)}
        if gate is not None:
            environment[gauge.GATE] = str(gate)
        return self.processes.start(self.contender.worker(self.place.url, concurrency), environment)

    def end(self, workers: Iterable[subprocess.Popen[bytes]], jobs: int) -> None:
        """Stop the workers; they must not have run more than there was."""
        for worker in workers:
            self.processes.stop(worker)
        if (count := gauge.count(self.gauges)) != jobs:
            raise Failed(f"{self.contender.name} ran {count} jobs of {jobs}")

    def until(self, count: int, seconds: float = 120) -> gauge.Reading:
        """What the gauges say when that many jobs have ended."""
        what = f"{count} jobs of {self.contender.name}"
        try:
            wait_for(lambda: gauge.count(self.gauges) >= count, seconds, what)
        except Failed as exc:
            raise Failed(f"{exc} (but {gauge.count(self.gauges)})\n{self.processes.logs()}") from None
        return gauge.read(self.gauges)


ROUNDS: Final = {"one": 3, "together": 2}
"""Turns of each contender in a repetition, for what moves with every breath of the disk."""


def measure(row: str, broker: str, contender: Contender, sizes: Sizes, directory: Path) -> Values:
    """One row of one contender; each step of it with everything new."""
    values: Values = {}
    for step in ROWS[row]:
        with _bench(broker, contender, sizes, directory) as bench:
            values |= step(bench)
    return values


@contextmanager
def _bench(broker: str, contender: Contender, sizes: Sizes, directory: Path) -> Generator[Bench]:
    work = Path(tempfile.mkdtemp(prefix="run-", dir=directory))
    try:
        (work / "gauges").mkdir()
        with Processes(work) as processes, place(broker, work, processes) as where:
            bench = Bench(contender, sizes, where, processes, work)
            if contender.prepares:
                bench.client("prepare", 0)
            yield bench
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _one(bench: Bench) -> Values:
    return {"one": bench.client("one", bench.sizes.seconds)["rate"]}


def _together(bench: Bench) -> Values:
    return {"together": bench.client("together", bench.sizes.seconds)["rate"]}


def _bulk(bench: Bench) -> Values:
    return {"bulk": bench.client("bulk", bench.sizes.bulk)["rate"]}


def _drain(bench: Bench) -> Values:
    jobs = bench.sizes.jobs(bench.contender)
    if bench.contender.name == "raw":
        return _drain_raw(bench, jobs)
    if bench.contender.worker is None:
        answer = bench.client("drain", jobs)
        return {"drain": answer["rate"], "cpu": _cpu(answer["cpu"])}
    bench.client("noops", jobs)
    before = bench.place.server_cpu()
    worker = bench.worker(bench.contender.concurrency)
    reading = bench.until(jobs, 300)
    values = {"drain": reading.rate, "cpu": _cpu(reading.cpu_per_job), "rss_first": reading.rss_first / MB}
    if jobs >= 100_000:
        values["rss_100k"] = reading.rss_100k / MB
    if jobs >= 1_000_000:
        values["rss_1m"] = reading.rss_last / MB
    if bench.place.server is not None:
        values["server_cpu"] = (bench.place.server_cpu() - before) / jobs * 10_000
    bench.end([worker], jobs)
    return values


def _drain_raw(bench: Bench, jobs: int) -> Values:
    bench.client("noops", jobs)
    before = bench.place.server_cpu()
    answer = bench.client("drain", jobs)
    values = {"drain": answer["rate"], "cpu": _cpu(answer["cpu"])}
    if bench.place.server is not None:
        values["server_cpu"] = (bench.place.server_cpu() - before) / jobs * 10_000
    return values


def _cpu(nanoseconds: float) -> float:
    """From nanoseconds a job to seconds for 10,000."""
    return nanoseconds * 1e-5


def _naps(bench: Bench) -> Values:
    count = bench.sizes.naps
    if bench.contender.worker is None:
        return {"naps": bench.client("naps", count)["seconds_from_first_end"]}
    bench.client("naps", count)
    worker = bench.worker(concurrency=100)
    reading = bench.until(count)
    bench.end([worker], count)
    return {"naps": (reading.last_end - reading.first_end) / 1e9}


def _pickup(bench: Bench) -> Values:
    count = bench.sizes.pickups + SKIPPED
    if bench.contender.worker is None:
        answer = bench.client("paced", count)
        late = [value for name, value in answer.items() if name.startswith("late_")]
    else:
        worker = bench.worker(bench.contender.concurrency)
        bench.client("paced", 1)
        bench.until(1)
        bench.client("paced", count - 1)
        late = list(map(float, bench.until(count).late))
        bench.end([worker], count)
    percentiles = statistics.quantiles(late[SKIPPED:], n=100, method="inclusive")
    return {f"p{percent}": percentiles[percent - 1] / 1e6 for percent in (50, 95, 99)}


def _scaled(workers: int, bench: Bench) -> Values:
    """A drain by several processes, which begin together."""
    jobs, gate = int(100_000 * bench.sizes.share), bench.directory / "gate"
    bench.client("noops", jobs)
    started = [bench.worker(bench.contender.concurrency, gate) for _ in range(workers)]
    wait_for(lambda: len(list(bench.gauges.glob("*.ready"))) == workers, 30, f"{workers} workers")
    gate.touch()
    reading = bench.until(jobs)
    bench.end(started, jobs)
    return {f"workers_{workers}": reading.rate}


def _dead_rows(bench: Bench) -> Values:
    """What vacuum has to clear away after a drain."""
    jobs = int(100_000 * bench.sizes.share)
    bench.client("noops", jobs)
    worker = bench.worker(bench.contender.concurrency)
    bench.until(jobs)
    bench.end([worker], jobs)
    return {"dead_rows": bench.client("dead_rows", jobs)["rows"]}


def _claims(bench: Bench) -> Values:
    return bench.client("claims", int(1_000_000 * bench.sizes.share))


ROWS: Final[dict[str, Sequence[Callable[[Bench], Values]]]] = {
    "one": [_one],
    "together": [_together],
    "bulk": [_bulk],
    "drain": [_drain],
    "naps": [_naps],
    "pickup": [_pickup],
    "dead": [_dead_rows],
    "claims": [_claims],
    "scaling": [partial(_scaled, 1), partial(_scaled, 2), partial(_scaled, 4)],
}
