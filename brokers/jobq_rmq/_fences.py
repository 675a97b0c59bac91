"""Making sure that what was in the queues has arrived, with one question to the server for all who want to know."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Final

_ROUNDS: Final = 2
_PORTION: Final = 50
"""The least number of messages that a queue sends between two answers, if it has them."""

Spawn = Callable[[Coroutine[object, object, None]], asyncio.Task[None]]


class Fences:
    """`ask` for whoever asks while the last question is under way, all together. Lives on one event loop."""

    def __init__(self, ask: Callable[[], Awaitable[None]], spawn: Spawn) -> None:
        self._ask = ask
        self._spawn = spawn
        self._now: asyncio.Task[None] | None = None
        """Under way."""
        self._after: asyncio.Task[None] | None = None
        """Has not begun yet, so that it will do for whoever comes now."""

    def next(self) -> asyncio.Task[None]:
        """Ends when a question has been answered that was asked after this call."""
        if self._after is None:
            self._after = self._spawn(self._begin(self._now))
        return self._after

    async def _begin(self, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait([before])
        self._now, self._after = self._after, None
        await self._ask()


async def ask_until_quiet(ask: Callable[[], Awaitable[None]], came: Callable[[], int], prefetch: int) -> None:
    """Ask the server something on each channel, until what was in its queues has arrived: `came` counts that.

    What a server answers on a channel comes after what it has delivered there before. What a queue sends while it
    answers for the first time comes before the second answer; and a classic queue waits when 200 messages are on their
    way, until some of them have been sent.
    """
    before = -1
    for number in range(_ROUNDS + prefetch // _PORTION):
        if number >= _ROUNDS and before == came():
            break
        before = came()
        await ask()
