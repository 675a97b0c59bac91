"""The transaction of a running job, whose commit is also the job's end."""

import asyncio
from types import TracebackType
from typing import Any, Protocol

from jobq.broker import Settlement
from jobq.errors import ConfigError

__all__ = ["JobTransaction", "Leaving"]


class Leaving(Protocol):
    """A run that a transaction can end."""

    leaving: bool
    """Whether its end is with the broker, or just about to be: nobody else settles it, and it cannot be lost."""
    connection: Any
    """What its transaction is open on; None before and after."""
    transacted: bool
    """Whether it has had its transaction."""


class JobTransaction:
    """What `jobq.current().transaction()` gives: what is done on its connection and the job's end are one.

    When the block ends, both are committed, or neither: if another worker has the job meanwhile, as after a lost lease,
    everything is rolled back and `LeaseLost` raised. After the commit the job is done: an error that follows in the
    body is logged, and the job does not run again for it. If the block raises, everything is rolled back, and the job
    has failed. A job has one transaction, and enters it once.
    """

    def __init__(self, run: Leaving, settlement: Settlement) -> None:
        self._run = run
        self._settlement = settlement

    async def __aenter__(self) -> Any:
        """The connection: one of asyncpg's, or of `sqlite3`. Raises `BrokerUnavailable` if there is none."""
        if self._run.transacted:
            raise ConfigError("this job has had its transaction; it has one, and its commit is the job's end")
        self._run.transacted = True
        self._run.connection = await self._settlement.begin()
        return self._run.connection

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._run.connection = None
        if exc is not None:
            await self._settlement.rollback()
            return
        self._run.leaving = True  # a heartbeat that is under way may find the job gone
        commit = asyncio.ensure_future(self._settlement.commit())
        try:
            await _whole(commit)
        finally:
            self._run.leaving = commit.done() and not commit.cancelled() and commit.exception() is None


async def _whole(commit: "asyncio.Future[None]") -> None:
    """Wait for it to the end, whoever cancels: it may be done on the server already. The broker bounds it in time."""
    cancelled: asyncio.CancelledError | None = None
    while not commit.done():
        try:
            await asyncio.wait([commit])
        except asyncio.CancelledError as exc:
            cancelled = exc
    commit.result()
    if cancelled is not None:
        raise cancelled
