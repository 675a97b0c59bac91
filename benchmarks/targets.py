"""What is printed, and what jobq wants to reach."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

__all__ = ["LINES", "TARGETS", "Line", "Target", "Unit"]

Unit = Literal["/s", "s", "ms", "MB", "rows", "x"]


@dataclass(frozen=True)
class Line:
    """One line of the table."""

    metric: str
    title: str
    unit: Unit

    @property
    def more_is_better(self) -> bool:
        return self.unit == "/s"


@dataclass(frozen=True)
class Target:
    """At least `bound` times another figure of the same repetition; or, alone, at most `bound`.

    `against` is a contender's name, or `one`: jobq's own enqueues one by one.
    """

    bound: float
    against: str | None = None


LINES: Final[Sequence[Line]] = (
    Line("one", "enqueue, one by one", "/s"),
    Line("together", "enqueue, 100 coroutines (sync peers: 16 threads)", "/s"),
    Line("bulk", "enqueue, bulk call with 10,000 jobs", "/s"),
    Line("drain", "drain of no-op jobs, one worker", "/s"),
    Line("naps", "2,000 jobs of 50 ms at concurrency 100", "s"),
    Line("p50", "pick-up latency, median", "ms"),
    Line("p95", "pick-up latency, 95 %", "ms"),
    Line("p99", "pick-up latency, 99 %", "ms"),
    Line("cpu", "worker CPU for 10,000 jobs", "s"),
    Line("server_cpu", "server CPU for 10,000 jobs", "s"),
    Line("rss_first", "worker memory at the first job", "MB"),
    Line("rss_100k", "worker memory after 100,000 jobs", "MB"),
    Line("rss_1m", "worker memory after 1,000,000 jobs", "MB"),
    Line("workers_1", "drain by 1 worker process", "/s"),
    Line("workers_2", "drain by 2 worker processes", "/s"),
    Line("workers_4", "drain by 4 worker processes", "/s"),
    Line("dead_rows", "dead rows that a job leaves to vacuum", "rows"),
    Line("claim_1k", "a claim of 100 jobs among 1,000", "ms"),
    Line("claim_100k", "a claim of 100 jobs among 100,000", "ms"),
    Line("claim_1m", "a claim of 100 jobs among 1,000,000", "ms"),
    Line("claim_growth", "the longest of these : the shortest", "x"),
)

_MEMORY: Final = {name: (Target(50),) for name in ("rss_first", "rss_100k", "rss_1m")}
_RMQ: Final[dict[str, Sequence[Target]]] = {
    "together": (Target(0.80, "raw"),),
    "drain": (Target(0.60, "raw"), Target(2.5, "taskiq")),
    "naps": (Target(1.00),),
    "p50": (Target(1.5),),
    "p99": (Target(4),),
    "cpu": (Target(0.80),),
    **_MEMORY,
}
TARGETS: Final[dict[str, dict[str, Sequence[Target]]]] = {
    "redis": {
        "one": (Target(0.60, "raw"),),
        "together": (Target(10, "one"),),
        "drain": (Target(0.40, "raw"), Target(15, "taskiq")),
        "naps": (Target(1.00),),
        "p50": (Target(1.5),),
        "p99": (Target(4),),
        "cpu": (Target(0.20),),
        **_MEMORY,
    },
    "rmq": _RMQ,
    "rmq-classic": _RMQ,
    "postgres": {
        "one": (Target(0.60, "raw"),),
        "together": (Target(12, "one"),),
        "bulk": (Target(0.40, "raw"),),
        "drain": (Target(0.50, "raw"), Target(4, "pgqueuer"), Target(9, "oban"), Target(50, "procrastinate")),
        "naps": (Target(1.00),),
        "p50": (Target(2.5),),
        "p99": (Target(6),),
        "cpu": (Target(0.25),),
        "dead_rows": (Target(2),),
        "claim_growth": (Target(1.5),),
        **_MEMORY,
    },
    "sqlite": {
        "one": (Target(0.50, "raw"),),
        "together": (Target(10, "one"),),
        "drain": (Target(0.30, "raw"), Target(12, "huey")),
        "naps": (Target(1.00),),
        "p50": (Target(2.5),),
        "p99": (Target(6),),
        "cpu": (Target(0.25),),
        **_MEMORY,
    },
}
