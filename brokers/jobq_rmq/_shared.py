"""What a broker and its twins have in common."""

import asyncio
import threading
from concurrent.futures import Future
from contextlib import suppress
from functools import partial

from jobq.errors import BrokerError, BrokerUnavailable
from jobq_rmq._engine import Engine
from jobq_rmq._home import Home
from jobq_rmq._stamps import Stamps
from jobq_rmq._url import Target


class Shared:
    """A worker's connections, which are the lease of all that it holds.

    They live in a thread, and are opened by the first verb of a worker, or at once where there are twins, which only
    workers have.
    """

    def __init__(self, target: Target) -> None:
        self.target = target
        self.stamps = Stamps()
        self.has_twins = False
        self._lock = threading.Lock()
        self._users = 0
        self._opening: Future[tuple[Home, Engine]] | None = None

    @property
    def works(self) -> bool:
        """Whether there are a worker's connections, or will be soon."""
        return self.has_twins or self._opening is not None

    def enter(self) -> None:
        """Whoever uses it says so first."""
        with self._lock:
            self._users += 1

    def check(self) -> None:
        """Raise `BrokerUnavailable` if nobody has entered."""
        if not self._users:
            raise BrokerUnavailable(f"the broker on {self.target.masked} is closed; use it inside `async with`")

    async def work(self) -> tuple[Home, Engine]:
        """A worker's connections, which are opened if need be. Raises `BrokerUnavailable` or `BrokerRefused`."""
        self.check()
        with self._lock:
            first = self._opening is None
            opening = self._opening = self._opening or Future()
        if first:
            return await self._open(opening)
        return opening.result() if opening.done() else await asyncio.shield(asyncio.wrap_future(opening))

    async def leave(self) -> None:
        """Close the connections, if nobody else uses them."""
        with self._lock:
            self._users -= 1
            if self._users or self._opening is None:
                return
            opening, self._opening = self._opening, None
        with suppress(BrokerError):
            home, engine = await asyncio.shield(asyncio.wrap_future(opening))
            try:
                await home.call(engine.close)
            finally:
                await home.close()

    async def _open(self, opening: "Future[tuple[Home, Engine]]") -> tuple[Home, Engine]:
        home = Home()
        try:
            engine = await home.call(partial(_opened, self.target, self.stamps))
        except BaseException as exc:
            with self._lock:
                if self._opening is opening:  # else all have left meanwhile, and perhaps come again
                    self._opening = None
            opening.set_exception(exc if isinstance(exc, BrokerError) else BrokerUnavailable("it was not opened"))
            await home.close()
            raise
        opening.set_result((home, engine))
        return home, engine


async def _opened(target: Target, stamps: Stamps) -> Engine:
    engine = Engine(target, stamps)
    await engine.open()
    return engine
