"""Dead jobs, for people and their tools: counted, looked at, put back, taken away, deleted."""

from collections.abc import Collection

from jobq._checks import check_id, check_queue, check_whole
from jobq.broker import Broker, DeadLetters
from jobq.errors import ConfigError, Unsupported
from jobq.model import DEFAULT_QUEUE, MAX_PEEK, DeadJob

__all__ = ["DeadJobs"]


class DeadJobs:
    """What `client.dead` is. Each call is about the jobs that died in one queue, the first one first.

    All raise `BrokerUnavailable` when the broker is away: `OutcomeUnknown` when what was asked may have happened, in
    part or whole. Nothing is asked twice. They raise `Unsupported` for a broker whose dead jobs jobq cannot reach.
    """

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    async def count(self, queue: str = DEFAULT_QUEUE) -> int:
        """How many there are."""
        return await self._letters().count(check_queue(queue))

    async def peek(self, queue: str = DEFAULT_QUEUE, limit: int = 20) -> list[DeadJob]:
        """Up to `limit` (at most 100) of them. They stay where they are."""
        _check_limit(limit)
        return list(await self._letters().peek(check_queue(queue), limit))

    async def replay(
        self, queue: str = DEFAULT_QUEUE, *, limit: int | None = None, ids: Collection[str] | None = None
    ) -> int:
        """Put back those with these `ids`, or the first `limit`, or all; returns how many were.

        Each runs again as soon as a worker is free, under its own id, with all its attempts before it and its history
        behind it. What dies again while this goes on stays dead.
        """
        if limit is not None:
            check_whole("limit", limit, 1)
        return await self._letters().replay(check_queue(queue), limit, None if ids is None else _checked(ids))

    async def pop(self, queue: str = DEFAULT_QUEUE, limit: int = 1) -> list[DeadJob]:
        """Take up to `limit` (at most 100) of them away, to be kept by the caller or by nobody."""
        _check_limit(limit)
        return list(await self._letters().pop(check_queue(queue), limit))

    async def purge(self, queue: str = DEFAULT_QUEUE) -> int:
        """Delete all; returns how many there were."""
        return await self._letters().purge(check_queue(queue))

    def _letters(self) -> DeadLetters:
        letters = self._broker.dead_letters
        if letters is None:
            raise Unsupported(
                f"jobq cannot reach the dead jobs of {self._broker.url}. Look for them with that broker's own tools, "
                "or use another broker: sqlite, redis and rmq can"
            )
        return letters


def _check_limit(limit: int) -> None:
    check_whole("limit", limit, 1)
    if limit > MAX_PEEK:
        raise ConfigError(f"limit is {limit}; it is at most {MAX_PEEK} in one call")


def _checked(ids: Collection[str]) -> Collection[str]:
    if isinstance(ids, str):
        raise ConfigError(f"ids is {ids!r}; it is a list of job ids")
    for job_id in ids:
        check_id(job_id)
    return ids
