"""Ringing for sleepers after something was committed that they wait for.

It is a call of its own: a notification in the same transaction would let only one such transaction at a time wait for
the disk. Whoever has to be rung for soon after the last ring shares the next one. Where nobody sleeps nobody is
notified, and it takes a while until the next ring asks: who has just gone to sleep has looked before.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from jobq.clock import SYSTEM_CLOCK
from jobq.errors import BrokerError

_PAUSE: Final = 0.005
_NOBODY: Final = 0.025
"""Seconds between rings that nobody needs."""
_GOODBYE: Final = 0.5
EVERYBODY: Final = ""
"""Instead of a queue."""


class Bell:
    """`ring` rings for those who wait for these queues, and says whether anybody sleeps."""

    def __init__(self, ring: Callable[[list[str]], Awaitable[bool]]) -> None:
        self._ring = ring
        self._queues = dict[str, None]()
        self._next = float("-inf")
        self._ringing: asyncio.Task[None] | None = None

    def ring(self, queues: Iterable[str] = (EVERYBODY,)) -> None:
        """Ring soon. Does not wait."""
        self._queues.update(dict.fromkeys(queues))
        if self._queues and (self._ringing is None or self._ringing.done()):
            self._ringing = asyncio.create_task(self._ring_all(), name="jobq postgres bell")

    async def close(self) -> None:
        """Ring for all who are owed it, unless that takes too long: who sleeps looks by himself before long."""
        if self._ringing is not None:
            await asyncio.wait([self._ringing], timeout=_GOODBYE)
            self._ringing.cancel()
            await asyncio.gather(self._ringing, return_exceptions=True)

    async def _ring_all(self) -> None:
        while self._queues:
            if (pause := self._next - SYSTEM_CLOCK.monotonic()) > 0:
                await asyncio.sleep(pause)
            queues, self._queues = list(self._queues), {}
            began = SYSTEM_CLOCK.monotonic()
            try:
                heard = await self._ring(queues)
            except BrokerError:  # who sleeps looks by himself before long
                return
            self._next = began + (_PAUSE if heard else _NOBODY)
