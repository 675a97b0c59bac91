"""Ringing for sleepers after something was committed that they wait for.

It is a call of its own: a notification in the same transaction would let only one such transaction at a time wait for
the disk. Whoever has to be rung for within 5 ms of the last ring shares the next one; and where nobody sleeps, nobody
is notified.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from jobq.clock import SYSTEM_CLOCK
from jobq.errors import BrokerError

_PAUSE: Final = 0.005
EVERYBODY: Final = ""
"""Instead of a queue."""


class Bell:
    """`ring` rings for those who wait for these queues."""

    def __init__(self, ring: Callable[[list[str]], Awaitable[object]]) -> None:
        self._ring = ring
        self._queues = dict[str, None]()
        self._rung = float("-inf")
        self._ringing: asyncio.Task[None] | None = None

    def ring(self, queues: Iterable[str] = (EVERYBODY,)) -> None:
        """Ring soon. Does not wait."""
        self._queues.update(dict.fromkeys(queues))
        if self._queues and (self._ringing is None or self._ringing.done()):
            self._ringing = asyncio.create_task(self._ring_all(), name="jobq postgres bell")

    async def close(self) -> None:
        """Return when all have been rung for."""
        if self._ringing is not None:
            await asyncio.wait([self._ringing])

    async def _ring_all(self) -> None:
        while self._queues:
            if (pause := self._rung + _PAUSE - SYSTEM_CLOCK.monotonic()) > 0:
                await asyncio.sleep(pause)
            self._rung = SYSTEM_CLOCK.monotonic()
            queues, self._queues = list(self._queues), {}
            try:
                await self._ring(queues)
            except BrokerError:  # who sleeps looks by himself before long
                return
