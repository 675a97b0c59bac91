"""A broker, worker processes on it, and everything that is known about their jobs."""

import asyncio
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeVar

from jobq import Client
from jobq.registry import Task
from tests.faults.app import GATES, LEDGER, app, now
from tests.faults.ledger import Ledger, Oracle, Run
from tests.faults.stores import Store

T = TypeVar("T")

LEASE, RENEW, SWEEP, GRACE = 2.0, 0.5, 0.5, 2.0
PATIENCE = 15.0
_HEARD = 50_000_000
"""Nanoseconds after which the end of a process is known here."""
LOOK = 0.01
APP = "tests.faults.app:app"
HOME = Path(__file__).resolve().parents[2]


async def until(condition: Callable[[], T], what: str, seconds: float = PATIENCE) -> T:
    """What `condition` returns as soon as that is true; fails after some seconds."""
    end = now() + seconds * 1e9
    while not (value := condition()):
        assert now() < end, f"not within {seconds:g} s: {what}"
        await asyncio.sleep(LOOK)
    return value


async def after(seconds: float) -> None:
    """Let time go by, where the promise is about time itself."""
    await asyncio.sleep(seconds)


class Program:
    """A process that is ours to kill."""

    def __init__(self, command: Sequence[str], log: Path, environment: dict[str, str]) -> None:
        self.killed: int | None = None
        self.ended: int | None = None
        self._log = log
        with log.open("ab") as stream:
            self._process = subprocess.Popen(
                [sys.executable, *command],
                cwd=HOME,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )
        self.pid = self._process.pid
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        self._process.wait()
        self.ended = now()

    def send(self, number: int) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        """Kill -9."""
        if self.ended is None and self.killed is None:
            self.killed = now()
            self._process.kill()

    @property
    def died(self) -> int | None:
        """When it was killed, or else may have ended.

        The kernel lets go of its locks, by which others know of its end, before it is heard of here.
        """
        return self.killed or (self.ended and self.ended - _HEARD)

    @property
    def log(self) -> str:
        """What it has said."""
        return self._log.read_text(errors="replace")

    async def listens(self) -> None:
        """Wait until it obeys signals."""
        await until(lambda: self.log or self.ended, "a banner")

    async def says(self, text: str, seconds: float = PATIENCE) -> None:
        await until(lambda: text in self.log or self.ended, f"{text!r} in the log", seconds)
        assert text in self.log, f"it ended without saying {text!r}:\n{self.log}"

    async def exit_code(self, seconds: float = PATIENCE) -> int:
        await until(lambda: self.ended, f"the end of the process\n{self.log[-3000:]}", seconds)
        return int(self._process.returncode)


class Field:
    """Where a test takes place."""

    def __init__(self, url: str, store: Store, directory: Path, stack: AsyncExitStack) -> None:
        self.url = url
        self.store = store
        self.oracle = Oracle()
        self.ledger = Ledger(directory / "ledger")
        self._stack = stack
        self._directory = directory
        self._gates = directory / "gates"
        self._gates.mkdir()
        self.programs: list[Program] = []
        self._numbers = itertools.count()
        self._client: Client | None = None
        self._environment = {LEDGER: str(directory / "ledger"), GATES: str(self._gates), "NO_COLOR": "1"}

    def worker(
        self,
        *,
        url: str = "",
        concurrency: int = 10,
        grace: float = GRACE,
        host: str = "",
        skew: float = 0,
        audit: str = "",
        **extra: float,
    ) -> Program:
        """Start one with short leases; `extra` are options of `WorkerOptions`."""
        options = {"lease": LEASE, "renew": RENEW, "sweep": SWEEP, **extra}
        spec = {"options": options, "host": host, "skew": skew, "audit_to": audit}
        arguments = [APP, "--broker", url or self.url, "--concurrency", str(concurrency), "--grace", str(grace)]
        return self.program("-m", "tests.faults.runner", json.dumps(spec), *arguments)

    def command(self, *arguments: str) -> Program:
        """Start the program as users do."""
        return self.program("-m", "jobq.worker", APP, "--broker", self.url, *arguments)

    def program(self, *command: str) -> Program:
        program = Program(command, self._directory / f"log{len(self.programs)}", self._environment)
        self.programs.append(program)
        return program

    def kill(self, pid: int) -> None:
        """Kill -9 a child of a program of ours."""
        self.oracle.killed.add(pid)
        self.oracle.deaths[pid] = now()
        os.kill(pid, signal.SIGKILL)

    def open(self, gate: str, text: str = "") -> None:
        """Let those go on who wait for it."""
        fresh = self._gates / f".{gate}"
        fresh.write_text(text)
        fresh.rename(self._gates / gate)

    def shut(self, gate: str) -> None:
        """Let nobody through any more."""
        (self._gates / gate).unlink()

    async def client(self) -> Client:
        if self._client is None:
            self._client = await self._stack.enter_async_context(app.client(self.url))
        return self._client

    async def enqueue(self, task: Task[..., Any], *arguments: object, count: int = 1) -> list[str]:
        """Enqueue so many jobs of one task, and note them."""
        names = [f"{task.name}{next(self._numbers)}" for _ in range(count)]
        client = await self.client()
        self.oracle.tried |= set(names)
        await client.perform_many([task.options(id=name).call(*arguments) for name in names])
        self.oracle.acked |= set(names)
        return names

    async def started(self, count: int, pid: int | None = None) -> list[Run]:
        """Wait for so many starts (in one process)."""
        await until(lambda: len(self._runs(pid)) >= count, f"{count} starts")
        return self._runs(pid)

    async def restarted(self, job_id: str, seconds: float = PATIENCE) -> Run:
        """Wait for a second run of a job."""
        await until(lambda: len(self.ledger.of(job_id)) > 1, f"a second run of {job_id}", seconds)
        return self.ledger.of(job_id)[1]

    async def quiet(self, seconds: float = PATIENCE) -> None:
        """Wait until no job lives."""
        await until(lambda: not self.store.live(), "no jobs left", seconds)

    async def settled(self) -> None:
        """Wait until no job lives, stop the workers, and check everything."""
        await self.quiet()
        await self.stop()
        self.judge()

    async def stop(self) -> None:
        """Stop all workers; each has to go without an error."""
        living = [program for program in self.programs if program.died is None]
        for program in living:
            await program.listens()
            program.send(signal.SIGTERM)
        for program in living:
            assert await program.exit_code() == 0, program.log

    def judge(self) -> None:
        """Check the invariants; all processes must have ended."""
        for program in self.programs:
            assert program.died is not None
            self.oracle.deaths[program.pid] = program.died
            if program.killed is not None:
                self.oracle.killed.add(program.pid)
        self.oracle.check(self.ledger.runs(), self.store.dead())
        self.store.check()

    def logs(self) -> str:
        """The ends of what the processes said."""
        return "\n".join(f"--- {program.pid}\n{program.log[-1500:]}" for program in self.programs[-4:])

    def end(self) -> None:
        """Leave no process behind, and show what they said if the test fails."""
        print(self.logs())
        for program in self.programs:
            program.kill()

    def _runs(self, pid: int | None) -> list[Run]:
        return self.ledger.runs() if pid is None else self.ledger.by(pid)
