"""The command: what to measure, how often, in which order."""

import argparse
import importlib.util
import os
import platform
import sqlite3
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Final

from benchmarks.contenders import Contender, cache, contenders
from benchmarks.processes import Failed
from benchmarks.report import Readings, markdown, table, text
from benchmarks.rows import ROUNDS, ROWS, Sizes, Values, measure

__all__ = ["main"]

BROKERS: Final = ("redis", "rmq", "rmq-classic", "postgres", "sqlite", "memory")


class Run:
    """All repetitions of what was asked for."""

    def __init__(self, rows: Sequence[str], sizes: Sizes, directory: Path) -> None:
        self.rows = rows
        self.sizes = sizes
        self.directory = directory
        self.failures = 0

    def broker(self, broker: str, who: Sequence[Contender], repeat: int) -> Readings:
        """Every repetition measures everything once, row by row, and turns the order of the contenders round."""
        readings = {contender.name: [Values() for _ in range(repeat)] for contender in who}
        for repetition in range(repeat):
            order = who if repetition % 2 == 0 else who[::-1]
            for row in self.rows:
                say(f"{broker}, repetition {repetition + 1} of {repeat}: {row}")
                rounds = [self.round(row, broker, order) for _ in range(ROUNDS.get(row, 1))]
                for name, repetitions in readings.items():
                    repetitions[repetition] |= _mean([one[name] for one in rounds if name in one])
        return {**readings}

    def round(self, row: str, broker: str, order: Sequence[Contender]) -> dict[str, Values]:
        """One turn of each contender that has this row, by name."""
        return {contender.name: self.one(row, broker, contender) for contender in order if row in contender.rows}

    def one(self, row: str, broker: str, contender: Contender) -> Values:
        """A failure is told, counted, and costs its own cell only."""
        try:
            return measure(row, broker, contender, self.sizes, self.directory)
        except Failed as exc:
            self.failures += 1
            say(f"FAILED: {exc}\n")
            return {}


def _mean(rounds: Sequence[Values]) -> Values:
    metrics = {metric for values in rounds for metric in values}
    return {metric: fmean(values[metric] for values in rounds if metric in values) for metric in metrics}


def say(message: str) -> None:
    """Progress, beside the result."""
    if sys.stderr.isatty() and not message.startswith("FAILED"):
        print(f"\r\x1b[K{message}", end="", file=sys.stderr, flush=True)
    else:
        print(message, file=sys.stderr)


def circumstances(repeat: int) -> str:
    """What the figures depend on."""
    uvloop = "uvloop" if importlib.util.find_spec("uvloop") else "asyncio's own loop"
    return (
        f"Python {platform.python_version()}, {uvloop}, SQLite {sqlite3.sqlite_version}, {os.cpu_count()} cores, "
        f"{platform.system()} {platform.release().split('-')[0]}; median of {repeat} (least-most); "
        f"load average at the end {os.getloadavg()[0]:.1f}"
    )


def options(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="benchmarks/run.py", description="jobq beside its limits and its peers")
    parser.add_argument("--broker", action="append", choices=BROKERS, help="may be repeated; default: all")
    parser.add_argument(
        "--only", action="append", choices=ROWS, metavar="ROW", help=f"of {', '.join(ROWS)}; repeatable"
    )
    parser.add_argument("--repeat", type=int, default=3, metavar="N", help="repetitions (3)")
    parser.add_argument("--quick", action="store_true", help="a fifth of the work: a smoke test, not a measurement")
    parser.add_argument("--no-peers", action="store_true", help="install and measure no peers")
    parser.add_argument("--million", action="store_true", help="jobq drains 1,000,000 jobs, to watch its memory")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables there as well")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run it; 1 when a measurement failed. A missed target is no failure: it is printed."""
    asked = options(argv)
    sizes = Sizes(million=asked.million)
    if asked.quick:
        sizes = Sizes(seconds=0.5, share=0.2, pickups=150, million=asked.million)
    parts: list[str] = []
    with tempfile.TemporaryDirectory(prefix="work-", dir=cache()) as directory:
        run = Run(asked.only or list(ROWS), sizes, Path(directory))
        for broker in asked.broker or BROKERS:
            who = contenders(broker, peers=not asked.no_peers)
            rows = table(broker, run.broker(broker, who, asked.repeat))
            say("")
            print(text(rows), end="\n\n", flush=True)
            parts.append(markdown(rows))
    print(circumstances(asked.repeat))
    if asked.markdown is not None:
        asked.markdown.write_text("\n\n".join([*parts, circumstances(asked.repeat)]) + "\n")
    return 1 if run.failures else 0
