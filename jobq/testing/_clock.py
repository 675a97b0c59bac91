"""A clock that moves only when it is told to."""

import asyncio
import heapq
import threading
from typing import Final

from jobq.clock import SYSTEM_CLOCK

__all__ = ["FrozenHere", "ManualClock"]

START: Final = 1_800_000_000.0
"""A time of day as large as real ones are, so that rounding errors show."""
_SETTLING_ROUNDS: Final = 20


class _Timer:
    """A `Clock.wait` that has an end: ends its `asyncio.timeout` on the loop that it waits on."""

    def __init__(self, at: float, number: int, scope: asyncio.Timeout) -> None:
        self.at = at
        self._number = number
        self._loop = asyncio.get_running_loop()
        self._scope: asyncio.Timeout | None = scope

    def __lt__(self, other: "_Timer") -> bool:
        return (self.at, self._number) < (other.at, other._number)

    @property
    def waiting(self) -> bool:
        return self._scope is not None

    def stop(self) -> None:
        self._scope = None

    def ring(self) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._end)

    def _end(self) -> None:
        if self._scope is not None:
            self._scope.reschedule(self._loop.time())
            self._scope = None


class ManualClock:
    """A `jobq.clock.Clock` for tests: time stands still until `advance`, `run` or `step` moves it.

    May be used from several threads and event loops at once.
    """

    def __init__(self, start: float = START) -> None:
        self._lock = threading.Lock()
        self._time = start
        self._monotonic = 0.0
        self._timers: list[_Timer] = []
        self._count = 0

    def time(self) -> float:
        """See `Clock.time`."""
        with self._lock:
            return self._time

    def monotonic(self) -> float:
        """See `Clock.monotonic`."""
        with self._lock:
            return self._monotonic

    async def sleep(self, seconds: float) -> None:
        """See `Clock.sleep`."""
        await self.wait(asyncio.Event(), seconds)

    async def wait(self, event: asyncio.Event, seconds: float | None) -> bool:
        """See `Clock.wait`."""
        if event.is_set():
            return True
        if seconds is not None and seconds <= 0:
            await asyncio.sleep(0)
            return event.is_set()
        timer = None
        try:
            async with asyncio.timeout(None) as scope:
                if seconds is not None:
                    timer = self._start(seconds, scope)
                await event.wait()
        except TimeoutError:
            return event.is_set()
        finally:
            if timer is not None:
                timer.stop()
        return True

    @property
    def sleeping(self) -> int:
        """How many tasks wait for this clock to move."""
        with self._lock:
            return sum(timer.waiting for timer in self._timers)

    def advance(self, seconds: float) -> None:
        """Move both times on, and wake everybody whose time has come, in that order.

        The sleepers run when their loops get to it; they all see the new time.
        """
        with self._lock:
            self._move(seconds)
            rung = self._pop_rung()
        for timer in rung:
            timer.ring()

    async def run(self, seconds: float) -> None:
        """Move both times on, stopping at each sleeper's time and letting the tasks of this loop run there.

        So whoever sleeps again and again wakes as often as in real life.
        """
        await self._settle()
        end = self.monotonic() + seconds
        while (at := self._next_ring()) is not None and at <= end:
            self.advance(max(0.0, at - self.monotonic()))
            await self._settle()
        self.advance(max(0.0, end - self.monotonic()))
        await self._settle()

    def step(self, seconds: float) -> None:
        """Set the time of day on or back, as an administrator or NTP does; nobody's sleep gets shorter or longer."""
        with self._lock:
            self._time += seconds

    def _start(self, seconds: float, scope: asyncio.Timeout) -> _Timer:
        with self._lock:
            self._count += 1
            timer = _Timer(self._monotonic + seconds, self._count, scope)
            heapq.heappush(self._timers, timer)
        return timer

    def _move(self, seconds: float) -> None:
        if seconds < 0:
            raise ValueError(f"a clock advances; to set it back by {-seconds} s use step()")
        self._time += seconds
        self._monotonic += seconds

    def _pop_rung(self) -> list[_Timer]:
        rung: list[_Timer] = []
        while self._timers and (self._timers[0].at <= self._monotonic or not self._timers[0].waiting):
            rung.append(heapq.heappop(self._timers))
        return rung

    def _next_ring(self) -> float | None:
        with self._lock:
            return min((timer.at for timer in self._timers if timer.waiting), default=None)

    @staticmethod
    async def _settle() -> None:
        for _ in range(_SETTLING_ROUNDS):
            await asyncio.sleep(0)


class FrozenHere(ManualClock):
    """Stands still on the loop that it was made on. The lease thread waits in real time: its lease lasts for ages."""

    def __init__(self) -> None:
        super().__init__()
        self._home = asyncio.get_running_loop()

    async def wait(self, event: asyncio.Event, seconds: float | None) -> bool:
        if asyncio.get_running_loop() is self._home:
            return await super().wait(event, seconds)
        return await SYSTEM_CLOCK.wait(event, seconds)
