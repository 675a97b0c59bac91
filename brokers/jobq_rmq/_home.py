"""An event loop in a thread of its own: what blocks the caller's loop, a body for instance, costs no connection."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from importlib import import_module
from typing import Any, TypeVar

from jobq.errors import OutcomeUnknown

T = TypeVar("T")


class Home:
    """Runs coroutines for callers on other loops."""

    def __init__(self) -> None:
        self.loop = _new_loop()
        self._thread = threading.Thread(target=self._run, name="jobq-rmq", daemon=True)
        self._thread.start()

    async def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Its result. A caller that is cancelled does not stop it."""
        return await asyncio.wrap_future(_uncancellable(asyncio.run_coroutine_threadsafe(coroutine, self.loop)))

    async def wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Its result. A caller that is cancelled cancels it."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, self.loop))

    def soon(self, function: Callable[[], object]) -> None:
        """Have it called there, unless this is closed."""
        with suppress(RuntimeError):
            self.loop.call_soon_threadsafe(function)

    async def close(self) -> None:
        """End the thread. What still runs there is cancelled, and its caller told that nothing is known of it."""
        with suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self.loop.stop)
        while self._thread.is_alive():  # noqa: ASYNC110 - it has milliseconds to live; `join` would block
            await asyncio.sleep(0.001)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
        finally:
            self.loop.run_until_complete(_cancel_the_rest())
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.close()


def _uncancellable(inner: "Future[T]") -> "Future[T]":
    """A future that ends as `inner` does, and whose cancellation leaves that alone."""
    outer = Future[T]()

    def end(done: "Future[T]") -> None:
        if not outer.set_running_or_notify_cancel():
            return  # nobody is interested any more
        if done.cancelled():
            outer.set_exception(OutcomeUnknown("the broker was closed meanwhile; it may have happened or not"))
        elif (error := done.exception()) is not None:
            outer.set_exception(error)
        else:
            outer.set_result(done.result())

    inner.add_done_callback(end)
    return outer


async def _cancel_the_rest() -> None:
    rest = asyncio.all_tasks() - {asyncio.current_task()}
    for task in rest:
        task.cancel()
    await asyncio.gather(*rest, return_exceptions=True)


def _new_loop() -> asyncio.AbstractEventLoop:
    make: Callable[[], asyncio.AbstractEventLoop]
    try:
        make = import_module("uvloop").new_event_loop
    except ImportError:
        make = asyncio.new_event_loop
    return make()
