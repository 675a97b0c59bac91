"""The dead jobs, to be looked at and put back."""

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager

from jobq.codec import encode_job
from jobq.model import DeadJob, replayed
from jobq_memory._state import Entry, State, job_of


class MemoryDeadLetters:
    """`lend` gives the state, locked, and the time."""

    def __init__(
        self, lend: Callable[[], AbstractContextManager[tuple[State, float]]], wake: Callable[[], None]
    ) -> None:
        self._lend = lend
        self._wake = wake

    async def count(self, queue: str) -> int:
        with self._lend() as (state, _):
            return len(_of(state, queue))

    async def peek(self, queue: str, limit: int) -> Sequence[DeadJob]:
        with self._lend() as (state, _):
            return _of(state, queue)[:limit]

    async def replay(self, queue: str, limit: int | None = None, ids: Collection[str] | None = None) -> int:
        with self._lend() as (state, now):
            chosen = [dead for dead in _of(state, queue) if ids is None or dead.id in ids][:limit]
            for dead in chosen:
                state.bring_back(dead.id, replayed(dead, now))
        self._wake()
        return len(chosen)

    async def pop(self, queue: str, limit: int) -> Sequence[DeadJob]:
        with self._lend() as (state, _):
            return _remove(state, _of(state, queue)[:limit])

    async def purge(self, queue: str) -> int:
        with self._lend() as (state, _):
            return len(_remove(state, _of(state, queue)))


def _of(state: State, queue: str) -> Sequence[DeadJob]:
    return [_record(entry) for entry in state.dead.values() if entry.queue == queue]


def _record(entry: Entry) -> DeadJob:
    return DeadJob(job_of(entry), encode_job(entry.job), entry.trail, entry.crashes, entry.died)


def _remove(state: State, dead: Sequence[DeadJob]) -> Sequence[DeadJob]:
    for one in dead:
        del state.dead[one.id]
    return dead
