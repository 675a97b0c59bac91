"""The demo's worker: `python -m jobq.worker` as anyone would start it, in a process of its own."""

import asyncio
import os
import time
from asyncio.subprocess import Process
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from jobq.cli.demo.jobs import RESULTS
from jobq.errors import JobqError
from jobq.worker.children import start
from jobq.worker.settings import Settings

__all__ = ["Crew", "DemoFailed"]

_PATIENCE: Final = 3.5
_TAIL: Final = 2000


class DemoFailed(JobqError):
    """The demo could not go on."""


class Crew:
    """One worker at a time. Leaving the block ends it, whatever happened."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self._settings = settings
        self._log = folder / "worker.log"
        self._env = {**settings.environ(), RESULTS: str(folder / "results.jsonl")}
        self._worker: Process | None = None

    async def __aenter__(self) -> Self:
        await self._start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        worker = self._worker
        if worker is None or worker.returncode is not None:
            return
        worker.terminate()
        try:
            await asyncio.wait_for(worker.wait(), _PATIENCE)
        except BaseException:
            with suppress(ProcessLookupError):
                worker.kill()
            await worker.wait()
            raise

    @property
    def pid(self) -> int:
        """The worker's process."""
        assert self._worker is not None
        return self._worker.pid

    def check(self) -> None:
        """Raise `DemoFailed` if the worker has ended by itself."""
        if self._worker is not None and self._worker.returncode is not None:
            raise DemoFailed(f"the worker ended with code {self._worker.returncode}{self.log()}")

    def log(self) -> str:
        """The end of what the worker has logged, as part of an error."""
        text = self._log.read_text(errors="replace")[-_TAIL:].strip()
        return f":\n{text}" if text else " and has logged nothing"

    async def kill(self) -> float:
        """Kill the worker with SIGKILL and start another; the seconds from the one to the other."""
        assert self._worker is not None
        killed = time.monotonic()
        self._worker.kill()
        await self._worker.wait()
        await self._start()
        return time.monotonic() - killed

    async def _start(self) -> None:
        log = os.open(self._log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            self._worker = await start(self._settings.command(), self._env, log)
        finally:
            os.close(log)
