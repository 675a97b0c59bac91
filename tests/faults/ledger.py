"""What the bodies wrote down, and what has to be true of it whatever happened."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from jobq.model import Trail

SECOND = 1_000_000_000


@dataclass
class Run:
    """One run of a body: of a job, under an epoch."""

    id: str
    epoch: int
    attempt: int
    pid: int
    start: int
    finish: int | None = None
    how: str = ""
    """`end`, `fail`, `cancel`, or nothing when its process was ended first."""


class Ledger:
    """Reads the ledger as it grows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0
        self._runs: dict[tuple[str, int], Run] = {}

    def runs(self) -> list[Run]:
        """All runs so far, in the order of their starts."""
        if self._path.exists():
            with self._path.open("rb") as file:
                file.seek(self._read)
                lines = file.read()
            whole = lines[: lines.rfind(b"\n") + 1]
            self._read += len(whole)
            for line in whole.decode().splitlines():
                self._enter(line.split(" "))
        return list(self._runs.values())

    def of(self, job_id: str) -> list[Run]:
        """The runs of one job."""
        return [run for run in self.runs() if run.id == job_id]

    def by(self, pid: int) -> list[Run]:
        """The runs in one process."""
        return [run for run in self.runs() if run.pid == pid]

    def ended(self) -> set[str]:
        """The jobs of which a run came to its end."""
        return {run.id for run in self.runs() if run.how == "end"}

    def _enter(self, words: list[str]) -> None:
        time, job_id, epoch, attempt, pid, what = words
        token = job_id, int(epoch)
        if what == "start":
            assert token not in self._runs, f"two runs of {job_id} under epoch {epoch}"
            self._runs[token] = Run(job_id, int(epoch), int(attempt), int(pid), int(time))
            return
        run = self._runs[token]
        assert run.finish is None, f"{run} ended twice"
        if what != "swallowed":
            run.finish, run.how = int(time), what


@dataclass
class Oracle:
    """Checks the invariants. Times are nanoseconds since boot."""

    tried: set[str] = field(default_factory=set[str])
    acked: set[str] = field(default_factory=set[str])
    deaths: dict[int, int] = field(default_factory=dict[int, int])
    """When processes were killed, or were found to have ended."""
    killed: set[int] = field(default_factory=set[int])
    """Processes that had no chance to store outcomes: killed, or cut off from the broker."""
    fenced: set[int] = field(default_factory=set[int])
    """Processes whose leases may have ended while their bodies could not be stopped."""
    ordered: bool = True
    """Whether epochs rise from run to run, and not only in one process."""
    doubles: int = 0
    """So many jobs may have been in two messages: their process or connection ended between storing and settling."""
    per_death: int = 0
    """So many for each process that was killed."""

    @property
    def allowed(self) -> int:
        """How many jobs may have been doubled in all."""
        return self.doubles + self.per_death * len(self.killed)

    def check(self, runs: list[Run], dead: Mapping[str, Trail]) -> None:
        """Raise if a promise was broken. Everything has to be quiet."""
        ended = {run.id for run in runs if run.how == "end"}
        reasons = {job_id for job_id, trail in dead.items() if trail.failure is not None}
        lost = self.acked - ended - reasons
        assert not lost, f"{len(lost)} acknowledged jobs neither ended nor are dead with a reason: {sorted(lost)[:5]}"
        unknown = {run.id for run in runs} - self.tried
        assert not unknown, f"jobs ran that nobody enqueued: {sorted(unknown)[:5]}"
        by_job: dict[str, list[Run]] = {}
        for run in runs:
            assert run.finish is not None or run.pid in self.deaths, f"{run} has not ended, and its process lives"
            by_job.setdefault(run.id, []).append(run)
        doubles = self.allowed
        for several in by_job.values():
            try:
                for one, other in pairwise(several):
                    self._check_pair(one, other)
            except AssertionError:
                if not doubles:
                    raise
                doubles -= 1

    def _check_pair(self, one: Run, other: Run) -> None:
        """Whether `other` was allowed to start after `one`."""
        assert one.epoch < other.epoch or not self.ordered, f"{other} has an older epoch than the earlier {one}"
        excused = one.pid in self.killed or one.pid in self.fenced
        assert excused or one.how != "end", f"{one} ended, and yet {other} followed"
        assert excused or one.how, f"{one} was not ended by force, and yet {other} followed"
        step = other.attempt - one.attempt
        assert step == (one.how == "fail") or (excused and step == 0), f"attempts are miscounted: {one}, {other}"
        finish = one.finish if one.finish is not None else self.deaths[one.pid]
        assert finish <= other.start or one.pid in self.fenced, f"{other} began before the end of {one}"
