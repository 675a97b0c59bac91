"""Timeouts: one loop over what runs, instead of a timer for each job."""

import asyncio
import logging

from jobq.clock import Clock
from jobq.worker.held import Cause, Held

__all__ = ["Deadlines"]

log = logging.getLogger("jobq.worker")


class Deadlines:
    """Cancels bodies whose time is up."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._running: set[Held] = set()
        self._sooner = asyncio.Event()
        self._next = float("inf")

    def add(self, held: Held) -> None:
        """Watch a body that has just started."""
        assert held.timeout is not None
        held.deadline = self._clock.monotonic() + held.timeout
        self._running.add(held)
        if held.deadline < self._next:
            self._sooner.set()

    def discard(self, held: Held) -> None:
        """It ended."""
        self._running.discard(held)

    async def step(self) -> None:
        """Sleep until the next deadline, and cancel what is over its own."""
        self._sooner.clear()
        now = self._clock.monotonic()
        self._next = min((held.deadline for held in self._running if held.deadline is not None), default=float("inf"))
        pause = None if self._next == float("inf") else self._next - now
        if not await self._clock.wait(self._sooner, pause):
            self._expire(self._clock.monotonic())

    def _expire(self, now: float) -> None:
        for held in [held for held in self._running if held.deadline is not None and held.deadline <= now]:
            self._running.discard(held)
            log.warning("%r is over its timeout of %g s", held, held.timeout)
            held.cancel(Cause.TIMEOUT)
