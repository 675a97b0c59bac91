"""The stamps of enqueues. An enqueue is repeated only by the process that it came from, so only that one remembers."""

import threading
from pathlib import Path
from typing import Final

from jobq.model import Stamp

_MOST: Final = 10_000
"""Clients of one file in this process; of more, those that have been quiet for the longest time are forgotten."""


class Stamps:
    """The last enqueue of each client, and which of its jobs were not stored."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[int, frozenset[int]]] = {}
        self._lock = threading.Lock()

    def known(self, stamp: Stamp) -> frozenset[int] | None:
        """The indexes of the jobs that were not stored, if this enqueue is a repeat."""
        number, duplicates = self._last.get(stamp.client, (-1, frozenset[int]()))
        if stamp.number > number:
            return None
        return duplicates if stamp.number == number else frozenset()

    def remember(self, stamp: Stamp, duplicates: frozenset[int]) -> None:
        """It has been stored."""
        with self._lock:
            self._last.pop(stamp.client, None)
            self._last[stamp.client] = stamp.number, duplicates
            if len(self._last) > _MOST:
                del self._last[next(iter(self._last))]


_by_file: dict[Path, Stamps] = {}


def stamps_of(path: Path) -> Stamps:
    """The stamps of the file with this absolute path, whichever broker object they came through."""
    return _by_file.setdefault(path, Stamps())
