"""How a worker's jobs come to an end: in at most grace + 2 seconds, whatever bodies and broker do."""

import asyncio
import logging
from typing import Final

from jobq.clock import Clock
from jobq.model import Released
from jobq.worker.held import Cause, Held
from jobq.worker.slots import Slots
from jobq.worker.turn import Turner

__all__ = ["LAST_TURN", "Shutdown"]

LAST_TURN: Final = 0.5
_YIELD_TIME: Final = 1.0
"""Seconds that cancelled bodies have to end after the grace."""
_WEDGED_DELAY: Final = 2.0
"""Seconds for which a job whose body will not stop is kept back: by then this process is to be gone."""

log = logging.getLogger("jobq.worker")


class Shutdown:
    """Ends what is held: first what has not started, then what ends within the grace, then the rest."""

    def __init__(self, slots: Slots, turner: Turner, clock: Clock, grace: float) -> None:
        self._slots = slots
        self._turner = turner
        self._clock = clock
        self._grace = grace
        self._hurry = asyncio.Event()

    def hurry(self, grace: float) -> None:
        """Make the grace `grace` seconds from the start, if that is shorter."""
        self._grace = min(self._grace, grace)
        self._hurry.set()

    async def run(self) -> tuple[Held, ...]:
        """Return when nothing is held, or nothing more can be done; what is returned would not stop."""
        self._turner.claiming = False
        for held in reversed(list(self._slots.held.values())):  # each goes to the front, so the oldest last
            if held.body is None:
                self._slots.give_up(held, Cause.SHUTDOWN)
        await self._until_empty_or_grace()
        wedged = await self._cancel_bodies()
        await self._last_turns()
        return wedged

    @property
    def _empty(self) -> bool:
        """Whether neither this worker nor, in its name, the broker holds any job."""
        return self._slots.empty and self._turner.quiet

    async def _until_empty_or_grace(self) -> None:
        started = self._clock.monotonic()
        while not self._empty:
            self._hurry.clear()
            left = started + self._grace - self._clock.monotonic()
            if left <= 0:
                return
            self._turner.stored.clear()
            await self._either(self._turner.stored, self._hurry, left)

    async def _either(self, one: asyncio.Event, other: asyncio.Event, seconds: float) -> None:
        waits = [asyncio.create_task(self._clock.wait(event, seconds)) for event in (one, other)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def _cancel_bodies(self) -> tuple[Held, ...]:
        """Cancel what still runs; what does not end within a second is given back with a delay."""
        running = [held for held in self._slots.held.values() if held.running]
        for held in running:
            held.cancel(Cause.SHUTDOWN)
        until = self._clock.monotonic() + _YIELD_TIME
        while any(not held.settled for held in running) and (left := until - self._clock.monotonic()) > 0:
            bodies = [held.body for held in running if held.body is not None and not held.settled]
            await asyncio.wait(bodies, timeout=min(left, 0.1))
        wedged = tuple(held for held in running if not held.settled)
        for held in wedged:
            log.error("%r does not stop; it is given back, and this process should end", held)
            self._slots.settle(held, Released(held.delivery.job.id, held.epoch, _WEDGED_DELAY))
        return wedged

    async def _last_turns(self) -> None:
        """Store the last outcomes, if the broker is there; else their leases end by themselves."""
        until = self._clock.monotonic() + LAST_TURN
        while not self._empty and (left := until - self._clock.monotonic()) > 0:
            self._turner.stored.clear()
            await self._clock.wait(self._turner.stored, left)
        if not self._slots.empty:
            count = len(self._slots.held)
            log.error("the broker is away: %d jobs could not be given back and wait for their lease", count)
