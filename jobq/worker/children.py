"""Child processes of a supervising parent: started deaf to Ctrl-C, told to stop, and never left behind."""

import asyncio
import logging
import os
import signal
from asyncio.subprocess import Process
from collections.abc import Mapping, Sequence
from typing import Final

from jobq._interrupt import INTERRUPTED
from jobq.worker.control import Echo

__all__ = ["Children", "start"]

_MARGIN: Final = 2.0
"""Seconds after the grace in which a child ends by itself."""
_THIRD: Final = 3

log = logging.getLogger("jobq.worker")


async def start(command: Sequence[str], env: Mapping[str, str], stderr: int | None = None) -> Process:
    """Start a child that is deaf to SIGINT from its first moment: a Ctrl-C goes to the whole terminal. One at a time.

    `orphans.follow_parent` is the child's part in it.
    """
    # it inherits what is blocked; ignoring would do for the child, but lose what comes for us in the meantime
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return await asyncio.create_subprocess_exec(*command, env=env, stderr=stderr)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Children:
    """The children of this process; signals are passed on: the first, the second in a hurry, the third ends it all."""

    def __init__(self, grace: float) -> None:
        self._grace = grace
        self._alive: set[Process] = set()
        self._signals = 0
        self._is_echo = Echo()
        self._one_at_a_time = asyncio.Lock()
        self.stopping = asyncio.Event()

    def listen(self, *, interrupt: bool) -> None:
        """Begin to listen to signals; to SIGINT only if `interrupt`, else a parent forwards it."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stop, signal.SIGTERM)
        if interrupt:
            loop.add_signal_handler(signal.SIGINT, self._stop, signal.SIGINT)
        loop.add_signal_handler(signal.SIGUSR1, self._send, signal.SIGUSR1)

    async def start(self, command: Sequence[str], env: Mapping[str, str]) -> Process:
        """Start one more."""
        async with self._one_at_a_time:
            child = await start(command, env)
        self._alive.add(child)
        if self.stopping.is_set():
            child.terminate()
        return child

    async def wait(self, child: Process) -> int:
        """Wait for its end; the exit code, negative for a signal."""
        code = await child.wait()
        self._alive.discard(child)
        return code

    async def stop(self, child: Process, grace: float) -> None:
        """Make it end: gracefully, after `grace` seconds in a hurry, and then at once."""
        for number, seconds in ((signal.SIGTERM, grace), (signal.SIGTERM, _MARGIN), (signal.SIGKILL, None)):
            if child.returncode is None:
                child.send_signal(number)
            ended = asyncio.ensure_future(self.wait(child))
            if (await asyncio.wait([ended], timeout=seconds))[0]:
                return
            ended.cancel()

    def _stop(self, number: signal.Signals) -> None:
        if self._is_echo():
            return
        self._signals += 1
        self.stopping.set()
        if self._signals >= _THIRD:
            self._send(signal.SIGKILL)
            os._exit(INTERRUPTED)
        log.info("%s: stopping %d worker processes", number.name, len(self._alive))
        self._send(signal.SIGTERM)
        grace = self._grace if self._signals == 1 else 0.0
        asyncio.get_running_loop().call_later(grace + _MARGIN, self._send, signal.SIGKILL)

    def _send(self, number: signal.Signals) -> None:
        for child in self._alive:
            if child.returncode is None:
                child.send_signal(number)
