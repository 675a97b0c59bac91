"""Linux's file watches, as far as they are needed here."""

import ctypes
import os
from contextlib import suppress
from typing import Final

WRITTEN: Final = 0x2
CLOSED: Final = 0x10
"""Closed by somebody who did not write."""


class FileWatch:
    """Becomes readable when somebody on this machine does to the file what is watched for."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def fileno(self) -> int:
        """What to select on."""
        return self._fd

    def clear(self) -> None:
        """Forget what happened so far."""
        with suppress(BlockingIOError):
            while os.read(self._fd, 4096):
                pass

    def close(self) -> None:
        """Stop watching."""
        os.close(self._fd)


def watch(path: str, event: int) -> FileWatch | None:
    """A watch on `path` for `event`, or None where that does not work."""
    try:
        libc = ctypes.CDLL(None)
        fd = int(libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        if fd >= 0 and libc.inotify_add_watch(fd, os.fsencode(path), event) < 0:
            os.close(fd)
            fd = -1
    except (AttributeError, OSError, TypeError):
        return None
    return FileWatch(fd) if fd >= 0 else None
