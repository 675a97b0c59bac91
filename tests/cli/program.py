"""A program under test: started, listened to line by line, and ended."""

import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from jobq import App, SyncClient
from jobq.registry import Call, Task

PATIENCE = 20.0


def until(condition: Callable[[], object], what: str = "it") -> None:
    """Return as soon as `condition` holds; fail if it takes too long."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.01)


def alive(pid: int) -> bool:
    """Whether there is such a process, and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


class Program:
    """A Python program in its own process group, whose standard error is read as it comes."""

    def __init__(self, arguments: Iterable[object], directory: Path, env: dict[str, str], stdout: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            cwd=directory,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.seen = list[str]()
        self.out = list[str]()
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._readers = [
            threading.Thread(target=self._read, args=(self.process.stderr, self._got), daemon=True),
            threading.Thread(target=self._read, args=(self.process.stdout, self.out.append), daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, stream: Any, got: Callable[[str], None]) -> None:
        for line in stream or ():
            got(line.rstrip("\n"))
        if got == self._got:
            self._lines.put(None)

    def _got(self, line: str) -> None:
        self.seen.append(line)
        self._lines.put(line)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def err(self) -> str:
        return "\n".join(self.seen)

    def expect(self, pattern: str) -> re.Match[str]:
        """The next line of its standard error in which `pattern` is."""
        end = time.monotonic() + PATIENCE
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                line = None
            assert line is not None, f"waited in vain for {pattern!r} in:\n{self.err}"
            if found := re.search(pattern, line):
                return found

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        """Its exit code, once it has ended and everything it said is read."""
        code = self.process.wait(PATIENCE)
        for reader in self._readers:
            reader.join(PATIENCE)
        return code

    def end(self) -> None:
        """Kill it and its process group, if anything is left of them."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.wait()
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


class Project:
    """A user's directory with an app in it, and the programs started there."""

    def __init__(self, directory: Path, app: App) -> None:
        self.directory = directory
        self.url = f"sqlite:///{directory}/jobq.db"
        self.app = app
        self.programs = list[Program]()
        self.env = {name: value for name, value in os.environ.items() if not name.startswith("JOBQ_")}
        self.env |= {"OUT": str(directory / "out"), "PYTHONPATH": os.environ.get("PYTHONPATH", ""), "TERM": "dumb"}

    def start(self, *arguments: object, stdout: int = subprocess.PIPE, **env: str) -> Program:
        """Run Python with these arguments."""
        program = Program(arguments, self.directory, self.env | env, stdout)
        self.programs.append(program)
        return program

    def worker(self, *arguments: object, app: str = "sample:app", **env: str) -> Program:
        """Run a worker on the project's broker."""
        return self.start("-m", "jobq.worker", app, "--broker", self.url, *arguments, stdout=subprocess.PIPE, **env)

    def enqueue(self, *calls: Call[Any], url: str | None = None) -> None:
        with SyncClient(url or self.url) as client:
            client.perform_many(calls)

    def write(self, name: str, text: str) -> Path:
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    @property
    def notes(self) -> list[str]:
        """What jobs have written."""
        out = self.directory / "out"
        return out.read_text().splitlines() if out.exists() else []

    def noted(self, start: str, count: int = 1) -> list[str]:
        """Wait for notes that begin with `start`."""
        until(lambda: len(self.matching(start)) >= count, f"{count} notes {start!r} in {self.notes}")
        return self.matching(start)

    def matching(self, start: str) -> list[str]:
        return [line for line in self.notes if line.startswith(start)]

    def task(self, name: str) -> Task[..., Any]:
        return self.app.registry.tasks[name]
