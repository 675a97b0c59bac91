"""A connection that is kept: made, watched, and made again."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Final, cast

from aiormq.exceptions import AMQPError

from jobq.errors import BrokerError, BrokerRefused, BrokerUnavailable
from jobq_rmq._errors import unreachable
from jobq_rmq._url import Target
from jobq_rmq._wire import Line

_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 5.0
_GOODBYE: Final = 1.0
_AGAIN: Final = 0.1

log = logging.getLogger("jobq.rmq")


class Link:
    """One connection to whichever of the servers answers. `on_up` prepares a new one before anybody else uses it."""

    def __init__(
        self,
        target: Target,
        name: str,
        on_up: Callable[[Line], Awaitable[object]],
        on_down: Callable[[], None] = lambda: None,
    ) -> None:
        self._target = target
        self._name = name
        self._on_up = on_up
        self._on_down = on_down
        self._connection: Line | None = None
        self._changed = asyncio.Event()
        self._error: BrokerError | None = None
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Connect. Raises `BrokerUnavailable` or `BrokerRefused` if that does not work at once."""
        connection = await self._connect()
        self._task = asyncio.create_task(self._keep(connection), name=f"jobq rmq {self._name}")

    async def get(self) -> Line:
        """The connection, as soon as there is one. Raises `BrokerRefused`, or `BrokerUnavailable` after the timeout."""
        try:
            async with asyncio.timeout(self._target.timeout):
                while self._connection is None and not isinstance(self._error, BrokerRefused):
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            pass
        return self.now

    @property
    def now(self) -> Line:
        """The connection. Raises `BrokerUnavailable` or `BrokerRefused` if there is none at the moment."""
        if self._connection is not None:
            return self._connection
        if self._error is not None:  # anew: it is raised to several callers
            raise type(self._error)(str(self._error))
        raise BrokerUnavailable(f"the connection to RabbitMQ at {self._target.masked} was lost")

    async def close(self) -> None:
        """End it; a server that does not answer is not waited for."""
        if self._task is not None:
            await end(self._task)
        if self._connection is not None:
            await _close(self._connection)
            self._connection = None

    async def _keep(self, connection: Line) -> None:
        while True:
            self._set(connection)
            await _closed(connection)
            self._set(None)
            log.warning("the %s connection to %s was lost", self._name, self._target.masked)
            self._on_down()
            connection = await self._reconnect()

    def _set(self, connection: Line | None) -> None:
        self._connection = connection
        self._changed.set()

    async def _reconnect(self) -> Line:
        for pause in pauses():
            await asyncio.sleep(pause)
            try:
                connection = await self._connect()
            except BrokerError as exc:
                if str(exc) != str(self._error):
                    log.warning("%s; trying again", exc)
                self._error = exc
                self._changed.set()
            else:
                self._error = None
                log.info("the %s connection to %s is there again", self._name, self._target.masked)
                return connection
        raise AssertionError

    async def _connect(self) -> Line:
        """To the first address that answers, in random order, so that servers share their clients."""
        error: BrokerError | None = None
        for address in _shuffled(self._target.addresses):
            try:
                return await self._connect_to(address)
            except BrokerError as exc:
                error = exc
        assert error is not None
        raise error

    async def _connect_to(self, address: str) -> Line:
        line = Line(address, f"jobq {self._name}")
        try:
            async with asyncio.timeout(self._target.timeout):
                await cast("Any", line).connect()  # partly untyped
            await self._on_up(line)
        except BaseException as exc:
            await _close(line)
            if isinstance(exc, AMQPError | OSError | TimeoutError | RuntimeError) and not isinstance(exc, BrokerError):
                raise unreachable(exc, self._target.masked) from exc
            raise
        return line


async def end(task: asyncio.Task[None]) -> None:
    """Cancel it until it has ended.

    Once is not enough: the library waits with `asyncio.wait_for`, which loses a cancellation in Python 3.11 that comes
    in the moment in which the wait is over, and whoever goes on for ever after that would go on for ever.
    """
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=_AGAIN)


def pauses() -> Iterator[float]:
    """Seconds before each attempt, longer and longer.

    By chance, too: clients that were cut off together do not come back together.
    """
    longest = _FIRST_PAUSE
    while True:
        yield random.uniform(0, longest)
        longest = min(longest * 2, _LONGEST_PAUSE)


def _shuffled(addresses: Sequence[str]) -> Sequence[str]:
    return random.sample(addresses, len(addresses))


async def _closed(connection: Line) -> None:
    await asyncio.wait([cast("Any", connection).closing])


async def _close(connection: Line) -> None:
    with suppress(Exception):
        await connection.close(timeout=_GOODBYE)
