"""Signals, obeyed in a thread of their own, so that a job that blocks the event loop cannot keep the process alive."""

import asyncio
import logging
import os
import queue
import signal
import sys
import threading
import time
import traceback
from functools import partial
from types import FrameType
from typing import Any, Final

from jobq._interrupt import INTERRUPTED
from jobq.worker.worker import Worker

__all__ = ["Control", "Echo", "leave"]

_MARGIN: Final = 1.9
"""Seconds after the grace in which the worker ends by itself; then this thread ends the process."""
_THIRD: Final = 3
_FRAMES: Final = 8
_ECHO: Final = 0.25
"""Seconds within which a second signal means the same as the first."""

log = logging.getLogger("jobq.worker")


def leave(code: int) -> None:
    """End the process now, whatever its threads do."""
    logging.shutdown()
    sys.stdout.flush()
    os._exit(code)


class Echo:
    """Says whether a signal was just here: timeout(1), systemd and parents may each send their own."""

    def __init__(self) -> None:
        self._last = float("-inf")

    def __call__(self) -> bool:
        """Called when a signal comes."""
        before, self._last = self._last, time.monotonic()
        return self._last - before < _ECHO


class Control(threading.Thread):
    """Stops `worker` at the first signal, in a hurry at the second, and the process at the third; with it `beside`.

    Should the worker not have ended `grace` + 2 seconds after the first one, this thread ends the process.
    """

    def __init__(self, worker: Worker, loop: asyncio.AbstractEventLoop, beside: Worker | None = None) -> None:
        super().__init__(name="jobq control", daemon=True)
        self._worker = worker
        self._workers = [worker] if beside is None else [worker, beside]
        self._loop = loop
        # the one queue whose put may interrupt itself, as signal handlers do
        self._signals: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._stops = 0
        self._is_echo = Echo()
        self._deadline: float | None = None
        self.requested = False
        """Whether a signal has asked for the end."""
        self.exit_code = 1
        """With what to end the process if it is overdue."""

    def install(self, *, interrupt: bool) -> None:
        """Begin to listen; to SIGINT only if `interrupt`, else a parent forwards it."""
        stops = [signal.SIGTERM, signal.SIGINT] if interrupt else [signal.SIGTERM]
        for number in (*stops, signal.SIGUSR1):
            signal.signal(number, self._received)
        self.start()

    def _received(self, number: int, frame: FrameType | None) -> None:
        del frame
        if number != signal.SIGUSR1:
            if self._is_echo():
                return
            self.requested = True
            self._stops += 1
            if self._stops >= _THIRD:
                os._exit(INTERRUPTED)
        self._signals.put(number)

    def run(self) -> None:
        """Obey, until the process ends."""
        stops = 0
        while True:
            try:
                number = self._signals.get(timeout=self._left())
            except queue.Empty:
                break
            if number == signal.SIGUSR1:
                dump(self._worker)
            else:
                stops += 1
                self._stop(signal.Signals(number).name, first=stops == 1)
        log.error("the worker did not end in time; this process ends now, and others take over what it held")
        dump(self._worker)
        leave(self.exit_code)

    def _left(self) -> float | None:
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def _stop(self, name: str, *, first: bool) -> None:
        grace = self._worker.options.grace if first else 0.0
        deadline = time.monotonic() + grace + _MARGIN
        self._deadline = deadline if self._deadline is None else min(deadline, self._deadline)
        if first:
            log.info("%s: stopping; running jobs have %g s. Once more to stop them now", name, grace)
        else:
            log.warning("%s again: stopping the running jobs now. Once more to leave at once", name)
        try:
            for worker in self._workers:
                self._loop.call_soon_threadsafe(partial(worker.stop, grace=grace))
        except RuntimeError:
            log.debug("the event loop is closed already")


def dump(worker: Worker) -> None:
    """Log what runs, and where every task and thread of it is. From any thread."""
    held = worker.held
    lines = [f"worker {worker.id} holds {len(held)} jobs"]
    lines += [f"{job!r}, {'running' if job.running else 'waiting'}{_where(job.body)}" for job in held]
    # the documented way to see other threads
    frames = sys._current_frames()  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    for ident, frame in frames.items():
        stack = "".join(traceback.format_stack(frame)[-_FRAMES:]).rstrip()
        lines.append(f"thread {names.get(ident, ident)}:\n{stack}")
    log.warning("\n".join(lines))


def _where(body: "asyncio.Task[None] | None") -> str:
    if body is None or body.done():
        return ""
    stack: list[str] = []
    coroutine: Any = body.get_coro()
    while (frame := getattr(coroutine, "cr_frame", None)) is not None:
        stack.append(f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_name}")
        coroutine = coroutine.cr_await
    return "".join(f"\n  {place}" for place in stack)
