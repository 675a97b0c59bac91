"""Notices a blocked event loop, and names the job that blocks it."""

import asyncio
import logging
import sys
import threading
import traceback
from collections.abc import Callable

__all__ = ["Watchdog"]

log = logging.getLogger("jobq.worker")


class Watchdog:
    """Watches the loop it was made on; `check` is called now and then from another thread."""

    def __init__(
        self, max_lag: float, monotonic: Callable[[], float], name_of: Callable[["asyncio.Task[object]"], str]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._max_lag = max_lag
        self._monotonic = monotonic
        self._name_of = name_of
        self._asked: float | None = None
        self._told = False

    def check(self) -> None:
        """Ask the loop for a sign of life, and say so if the last question has waited too long."""
        now = self._monotonic()
        if self._asked is None:
            self._asked = now
            self._loop.call_soon_threadsafe(self._answer)
        elif not self._told and now - self._asked > self._max_lag:
            self._told = True
            log.warning(
                "%s has blocked the event loop for %.1f s; leases are safe, but nothing else runs. "
                "Await what it waits for, or make the task a plain def (it will run in a thread). It is here:\n%s",
                self._culprit(),
                now - self._asked,
                self._stack(),
            )

    def _answer(self) -> None:
        asked, self._asked = self._asked, None
        if self._told and asked is not None:
            self._told = False
            log.warning("the event loop runs again after %.1f s", self._monotonic() - asked)

    def _culprit(self) -> str:
        task = asyncio.current_task(self._loop)
        return "something" if task is None else self._name_of(task)

    def _stack(self) -> str:
        frame = sys._current_frames().get(self._thread)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] - documented
        return "".join(traceback.format_stack(frame)[-6:]) if frame is not None else "  (no stack)\n"
