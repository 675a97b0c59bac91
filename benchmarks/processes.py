"""Child processes that end: by themselves, with this one, or killed by their process group."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self, cast

__all__ = ["ROOT", "Failed", "Processes", "wait_for"]

ROOT: Final = Path(__file__).resolve().parent.parent
_LIFE: Final = 900
# An alarm outlives exec, so whatever becomes of this process, the child ends.
_LIMITED: Final = "import os, signal, sys; signal.alarm(int(sys.argv[1])); os.execvp(sys.argv[2], sys.argv[2:])"
_TAIL: Final = 1500


class Failed(Exception):
    """A measurement went wrong."""


def wait_for(condition: Callable[[], bool], seconds: float, what: str, every: float = 0.02) -> None:
    """Poll until `condition` holds. Raises `Failed`."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise Failed(f"{what}: not within {seconds:.0f} s")
        time.sleep(every)


class Processes:
    """The children of one measurement, with their logs in `directory`. Leaving the block ends those still there."""

    def __init__(self, directory: Path, **environment: str) -> None:
        self.directory = directory
        self._environment = os.environ | {"PYTHONPATH": str(ROOT)} | environment
        self._running: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.stop_all()

    def start(self, command: Sequence[str], environment: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Start one in the background, in a process group of its own."""
        with self._log(len(self._running)).open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-S", "-E", "-c", _LIMITED, str(_LIFE), *command],
                cwd=ROOT,
                env=self._environment | dict(environment or {}),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._running.append(process)
        return process

    def stop(self, process: subprocess.Popen[bytes], seconds: float = 10) -> None:
        """SIGTERM, then SIGKILL for its group."""
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            pass
        finally:
            self._kill(process)

    def stop_all(self) -> None:
        """End them, the last one first."""
        while self._running:
            self.stop(self._running[-1])
            self._running.pop()

    def run(self, command: Sequence[str], seconds: float = 300) -> dict[str, float]:
        """Run one to its end; the JSON that it printed."""
        try:
            done = subprocess.run(
                command, cwd=ROOT, env=self._environment, capture_output=True, timeout=seconds, check=False
            )
        except subprocess.TimeoutExpired:
            raise Failed(f"{' '.join(command)}: no end within {seconds:.0f} s") from None
        if done.returncode:
            raise Failed(f"{' '.join(command)} failed:\n{done.stderr.decode(errors='replace')[-_TAIL:]}")
        return cast("dict[str, float]", json.loads(done.stdout.splitlines()[-1]))

    def logs(self) -> str:
        """The ends of what the background processes wrote."""
        texts = (self._log(index).read_text(errors="replace")[-_TAIL:] for index in range(len(self._running)))
        return "\n".join(text for text in texts if text)

    def _log(self, index: int) -> Path:
        return self.directory / f"process-{index}.log"

    def _kill(self, process: subprocess.Popen[bytes]) -> None:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        process.wait()
