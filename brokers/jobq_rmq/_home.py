"""An event loop in a thread of its own: what blocks the caller's loop, a body for instance, costs no connection."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextlib import suppress
from importlib import import_module
from typing import Any, Final, Generic, TypeVar

from jobq.errors import OutcomeUnknown

T = TypeVar("T")

GONE: Final = "the broker was closed meanwhile; it may have happened or not"


class Home:
    """Runs coroutines for callers on other loops."""

    def __init__(self) -> None:
        self.loop = _new_loop()
        self._under_way = set[asyncio.Future[Any]]()
        self._thread = threading.Thread(target=self._run, name="jobq-rmq", daemon=True)
        self._thread.start()

    async def call(self, function: Callable[[], Awaitable[T]]) -> T:
        """What it returns there, awaited: a future costs no task. A caller that is cancelled does not stop it."""
        hop = _Hop(function, self._under_way)
        self.loop.call_soon_threadsafe(hop.begin)
        return await hop.answer

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
            self.loop.run_until_complete(_cancel_the_rest(self._under_way))
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.close()


class _Hop(Generic[T]):
    """A call on another loop, and its answer on this one.

    It does what `asyncio.run_coroutine_threadsafe` does, without its locks; and whoever no longer waits ends nothing.
    """

    def __init__(self, function: Callable[[], Awaitable[T]], under_way: set[asyncio.Future[Any]]) -> None:
        self._function = function
        self._under_way = under_way
        self._here = asyncio.get_running_loop()
        self.answer: asyncio.Future[T] = self._here.create_future()

    def begin(self) -> None:
        """On the other loop."""
        try:
            under_way = asyncio.ensure_future(self._function())
        except Exception as exc:  # noqa: BLE001 - it is the caller's
            self._tell(exc, None)
        else:
            self._under_way.add(under_way)
            under_way.add_done_callback(self._end)

    def _end(self, done: "asyncio.Future[T]") -> None:
        self._under_way.discard(done)
        self._tell(OutcomeUnknown(GONE) if done.cancelled() else done.exception(), done)

    def _tell(self, error: BaseException | None, done: "asyncio.Future[T] | None") -> None:
        with suppress(RuntimeError):  # the loop of whoever waited is closed
            self._here.call_soon_threadsafe(self._told, error, done)

    def _told(self, error: BaseException | None, done: "asyncio.Future[T] | None") -> None:
        """On this loop."""
        if self.answer.done():
            return
        if error is not None:
            self.answer.set_exception(error)
        elif done is not None:
            self.answer.set_result(done.result())


async def _cancel_the_rest(under_way: Iterable[asyncio.Future[Any]]) -> None:
    rest = {*asyncio.all_tasks(), *under_way} - {asyncio.current_task()}
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
