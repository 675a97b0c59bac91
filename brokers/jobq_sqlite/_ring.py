"""Telling the processes that wait for work that there is some, by a file that all have open.

To ring is to open and close the file, which they watch. In the middle of an enqueue that costs a tenth of it, so those
who listen hold a lock on the file, and nobody rings while there is none.
"""

import os
import struct
import sys
from contextlib import suppress
from typing import Final

from jobq_sqlite._inotify import CLOSED, watch

__all__ = ["Ear", "ring"]


class Ear:
    """Hears who rings with the file `path`, while it listens. Raises `OSError` if there is no such file."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.heard = watch(path, CLOSED)
        """Becomes readable when somebody rings; None where that cannot be noticed."""
        self._listening = False

    def listen(self, *, on: bool) -> None:
        """Begin, or cease. Who begins has to look for work after that: nobody may have rung before."""
        if on is not self._listening:
            _lock(self._fd, on=on)
            self._listening = on

    def close(self) -> None:
        """Cease for good."""
        os.close(self._fd)
        if self.heard is not None:
            self.heard.close()


def ring(path: str, fd: int) -> None:
    """Tell who listens; `fd` is a descriptor of `path`. It costs microseconds, and leaves the file alone."""
    with suppress(OSError):
        if _is_locked(fd):
            os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC))


if sys.platform == "linux":
    import fcntl

    # Not the locks of a process, which lose their hold when it closes any descriptor of the file.
    _FLOCK: Final = struct.Struct("hhqqi0q")
    _READ, _WRITE, _NONE = (
        _FLOCK.pack(kind, os.SEEK_SET, 0, 1, 0) for kind in (fcntl.F_RDLCK, fcntl.F_WRLCK, fcntl.F_UNLCK)
    )

    def _lock(fd: int, *, on: bool) -> None:
        with suppress(OSError):  # a file system without such locks: there, everybody rings always
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _READ if on else _NONE)

    def _is_locked(fd: int) -> bool:
        try:
            obstacle = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _WRITE)
        except OSError:
            return True
        kind, *_ = _FLOCK.unpack(obstacle)
        return bool(kind != fcntl.F_UNLCK)

else:  # files cannot be watched, so nobody rings

    def _lock(_: int, *, on: bool) -> None: ...

    def _is_locked(_: int) -> bool:
        return False
