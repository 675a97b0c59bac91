"""The write-ahead log as a file: bringing it to the disk.

SQLite would do that inside each commit, while all other writers have to wait; so it is told not to, and whoever needs
it does it after the commit.
"""

import logging
import os
import sqlite3
import sys
from pathlib import Path
from typing import Final

from jobq.errors import OutcomeUnknown

_log = logging.getLogger("jobq.sqlite")
_sync: Final = os.fdatasync if sys.platform == "linux" else os.fsync


class Log:
    """The log of a database, for as long as a connection keeps it in its place."""

    def __init__(self, path: Path) -> None:
        self.path = f"{path}-wal"
        self._fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        self._directory: Path | None = path.parent
        """Until it has been brought to the disk: it has the name of the log."""
        self._torn = False

    def fileno(self) -> int:
        """The descriptor."""
        return self._fd

    def size(self) -> int:
        """In bytes."""
        return os.fstat(self._fd).st_size

    def sync(self, db: sqlite3.Connection) -> None:
        """Return when all that was committed is on the disk, by whomever. Raises `OutcomeUnknown` if the disk fails.

        After a failure the system believes that what it could not write is written, and all that follows in the log
        would be lost with it. So nothing counts as being on the disk until the log is no longer needed.
        """
        try:
            if self._directory is not None:
                _sync_directory(self._directory)
                self._directory = None
            if self._torn:
                _do_without(db)
            _sync(self._fd)
            self._torn = False
        except (OSError, sqlite3.Error) as exc:
            if not self._torn:  # a worker, whose answers do not wait for this, has no other way to say so
                _log.error("the disk failed to store %s (%s); nothing counts as stored until it can", self.path, exc)
            self._torn = True
            raise OutcomeUnknown(f"{self.path}: the disk failed while storing ({exc})") from exc

    def close(self) -> None:
        """Leave the file to the others."""
        os.close(self._fd)


def _do_without(db: sqlite3.Connection) -> None:
    (busy, _, _) = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    if busy:
        raise OSError("others still read the log")


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
