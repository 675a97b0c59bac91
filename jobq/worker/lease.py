"""The lease: renewed from a thread of its own, so that a body that blocks the event loop loses nothing.

The worker also counts its lease itself, from before each heartbeat was sent, and gives its jobs up before the broker
would: between two workers there is never a moment in which both believe that they hold a job.
"""

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Sequence
from typing import Final

from jobq.broker import Broker
from jobq.clock import Clock
from jobq.model import Beat, Orders, WorkerInfo
from jobq.worker.supervise import supervise

__all__ = ["LeaseKeeper"]

_TICK: Final = 0.25
_FENCE_AT: Final = 0.9
"""The share of the lease after which a worker that could not renew it gives up its jobs."""
_RETRY_CAP: Final = 2.0
_GOODBYE: Final = 0.5

log = logging.getLogger("jobq.worker")


class LeaseKeeper:
    """Keeps one worker's lease alive through `broker`, a twin that belongs to this thread.

    `snapshot` is called in the thread and gives the highest epoch received, then beats for all that is held;
    `on_orders(orders)` and `on_fence()` are called on the worker's loop.
    """

    def __init__(
        self,
        broker: Broker,
        worker: WorkerInfo,
        clock: Clock,
        *,
        lease: float,
        renew: float,
        snapshot: Callable[[], tuple[int, Sequence[Beat]]],
        on_orders: Callable[[Orders], None],
        on_fence: Callable[[], None],
        tick: Callable[[], None],
    ) -> None:
        self._broker = broker
        self._worker = worker
        self._clock = clock
        self._lease = lease
        self._renew = renew
        self._snapshot = snapshot
        self._on_orders = on_orders
        self._on_fence = on_fence
        self._tick = tick
        self._main = asyncio.get_running_loop()
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._now = asyncio.Event()
        self._ended = asyncio.Event()
        self._fence_at: float | None = None
        self._thread = threading.Thread(target=self._thread_main, name="jobq lease", daemon=True)

    def start(self) -> None:
        """Begin; the first orders follow as soon as the broker answers."""
        self._thread.start()

    def beat_now(self) -> None:
        """Renew at once, e.g. because the broker has forgotten us. From any thread."""
        self._call(self._now.set)

    def stop(self) -> None:
        """Say good-bye to the broker and end the thread. Does not wait; see `join`. From any thread."""
        self._call(self._stop.set)

    async def join(self, seconds: float) -> bool:
        """Wait for the thread to end; False if it has not in time (it is a daemon, and holds nothing)."""
        await asyncio.get_running_loop().run_in_executor(None, self._thread.join, seconds)
        return not self._thread.is_alive()

    def _call(self, action: Callable[[], object]) -> None:
        with contextlib.suppress(RuntimeError):  # the thread has ended, and closed its loop
            self._loop.call_soon_threadsafe(action)

    def _thread_main(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._run())

    async def _run(self) -> None:
        loops = [
            asyncio.create_task(
                supervise("lease renewal", self._session, self._clock, cap=min(_RETRY_CAP, self._renew))
            ),
            asyncio.create_task(supervise("lease watch", self._watch, self._clock)),
        ]
        await self._stop.wait()
        self._now.set()
        # the renewal ends by itself, since no command may be cut midway; a broker that is away does not hold us up
        await asyncio.wait([asyncio.create_task(self._ended.wait())], timeout=_GOODBYE)
        for task in loops:
            task.cancel()
        await asyncio.gather(*loops, return_exceptions=True)

    async def _session(self) -> None:
        """One connection: renew until it breaks or the worker stops."""
        async with self._broker:
            while not self._stop.is_set():
                await self._renew_once()
            await self._broker.heartbeat(self._worker, (), 0)
        self._ended.set()
        await asyncio.Event().wait()

    async def _renew_once(self) -> None:
        (resume, beats), sent = self._snapshot(), self._clock.monotonic()
        orders = await self._broker.heartbeat(self._worker, beats, self._lease, resume)
        self._fence_at = sent + self._lease * _FENCE_AT
        self._post(self._on_orders, orders)
        await self._clock.wait(self._now, self._renew)
        self._now.clear()

    async def _watch(self) -> None:
        while True:
            self._tick()
            left = _TICK if self._fence_at is None else self._fence_at - self._clock.monotonic()
            if left <= 0:
                self._fence_at = None
                self._post(self._on_fence)
                left = _TICK
            await self._clock.sleep(min(_TICK, left))  # a tick is more than what a short lease has left then

    def _post(self, callback: Callable[..., None], *args: object) -> None:
        if not self._main.is_closed():
            self._main.call_soon_threadsafe(callback, *args)
