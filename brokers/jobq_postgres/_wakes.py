"""Sleeping until there may be work: notifications are heard, and what none comes for is looked for.

Who goes to sleep makes it known first and looks for work then; who has committed work rings if somebody sleeps: so
work is either seen or rung for. Without notifications (a pooler, `notify=no`, a lost connection) sleepers look about
once in a second.
"""

import asyncio
import math
import random
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

from jobq.clock import Clock
from jobq_postgres._bell import EVERYBODY
from jobq_postgres._ears import Ears
from jobq_postgres._lines import Lines

_POLL: Final = 1.0
_JITTER: Final = 0.5
_SAME: Final = 0.002
"""Seconds by which a due time that was asked for twice may differ."""
_DOZE: Final = 0.05
"""Seconds for which who was woken is still rung for: he may be about to sleep again, and to say so takes a call."""

Look = Callable[[Sequence[str]], Coroutine[Any, Any, float | None]]


class _Sleeper:
    """Who waits for some queues."""

    def __init__(self, queues: Sequence[str]) -> None:
        self.queues = frozenset(queues)
        self.event = asyncio.Event()
        """It is to look again, or is done."""
        self.rung = False
        """There may be work."""


class Wakes:
    """`look` says in how many seconds there is work in some queues; with `hears` false, nobody is ever rung for."""

    def __init__(self, clock: Clock, lines: Lines, schema: str, look: Look, *, hears: bool) -> None:
        self._clock = clock
        self._look = look
        self._ears = Ears(lines, schema, self._ring, self._look_again) if hears else None
        self._sleepers = set[_Sleeper]()
        self._tasks = set[asyncio.Task[Any]]()
        self._doze: asyncio.TimerHandle | None = None

    async def wait(self, queues: Sequence[str], timeout: float) -> None:  # noqa: ASYNC109 - the protocol's word
        sleeper = _Sleeper(queues)
        if not queues or timeout <= 0:
            await self._clock.wait(sleeper.event, timeout)
            return
        self._sleepers.add(sleeper)
        try:
            await self._sleep(sleeper, queues, self._clock.monotonic() + timeout)
        finally:
            self._sleepers.discard(sleeper)
            if not self._sleepers:
                self._doze_off()

    async def close(self) -> None:
        """Hear nothing more, and have nobody wait."""
        if self._doze is not None:
            self._doze.cancel()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._ears is not None:
            await self._ears.close()
        self._ring(EVERYBODY)

    async def _sleep(self, sleeper: _Sleeper, queues: Sequence[str], end: float) -> None:
        known: float | None = None
        while not sleeper.rung:
            sleeper.event.clear()
            heard, due = await self._settle_down(queues)
            now = self._clock.monotonic()
            left, first = end - now, math.inf if due is None else now + due
            if first <= now or left <= 0 or (known is not None and first < known - _SAME):
                return  # also if another job is the first one due now: who asked has to hear of that, too
            known = first
            pause = left if due is None else min(left, due)
            if not heard:
                pause = min(pause, _POLL * random.uniform(1 - _JITTER, 1 + _JITTER))
            await self._clock.wait(sleeper.event, pause)

    async def _settle_down(self, queues: Sequence[str]) -> tuple[bool, float | None]:
        """Whether there will be a ring, and in how many seconds there is work.

        To be cancelled would cost a connection: so who waits is, and this is not.
        """
        task = self._start(self._say_and_look(queues))
        await asyncio.wait([task])
        return (False, 0.0) if task.cancelled() else task.result()

    async def _say_and_look(self, queues: Sequence[str]) -> tuple[bool, float | None]:
        if self._ears is None:
            return False, await self._look(queues)
        self._ears.open()
        heard = await self._ears.sleep()
        return heard, await self._look(queues)

    def _doze_off(self) -> None:
        """Nobody sleeps: have nobody ring, unless somebody sleeps again soon."""
        if self._ears is not None and self._doze is None:
            self._doze = asyncio.get_running_loop().call_later(_DOZE, self._wide_awake, self._ears)

    def _wide_awake(self, ears: Ears) -> None:
        self._doze = None
        if not self._sleepers:
            self._start(ears.awake())

    def _start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waited for it may have been cancelled

    def _look_again(self) -> None:
        """For what was not rung for; and as long as nothing is heard, now and then."""
        for sleeper in self._sleepers:
            sleeper.event.set()

    def _ring(self, queue: str) -> None:
        for sleeper in self._sleepers:
            if queue == EVERYBODY or queue in sleeper.queues:
                sleeper.rung = True
                sleeper.event.set()
