"""Child processes that end with their parent, and are deaf to Ctrl-C: the parent decides."""

import ctypes
import os
import signal
import sys
import threading
import time
from typing import Final

from jobq.worker.settings import PARENT

__all__ = ["follow_parent", "is_child"]

_PR_SET_PDEATHSIG: Final = 1
_LOOK: Final = 1.0


def is_child() -> bool:
    """Whether a parent of ours supervises this process."""
    return PARENT in os.environ


def follow_parent() -> None:
    """In a supervised child: ignore SIGINT, and be sent SIGTERM when the parent dies, however it dies."""
    if not is_child():
        return
    parent = int(os.environ[PARENT])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if not _ask_kernel():
        threading.Thread(target=_watch, args=(parent,), name="jobq parent watch", daemon=True).start()
    if os.getppid() != parent:  # it died before we asked
        os.kill(os.getpid(), signal.SIGTERM)


def _ask_kernel() -> bool:
    if not sys.platform.startswith("linux"):
        return False
    refused: int = ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    return refused == 0


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK)
    os.kill(os.getpid(), signal.SIGTERM)
