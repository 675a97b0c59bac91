"""Calls on their way from the event loop to a thread."""

import threading
from queue import Empty, SimpleQueue
from typing import Final, Generic, TypeVar

__all__ = ["Calls", "Empty"]

T = TypeVar("T")

_HANDOVER: Final = 0.0005


class Calls(Generic[T]):
    """A queue whose reader can be made to begin at once.

    A thread that is woken while the event loop is busy gets Python's lock when the loop goes to sleep, or 5 ms later:
    the two would work one after the other. So after a heavy call the loop lets go of the lock until the thread has
    taken the call. That takes some 50 µs, and then they work side by side, for SQLite needs no lock of Python's.
    """

    def __init__(self) -> None:
        self._calls = SimpleQueue[T]()
        self._waiting = False
        self._taken = threading.Lock()
        self._taken.acquire()

    def put(self, call: T, *, heavy: bool = False) -> None:
        """Have the thread take `call`."""
        self._calls.put(call)
        if heavy and self._waiting:
            self._waiting = False
            self._taken.acquire(timeout=_HANDOVER)

    def get(self, timeout: float | None) -> T:
        """The next call. Raises `Empty` after `timeout` seconds."""
        self._waiting = True
        try:
            return self._calls.get(timeout=timeout)
        finally:
            if not self._waiting and self._taken.locked():
                self._taken.release()
            self._waiting = False

    def get_now(self) -> T:
        """The next call if there is one. Raises `Empty`."""
        return self._calls.get_nowait()
