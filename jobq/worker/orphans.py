"""Child processes that end with their parent, and are deaf to Ctrl-C: the parent decides."""

import ctypes
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass
from typing import Final

from jobq.worker.settings import PARENT, SEAT

__all__ = ["Origin", "follow_parent"]

_PR_SET_PDEATHSIG: Final = 1
_LOOK: Final = 1.0


@dataclass(frozen=True, slots=True)
class Origin:
    """Who started this process: `supervised` by a parent of ours, and for `seat`, its place among the workers."""

    supervised: bool = False
    seat: str | None = None


def follow_parent() -> Origin:
    """In a supervised child: ignore SIGINT, and be sent SIGTERM when the parent dies, however it dies."""
    # taken out of the environment: programs that jobs start are not our parent's children
    parent, seat = int(os.environ.pop(PARENT, "0")), os.environ.pop(SEAT, None)
    if not parent:
        return Origin()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # `children.start` has blocked it until now
    if not _ask_kernel():
        threading.Thread(target=_watch, args=(parent,), name="jobq parent watch", daemon=True).start()
    if os.getppid() != parent:  # it died before we asked
        os.kill(os.getpid(), signal.SIGTERM)
    return Origin(supervised=True, seat=seat)


def _ask_kernel() -> bool:
    if not sys.platform.startswith("linux"):
        return False
    refused: int = ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    return refused == 0


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK)
    os.kill(os.getpid(), signal.SIGTERM)
