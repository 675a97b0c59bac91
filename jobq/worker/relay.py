"""The relay: a worker whose only task is to move jobs from an outbox on to the broker that they are for."""

import asyncio
import logging
import random
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

from jobq import _outbox
from jobq._group_commit import GroupCommit
from jobq.app import App
from jobq.broker import Broker
from jobq.clock import SYSTEM_CLOCK
from jobq.errors import BrokerError, BrokerRefused, ConfigError, Snooze
from jobq.model import Job
from jobq.plugins import broker_of
from jobq.worker.worker import Worker

__all__ = ["check_outbox", "relay", "relay_app"]

CONCURRENCY: Final = 1000
"""Jobs that are moved at the same time; they share calls of the broker."""
_TIMEOUT: Final = 5.0
_PAUSES: Final = (1.0, 5.0)
_MANY: Final = 1_000_000
"""A job on its way harms nobody, however often its relay died."""

log = logging.getLogger("jobq.worker")


def relay(outbox: Broker | str, target: Broker | str, **options: Any) -> Worker:
    """A worker that moves jobs from `outbox` on to `target`, each at least once.

    A job that `target` has, by its id, it is not given again, if it knows the ids of its jobs. While it is away, jobs
    wait in the outbox. Brokers that are no URLs the caller has entered. `options` are those of `Worker`. Raises
    `ConfigError`.
    """
    check_outbox(outbox)
    usual: dict[str, Any] = {"queues": [_outbox.QUEUE], "concurrency": CONCURRENCY}
    return Worker(relay_app(target), outbox, **(usual | options))


def check_outbox(outbox: Broker | str) -> None:
    """Raise `ConfigError` for a broker that nobody can have an outbox on."""
    source = broker_of(outbox)
    if source.transactions is None:
        raise ConfigError(
            f"{source.url} joins no transactions, so nobody has an outbox there; postgresql:// does, and sqlite://"
        )


def relay_app(target: Broker | str) -> App:
    """What the relay does, as an app."""
    app, mover = App(), _Mover(target)
    app.lifespan(mover.open)
    app.task(name=_outbox.TASK, queue=_outbox.QUEUE, max_crashes=_MANY)(mover.move)
    return app


class _Mover:
    """Stores jobs in the target, which is entered when the first one comes: that it is away stops nobody."""

    def __init__(self, target: Broker | str) -> None:
        self._broker = broker_of(target)
        self._commits = GroupCommit(self._broker, SYSTEM_CLOCK, _TIMEOUT)
        self._entering = asyncio.Lock()
        self._is_entered = not isinstance(target, str)
        self._is_away = False

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[dict[str, Any]]:
        """Around the relay's life."""
        async with AsyncExitStack() as self._stack:
            yield {}
            await self._commits.close()

    async def move(self, job: Job) -> None:
        """The task."""
        try:
            await self._enter()
            await self._commits.store((job,))
        except BrokerRefused:
            raise
        except BrokerError as exc:
            self._tell(exc)
            raise Snooze(random.uniform(*_PAUSES)) from exc
        self._tell(None)

    async def _enter(self) -> None:
        if self._is_entered:
            return
        async with self._entering:
            if not self._is_entered:
                await self._stack.enter_async_context(self._broker)
                self._is_entered = True

    def _tell(self, error: BrokerError | None) -> None:
        if error is not None and not self._is_away:
            log.warning("jobs wait in the outbox: %s", error)
        elif error is None and self._is_away:
            log.info("jobs are moved from the outbox to %s again", self._broker.url)
        self._is_away = error is not None
