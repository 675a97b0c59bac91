"""The benchmarks run. Whether their figures are good is not for tests to say."""
# ruff: noqa: RUF001 - signs for a table

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from benchmarks.report import table

RUN: Final = Path(__file__).resolve().parents[1] / "benchmarks" / "run.py"
PATIENCE: Final = 50.0
FIGURE: Final = re.compile(r"[1-9]\d*(,\d+)*(\.\d+)?k?|0\.\d+")
MEMORY: Final = {
    "enqueue, bulk call with 10,000 jobs",
    "drain of no-op jobs, one worker",
    "pick-up latency, median",
    "pick-up latency, 95 %",
    "pick-up latency, 99 %",
    "worker CPU for 10,000 jobs",
}
SQLITE: Final = {
    "drain of no-op jobs, one worker",
    "worker CPU for 10,000 jobs",
    "worker memory at the first job",
}
POSTGRES: Final = {
    "dead rows that a job leaves to vacuum",
    "a claim of 100 jobs among 1,000",
    "a claim of 100 jobs among 100,000",
    "a claim of 100 jobs among 1,000,000",
    "the longest of these : the shortest",
}


def bench(directory: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run them to see whether they run at all."""
    return subprocess.run(
        [sys.executable, str(RUN), "--quick", "--repeat", "1", "--no-peers", *arguments],
        env={**os.environ, "XDG_CACHE_HOME": str(directory), **env},
        timeout=PATIENCE,
        check=False,
        capture_output=True,
        text=True,
    )


def read(page: Path) -> list[list[str]]:
    """The rows of its table, the head first."""
    head, _, *rows = [line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    return [line.removeprefix("| ").split(" | ") for line in (head, *rows)]


def has_postgres() -> bool:
    """Whether there is a server for the benchmark to start."""
    return shutil.which("postgres") is not None or any(Path("/usr/lib/postgresql").glob("*/bin/postgres"))


needs_postgres = pytest.mark.skipif(not has_postgres(), reason="there is no postgres")


@pytest.mark.parametrize(
    ("broker", "rows", "titles"),
    [
        ("memory", ["bulk", "drain", "pickup"], MEMORY),
        ("sqlite", ["drain"], SQLITE),
        pytest.param("postgres", ["dead", "claims"], POSTGRES, marks=needs_postgres),
    ],
)
def test_a_quick_run_has_a_figure_in_each_row(broker: str, rows: list[str], titles: set[str], tmp_path: Path) -> None:
    only = [argument for row in rows for argument in ("--only", row)]
    done = bench(tmp_path, "--broker", broker, *only, "--markdown", str(tmp_path / "page.md"))
    assert done.returncode == 0, done.stderr
    head, *found = read(tmp_path / "page.md")
    assert {title for title, *_ in found} == titles
    assert ("raw loop" in head) == (broker != "memory")
    assert any(FIGURE.fullmatch(raw) for _, _, _, raw, *_ in found) == (broker == "sqlite"), "others have no raw loop"
    for title, _, jobq, *_ in found:
        assert FIGURE.fullmatch(jobq), title
        assert re.search(f"^{re.escape(title)} .* {re.escape(jobq)}", done.stdout, re.MULTILINE)


def test_each_peer_has_a_column_a_ratio_and_targets_of_its_own() -> None:
    head, one, drain = table(
        "postgres",
        {
            "jobq": [{"drain": 60_000.0, "one": 2_000.0}, {"drain": 60_000.0, "one": 2_000.0}],
            "raw": [{"drain": 80_000.0}, {"drain": 100_000.0}],
            "pgqueuer": [{"drain": 20_000.0, "one": 1_000.0}, {"drain": 10_000.0, "one": 1_000.0}],
            "oban": [{"drain": 5_000.0}, {"drain": 5_000.0}],
        },
    )
    ratios = ("jobq : raw", "jobq : pgqueuer", "jobq : oban")
    assert head == ("postgres", "unit", "jobq", "raw loop", "pgqueuer", "oban", *ratios, "target: reached", "")
    assert one[2:9] == ("2,000 (2,000–2,000)", "", "1,000 (1,000–1,000)", "", "", "2.0", "")
    assert drain[6:9] == ("0.68", "4.5", "12.0")
    reached = "≥ 0.5 × raw: 0.68; ≥ 4 × pgqueuer: 4.5; ≥ 9 × oban: 12.0; ≥ 50 × procrastinate: not measured"
    assert drain[9:] == (reached, "pass")


def test_one_target_that_is_missed_is_enough_to_say_so() -> None:
    _, drain = table("redis", {"jobq": [{"drain": 1e4}], "raw": [{"drain": 2e4}], "taskiq": [{"drain": 1e3}]})
    assert drain[-2:] == ("≥ 0.4 × raw: 0.50; ≥ 15 × taskiq: 10.0", "FAIL")


def test_a_measurement_that_goes_wrong_is_told_and_fails_the_run(tmp_path: Path) -> None:
    done = bench(tmp_path, "--broker", "redis", "--only", "drain", PATH="")
    assert done.returncode == 1
    assert "FAILED: there is no redis-server; install it" in done.stderr
