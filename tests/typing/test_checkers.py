"""mypy and pyright, both strict, accept a user's right calls and refuse the wrong ones, line by line."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
Checker = Callable[[Path], dict[str, dict[int, str]]]
RIGHT, WRONG = "user_right.py", "user_wrong.py"


def expected() -> set[int]:
    lines = (HERE / "user_wrong.txt").read_text(encoding="utf-8").splitlines()
    return {number for number, line in enumerate(lines, 1) if "# E:" in line}


def run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=170)
    assert done.returncode in {0, 1}, done.stdout + done.stderr
    return done.stdout


def mypy_errors(tmp_path: Path) -> dict[str, dict[int, str]]:
    config = tmp_path / "mypy.ini"
    config.write_text("[mypy]\nstrict = true\n", encoding="utf-8")
    output = run(
        [sys.executable, "-m", "mypy", "--config-file", str(config), "--explicit-package-bases",
         "--cache-dir", str(tmp_path / "cache"), "--no-error-summary", str(tmp_path / RIGHT), str(tmp_path / WRONG)]
    )  # fmt: skip
    found: dict[str, dict[int, str]] = {RIGHT: {}, WRONG: {}}
    for name, line, text in re.findall(r"(\w+\.py):(\d+): error: (.*)", output):
        found[name][int(line)] = text
    return found


def pyright_errors(tmp_path: Path) -> dict[str, dict[int, str]]:
    config = tmp_path / "pyrightconfig.json"
    settings = {"include": ["*.py"], "typeCheckingMode": "strict", "extraPaths": [str(ROOT)]}
    config.write_text(json.dumps(settings), encoding="utf-8")
    output = run([sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, "-p", str(config)])
    found: dict[str, dict[int, str]] = {RIGHT: {}, WRONG: {}}
    for problem in json.loads(output)["generalDiagnostics"]:
        if problem["severity"] == "error":
            found[Path(problem["file"]).name][problem["range"]["start"]["line"] + 1] = problem["message"]
    return found


@pytest.mark.timeout(180)
@pytest.mark.parametrize("checker", [mypy_errors, pyright_errors])
def test_right_calls_pass_and_wrong_ones_do_not(checker: Checker, tmp_path: Path) -> None:
    shutil.copy(HERE / RIGHT, tmp_path)
    shutil.copy(HERE / "user_wrong.txt", tmp_path / WRONG)  # no .py here, or the project's own checks would fail
    found = checker(tmp_path)
    assert found[RIGHT] == {}
    wrong = found[WRONG]
    assert {line: text for line, text in wrong.items() if line not in expected()} == {}
    assert expected() - wrong.keys() == set(), "these wrong lines were accepted"
