"""Ctrl-C in a program of jobq: until there is something to stop, and when all is done, it ends the process at once.

Python would show a traceback, or several: an event loop that is half made complains, too. Importing takes a good part
of a second, and whoever has mistyped does not wait; so this module comes before all others. It acts when it is
imported, and only in a process that was started as `python -m jobq…` or as the `jobq` command.
"""

import os
import signal
import sys
from types import FrameType, TracebackType
from typing import Final

__all__ = ["INTERRUPTED", "Interruptible", "end_at_once"]

INTERRUPTED: Final = 130
"""The exit code."""


class Interruptible:
    """A block of somebody else's code, in which Ctrl-C raises `KeyboardInterrupt`, so that it can clean up."""

    def __enter__(self) -> None:
        if signal.getsignal(signal.SIGINT) is _leave:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        end_at_once()


def end_at_once() -> None:
    """From now on Ctrl-C ends the process, if it is a program of ours and has no other idea; in no other process."""
    if _OURS and signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a child's is ignored
        signal.signal(signal.SIGINT, _leave)


def _leave(number: int, frame: FrameType | None) -> None:
    del number, frame
    os._exit(INTERRUPTED)


def _is_ours() -> bool:
    """Whether this process was started as a program of jobq, and is not one that uses it."""
    program, *_ = [*sys.argv, ""]
    if program == "-m":  # what it is while the packages above the module are imported
        module = sys.orig_argv[sys.orig_argv.index("-m") + 1] if "-m" in sys.orig_argv[:-1] else ""
        return module.partition(".")[0] == "jobq"
    folder, name = os.path.split(os.path.realpath(program))
    beside = os.path.dirname(sys.executable)  # noqa: PTH120 - importing pathlib takes too long
    return name in {"jobq", "jobq.exe"} and folder == os.path.realpath(beside)


_OURS: Final = _is_ours()
end_at_once()
