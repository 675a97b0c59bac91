"""Upkeep that every worker does: due jobs, lost leases, and neighbours that are provably dead."""

import asyncio
import logging
import random
from collections.abc import Callable
from typing import Final

from jobq.broker import Broker
from jobq.clock import Clock
from jobq.model import WorkerInfo
from jobq.worker.doorbell import Doorbell
from jobq.worker.identity import dead_peers

__all__ = ["Sweeper"]

LIMIT: Final = 1000
_LOOK: Final = 1.0
"""Seconds between looks at the neighbours' processes; they cost no round trip."""

log = logging.getLogger("jobq.worker")


class Sweeper:
    """Sweeps every `interval` seconds, give or take a quarter to spread a fleet out, and when neighbours come or die.

    It begins when `registered` is set: those at whom it rings look for this worker among those that have a lease.
    """

    def __init__(
        self,
        broker: Broker,
        worker: WorkerInfo,
        clock: Clock,
        bell: Doorbell,
        *,
        interval: float,
        look: Callable[[], None],
    ) -> None:
        self._broker = broker
        self._worker = worker.id
        self._host = worker.host
        self._interval = interval
        self._clock = clock
        self._look = look
        self._bell = bell
        self._introduced = False
        self._peers: tuple[str, ...] = ()
        self.registered = asyncio.Event()
        self.calling = asyncio.Lock()
        """Held while a sweep is under way. Who has it may cancel `step`, and cuts nothing."""

    async def step(self) -> None:
        """Sweep, then watch the neighbours until it is time to sweep again."""
        await self.registered.wait()
        await self.sweep()
        if not self._introduced:
            self._bell.ring(self._peers)  # those that come later, and only those, will ring here
            self._introduced = True
        until = self._clock.monotonic() + self._interval * random.uniform(0.75, 1.25)
        while (left := until - self._clock.monotonic()) > 0:
            await self._clock.sleep(min(_LOOK, left))
            if self._bell.heard():
                return
            if dead := dead_peers(self._host, self._peers):
                await self.sweep(dead)

    async def sweep(self, dead: list[str] | None = None) -> None:
        """Sweep until nothing is left to do."""
        while True:
            async with self.calling:
                swept = await self._broker.sweep(self._host, LIMIT, dead or ())
            self._peers = tuple(peer for peer in swept.peers if peer != self._worker)
            if swept.reclaimed:
                log.warning("took back %d jobs of workers that died or lost their lease", swept.reclaimed)
            if swept.promoted or swept.reclaimed:
                self._look()
            newly_dead = dead_peers(self._host, self._peers)
            if not swept.more and newly_dead in ([], dead):
                return
            dead = newly_dead
