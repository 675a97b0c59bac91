#!/usr/bin/env python3
"""Run the tests: make `.venv` if need be, install the project into it, and start pytest with the arguments given here.

    python3 tests/run.py                  all tests, two at a time
    python3 tests/run.py -k sqlite        arguments go to pytest
    python3 tests/run.py --lint           the linters and type checkers instead

It needs Python 3.11 and nothing else. Servers that are missing are installed with apt where that is allowed; say
JOBQ_TEST_INSTALL=0 to have it skip their tests instead.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts" if os.name == "nt" else "bin") / ("python.exe" if os.name == "nt" else "python")
STAMP = VENV / "installed"
OLDEST = (3, 11)
ALL_TESTS = ("--numprocesses=2", "--dist=worksteal")
"""Half of the time is waiting for servers and processes; more than two at once would disturb each other's timing."""
CHECKS = (
    ("ruff", "check", "."),
    ("ruff", "format", "--check", "."),
    ("mypy",),
    ("pyright", "--pythonpath", str(PYTHON)),
    ("lint-imports",),
)


def main(arguments: Sequence[str]) -> int:
    """Prepare, and run the tests or the checks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lint", action="store_true", help="check the code instead of testing it")
    chosen, for_pytest = parser.parse_known_args(arguments)
    prepare(["test", "lint"] if chosen.lint else ["test"])
    return run_checks() if chosen.lint else run_tests(for_pytest)


def prepare(groups: Sequence[str]) -> None:
    """Make the virtual environment and install into it, unless nothing has changed since."""
    if not PYTHON.exists():
        need_ensurepip()
        say(f"making {VENV.name} with Python {sys.version.split()[0]}")
        venv.create(VENV, with_pip=True, clear=True, symlinks=os.name != "nt")
    wanted = digest()
    installed = STAMP.read_text().split() if STAMP.exists() else []
    have = installed[1:] if installed[:1] == [wanted] else []
    if set(groups) <= set(have):
        return
    groups = sorted({*groups, *have})
    say(f"installing jobq with the groups {', '.join(groups)}")
    pip("install", "--upgrade", "pip>=25.1")  # older ones know no groups
    pip("install", "--editable", ".[all]", *(f"--group={group}" for group in groups))
    STAMP.write_text(" ".join([wanted, *groups]))


def digest() -> str:
    """Changes when something has to be installed anew: what is asked for, the entry points, the interpreter."""
    parts = [(ROOT / "pyproject.toml").read_bytes(), str(VENV).encode(), os.fsencode(os.path.realpath(PYTHON))]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def need_ensurepip() -> None:
    """Debian and Ubuntu keep the venv module's better half in a package of its own."""
    if find_spec("ensurepip") is not None:
        return
    package = f"python3.{sys.version_info.minor}-venv"
    install = ["apt-get", "install", "-y", "--no-install-recommends", package]
    if not may_install() or os.geteuid() != 0 or not shutil.which("apt-get"):
        sys.exit(f"this Python cannot make virtual environments; install that part of it: {' '.join(install)}")
    say(f"installing {package}")
    if subprocess.run(install, check=False).returncode:
        subprocess.run(["apt-get", "update"], check=True)
        subprocess.run(install, check=True)


def run_tests(arguments: Sequence[str]) -> int:
    """Run pytest. tests/servers.py starts the servers."""
    os.environ.setdefault("JOBQ_TEST_INSTALL", "1")
    return run("pytest", *(arguments or ALL_TESTS))


def run_checks() -> int:
    """Run all the checks, also after one that fails."""
    failed = [check[0] for check in CHECKS if run(*check) != 0]
    if failed:
        say(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


def run(program: str, *arguments: str) -> int:
    """Run a program of the virtual environment."""
    say(" ".join([program, *arguments]))
    path = os.pathsep.join([str(PYTHON.parent), os.environ.get("PATH", "")])
    command = [str(PYTHON), "-m", program] if program == "pytest" else [str(PYTHON.parent / program)]
    return subprocess.run([*command, *arguments], cwd=ROOT, env={**os.environ, "PATH": path}, check=False).returncode


def pip(*arguments: str) -> None:
    """Run pip, or end with its error."""
    command = [str(PYTHON), "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    code = subprocess.run(command, cwd=ROOT, check=False).returncode
    if code:
        sys.exit(code)


def may_install() -> bool:
    """Whether it may install packages of the system."""
    return os.environ.get("JOBQ_TEST_INSTALL", "1") == "1"


def say(text: str) -> None:
    """Tell what happens."""
    print(f"tests/run.py: {text}", flush=True)


if __name__ == "__main__":
    if sys.version_info < OLDEST:
        sys.exit(f"tests/run.py needs Python {OLDEST[0]}.{OLDEST[1]} or newer; this is {sys.version.split()[0]}")
    sys.exit(main(sys.argv[1:]))
