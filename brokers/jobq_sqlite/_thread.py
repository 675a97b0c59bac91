"""A thread that serves an event loop."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress


class Servant:
    """Runs `body` in a daemon thread; what it has to say to the loop goes through `post`."""

    def __init__(self, name: str, body: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._body = body
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Let it begin."""
        self._thread.start()

    async def ended(self) -> None:
        """Return when it has ended."""
        await asyncio.shield(self._ended)
        while self._thread.is_alive():  # noqa: ASYNC110 - it has some microseconds to live; `join` would block
            await asyncio.sleep(0)

    def post(self, function: Callable[..., None], *arguments: object) -> None:
        """Have the loop call `function`."""
        with suppress(RuntimeError):  # the loop is gone, and everybody who waited on it
            self._loop.call_soon_threadsafe(function, *arguments)

    def _run(self) -> None:
        try:
            self._body()
        finally:
            self.post(resolve, self._ended, None)


def resolve(future: asyncio.Future[None], failure: BaseException | None) -> None:
    """End a future, unless it was cancelled."""
    if future.done():
        return
    if failure is None:
        future.set_result(None)
    else:
        future.set_exception(failure)
