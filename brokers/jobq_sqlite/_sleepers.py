"""Who waits for work, and waking them from any thread."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path


class Sleeper:
    """Somebody who waits for work in some queues, or for a job to become the earliest one due."""

    def __init__(self, queues: Sequence[str]) -> None:
        self.queues = queues
        self.loop = asyncio.get_running_loop()
        self.event = asyncio.Event()
        self.seen = False
        self.next_due: float | None = None

    def wake(self) -> None:
        """From any thread."""
        with suppress(RuntimeError):  # the loop is gone
            self.loop.call_soon_threadsafe(self.event.set)


class Sleepers:
    """Who waits in this process for the jobs of one file."""

    def __init__(self) -> None:
        self._all = set[Sleeper]()

    def add(self, sleeper: Sleeper) -> None:
        self._all.add(sleeper)

    def discard(self, sleeper: Sleeper) -> None:
        self._all.discard(sleeper)

    def wake(self) -> None:
        for sleeper in tuple(self._all):
            sleeper.wake()


_by_file: dict[Path, Sleepers] = {}


def sleepers_of(path: Path) -> Sleepers:
    """The sleepers of the file with this absolute path, whichever broker object they use."""
    return _by_file.setdefault(path, Sleepers())
