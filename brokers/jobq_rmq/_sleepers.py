"""Who waits for something to happen here."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from threading import Lock, get_ident


class Sleepers:
    """Each sleeps on the event loop that it is on; any thread may wake them."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._asleep: dict[asyncio.Future[None], int] = {}
        """With the threads of their loops."""

    def wake(self) -> None:
        """Have everybody who sleeps look again."""
        with self._lock:
            asleep, self._asleep = self._asleep, {}
        for sleeper, thread in asleep.items():
            if thread == get_ident():
                _end(sleeper)
            else:
                with suppress(RuntimeError):  # its loop is closed
                    sleeper.get_loop().call_soon_threadsafe(_end, sleeper)

    async def once(self, *, unless: Callable[[], bool]) -> None:
        """Sleep until `wake` is called, unless that is true already."""
        sleeper: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        with self._lock:
            self._asleep[sleeper] = get_ident()
        try:
            if not unless():
                await sleeper
        finally:
            with self._lock:
                self._asleep.pop(sleeper, None)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Sleep until it is true after a `wake`."""
        while not condition():
            await self.once(unless=condition)


def _end(sleeper: asyncio.Future[None]) -> None:
    if not sleeper.done():
        sleeper.set_result(None)
