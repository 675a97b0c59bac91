"""The demo itself: enqueue a job per file, let a worker run them, count what it wrote."""

import asyncio
import os
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from jobq import Client
from jobq.cli.demo.crew import Crew, DemoFailed
from jobq.cli.demo.jobs import app, digest
from jobq.cli.demo.screen import Screen
from jobq.cli.demo.tally import Tally
from jobq.errors import ConfigError
from jobq.plugins import resolve_url
from jobq.worker.settings import Settings

__all__ = ["Plan", "Report", "find_files", "run"]

_CHUNK: Final = 500
_STUMBLE: Final = 20
"""One job in so many fails once, and one in `_LATER` is due a second later."""
_LATER: Final = 50
_DELAY: Final = 1.0
_TICK: Final = 0.05
_STALL: Final = 60.0
_KILL_AT: Final = 1 / 3


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to do."""

    files: Sequence[str]
    broker: str | None
    kill: bool
    concurrency: int


@dataclass(kw_only=True)
class Report:
    """What was done."""

    tally: Tally
    queue: str
    enqueued: int = 0
    enqueuing: float = 0.0
    seconds: float = 0.0
    killed: str = ""


def find_files(folder: Path, limit: int | None) -> list[str]:
    """Readable files in `folder`, without installed packages, caches and hidden folders."""
    return [path for path, _ in zip(_walk(folder), range(limit) if limit else iter(int, 1), strict=False)]


def _walk(folder: Path) -> Iterator[str]:
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f not in {"__pycache__", "site-packages"})
        for name in sorted(files):
            path = os.path.join(root, name)  # noqa: PTH118 - thousands of them
            if os.path.isfile(path) and os.access(path, os.R_OK) and _is_text(path):  # noqa: PTH113
                yield path


def _is_text(path: str) -> bool:
    """Whether JSON can hold it: a name that is no UTF-8 comes as lone surrogates."""
    return path.encode(errors="ignore").decode() == path


async def run(plan: Plan, screen: Screen) -> Report:
    """Run the demo. Raises `JobqError`."""
    # a broker that is interrupted while it opens may still be writing, in a thread of its own
    with TemporaryDirectory(prefix="jobq-demo-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        url = resolve_url(plan.broker or f"sqlite:///{folder}/jobq.db")
        if url.startswith("memory:"):
            raise ConfigError(
                "memory:// lives inside one process, and the demo's worker is another: name a real broker"
            )
        queue = f"demo-{secrets.token_hex(4)}"
        report = Report(tally=Tally(folder / "results.jsonl", plan.files), queue=queue)
        settings = Settings(
            app="jobq.cli.demo.jobs:app",
            broker=url,
            queues=(queue,),
            concurrency=plan.concurrency,
            grace=1.0,
            log_level="warning",
        )
        async with app.client(url) as client, Crew(settings, folder) as crew:
            await _Demo(plan, screen, crew, client, report).run()
        report.tally.read()  # what a dying worker may have added
    return report


class _Demo:
    def __init__(self, plan: Plan, screen: Screen, crew: Crew, client: Client, report: Report) -> None:
        self._plan = plan
        self._screen = screen
        self._crew = crew
        self._client = client
        self._report = report
        self._tally = report.tally
        self._moved = time.monotonic()

    async def run(self) -> None:
        started = time.monotonic()
        enqueuing = asyncio.create_task(self._enqueue())
        try:
            while not self._tally.complete:
                await asyncio.sleep(_TICK)
                if enqueuing.done():
                    enqueuing.result()
                self._look()
                await self._kill()
        finally:
            enqueuing.cancel()
        self._report.seconds = time.monotonic() - started

    async def _enqueue(self) -> None:
        started = time.monotonic()
        files = list(enumerate(self._plan.files))
        task = digest.options(queue=self._report.queue)
        later = list[str]()
        for start in range(0, len(files), _CHUNK):
            batch = files[start : start + _CHUNK]
            now = [(path, index % _STUMBLE == 0) for index, path in batch if index % _LATER != 1]
            later += [path for index, path in batch if index % _LATER == 1]
            await self._client.perform_many(task.call(path, stumble=stumble) for path, stumble in now)
            self._report.enqueued += len(now)
        await asyncio.gather(*(self._client.perform_in(_DELAY, task, path) for path in later))
        self._report.enqueued += len(later)
        self._report.enqueuing = time.monotonic() - started

    def _look(self) -> None:
        if self._tally.read():
            self._moved = time.monotonic()
        self._screen.update(self._tally.processed, self._tally.failed)
        self._crew.check()
        if time.monotonic() - self._moved > _STALL:
            raise DemoFailed(f"no job has run for {_STALL:g} s. The worker is there{self._crew.log()}")

    async def _kill(self) -> None:
        if not self._plan.kill or self._report.killed or self._tally.processed < len(self._plan.files) * _KILL_AT:
            return
        victim, processed = self._crew.pid, self._tally.processed
        seconds = await self._crew.kill()
        self._report.killed = f"process {victim} after {processed:,} files, replaced {seconds * 1000:.0f} ms later"
        self._screen.say(f"kill -9 {victim} with {processed:,} files done; its replacement is process {self._crew.pid}")
