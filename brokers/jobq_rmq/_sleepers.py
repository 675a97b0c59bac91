"""Who waits for something to happen here."""

import asyncio
from collections.abc import Callable


class Sleepers:
    """Lives on one event loop."""

    def __init__(self) -> None:
        self._events = set[asyncio.Event]()

    def wake(self) -> None:
        """Have everybody who sleeps look again."""
        for event in self._events:
            event.set()

    async def once(self, *, unless: Callable[[], bool]) -> None:
        """Sleep until `wake` is called, unless that is true already."""
        event = asyncio.Event()
        self._events.add(event)
        try:
            if not unless():
                await event.wait()
        finally:
            self._events.discard(event)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Sleep until it is true after a `wake`."""
        while not condition():
            await self.once(unless=condition)
