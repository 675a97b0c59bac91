"""Sleeping until there may be work: blocking reads of the queues' wake lists.

A wake list holds at most one token, which says "look". Cancelling a blocking read would cost its connection, so a read
goes on for its two seconds when its waiter is cancelled, and serves the next one; a token that nobody waits for any
more goes back.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final

from jobq.clock import Clock
from jobq.errors import BrokerError

BLOCK: Final = 2.0
"""The most seconds of one blocking read: how long a lost token or a dead connection can go unnoticed."""


class _Listener:
    """One blocking read, again and again, for everybody who waits for the same queues."""

    def __init__(self) -> None:
        self.task: asyncio.Task[None] | None = None
        self.waiters: set[asyncio.Event] = set()
        self.error: BrokerError | None = None

    def ring(self) -> None:
        for event in self.waiters:
            event.set()


class Wakes:
    """`pop` waits some seconds for a token; `look` says in how many there is work; `put` gives a token back."""

    def __init__(
        self,
        clock: Clock,
        pop: Callable[[Sequence[str], float], Awaitable[bytes | None]],
        look: Callable[[Sequence[str]], Coroutine[Any, Any, float | None]],
        put: Callable[[bytes], Awaitable[None]],
    ) -> None:
        self._clock, self._pop, self._look, self._put = clock, pop, look, put
        self._looks: set[asyncio.Task[float | None]] = set()
        self._listeners: dict[tuple[str, ...], _Listener] = {}

    async def wait(self, queues: tuple[str, ...], timeout: float) -> None:  # noqa: ASYNC109 - the protocol's word
        event = asyncio.Event()
        if not queues or timeout <= 0:
            await self._clock.wait(event, timeout)
            return
        looking = self._looking(queues)  # the token of some work may have got lost
        await asyncio.wait([looking])
        if looking.cancelled():  # the broker was left
            return
        due = looking.result()
        if due is not None and due <= 0:
            return
        listener = self._listen(queues, event, due)
        try:
            await self._clock.wait(event, timeout)
        finally:
            listener.waiters.discard(event)
        if listener.error is not None:
            raise listener.error

    async def aclose(self) -> None:
        """End every read, and every look: whoever still waits may go."""
        listeners = list(self._listeners.values())
        tasks = [*self._looks, *(listener.task for listener in listeners if listener.task is not None)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for listener in listeners:  # a task that had not begun has not done so itself
            listener.ring()
        self._listeners.clear()

    def _looking(self, queues: tuple[str, ...]) -> asyncio.Task[float | None]:
        task = asyncio.ensure_future(self._look(queues))
        self._looks.add(task)
        task.add_done_callback(self._looked)
        return task

    def _looked(self, task: asyncio.Task[float | None]) -> None:
        self._looks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waited for it may have been cancelled

    def _listen(self, queues: tuple[str, ...], event: asyncio.Event, due: float | None) -> _Listener:
        listener = self._listeners.get(queues)
        if listener is None:
            listener = self._listeners[queues] = _Listener()
            listener.task = asyncio.create_task(self._run(queues, listener, due))
        listener.waiters.add(event)
        return listener

    async def _run(self, queues: tuple[str, ...], listener: _Listener, due: float | None) -> None:
        try:
            while listener.waiters:
                token = await self._pop(queues, BLOCK if due is None else min(due, BLOCK))
                if token is not None and not listener.waiters:
                    await self._put(token)
                elif token is not None:
                    break
                elif listener.waiters:
                    due = await self._look(queues)
                    if due is not None and due <= 0:
                        break
        except BrokerError as exc:
            listener.error = exc
        finally:
            self._listeners.pop(queues, None)
            listener.ring()
