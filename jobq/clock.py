"""All time in the framework comes from one clock object, so that tests can replace it and a frozen one cannot hang."""

import asyncio
import time
from typing import Protocol

__all__ = ["SYSTEM_CLOCK", "Clock", "SystemClock"]

_BOOTTIME = getattr(time, "CLOCK_BOOTTIME", None)


class Clock(Protocol):
    """Tells the time and waits for it."""

    def time(self) -> float:
        """Seconds since the epoch; may step."""
        ...

    def monotonic(self) -> float:
        """Seconds that never step back, and that go on while the machine is suspended where the system can tell."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds`."""
        ...

    async def wait(self, event: asyncio.Event, seconds: float | None) -> bool:
        """Return True as soon as `event` is set, or False after `seconds` (None: never)."""
        ...


class SystemClock:
    """The machine's clock."""

    def time(self) -> float:
        """See `Clock.time`."""
        return time.time()

    def monotonic(self) -> float:
        """See `Clock.monotonic`. CLOCK_BOOTTIME counts suspends, so that a lease cannot outlive a sleeping laptop."""
        return time.monotonic() if _BOOTTIME is None else time.clock_gettime(_BOOTTIME)

    async def sleep(self, seconds: float) -> None:
        """See `Clock.sleep`."""
        await asyncio.sleep(seconds)

    async def wait(self, event: asyncio.Event, seconds: float | None) -> bool:
        """See `Clock.wait`."""
        if event.is_set():
            return True
        if seconds is not None and seconds <= 0:
            await asyncio.sleep(0)
            return event.is_set()
        try:
            async with asyncio.timeout(seconds):
                await event.wait()
        except TimeoutError:
            return event.is_set()
        return True


SYSTEM_CLOCK = SystemClock()
