"""The dead letters of an app under test."""

from collections.abc import Callable, Collection
from typing import Final

from jobq.broker import DeadLetters
from jobq.model import DeadJob

_ALL: Final = 1 << 30


class NotedDeadLetters:
    """Those of a broker; `rise` is told what was put back."""

    def __init__(self, inner: DeadLetters, rise: Callable[[Collection[DeadJob]], None]) -> None:
        self._inner = inner
        self._rise = rise
        self.count, self.peek, self.pop, self.purge = inner.count, inner.peek, inner.pop, inner.purge

    async def replay(self, queue: str, limit: int | None = None, ids: Collection[str] | None = None) -> int:
        chosen = [dead for dead in await self.peek(queue, _ALL) if ids is None or dead.id in ids][:limit]
        replayed = await self._inner.replay(queue, limit, ids)
        self._rise(chosen)
        return replayed
