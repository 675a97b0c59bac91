"""The benchmarks run. Whether their figures are good is not for tests to say."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

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


def table(page: Path) -> list[list[str]]:
    """Its rows, without the head."""
    lines = [line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    return [line.removeprefix("| ").split(" | ") for line in lines[2:]]


@pytest.mark.parametrize(
    ("broker", "rows", "titles"), [("memory", ["bulk", "drain", "pickup"], MEMORY), ("sqlite", ["drain"], SQLITE)]
)
def test_a_quick_run_has_a_figure_in_each_row(broker: str, rows: list[str], titles: set[str], tmp_path: Path) -> None:
    only = [argument for row in rows for argument in ("--only", row)]
    done = bench(tmp_path, "--broker", broker, *only, "--markdown", str(tmp_path / "page.md"))
    assert done.returncode == 0, done.stderr
    found = table(tmp_path / "page.md")
    assert {title for title, *_ in found} == titles
    assert any(FIGURE.fullmatch(raw) for _, _, _, raw, *_ in found) == (broker == "sqlite"), "memory has no raw loop"
    for title, _, jobq, *_ in found:
        assert FIGURE.fullmatch(jobq), title
        assert re.search(f"^{re.escape(title)} .* {re.escape(jobq)}", done.stdout, re.MULTILINE)


def test_a_measurement_that_goes_wrong_is_told_and_fails_the_run(tmp_path: Path) -> None:
    done = bench(tmp_path, "--broker", "redis", "--only", "drain", PATH="")
    assert done.returncode == 1
    assert "FAILED: there is no redis-server; install it" in done.stderr
