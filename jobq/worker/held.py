"""A job in this worker's hands, from claim to stored outcome."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from jobq._context import CurrentJob
from jobq._transaction import JobTransaction
from jobq.client import Client
from jobq.model import SUSPECT_AFTER, Dead, Delivery, Token
from jobq.registry import FailureHandler

__all__ = ["Cause", "Doom", "Held", "Surroundings"]


class Cause(Enum):
    """Why the worker cancelled a body. Nobody asked: it is a failure."""

    TIMEOUT = auto()
    SHUTDOWN = auto()
    ORDERED = auto()
    LEASE_LOST = auto()


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all jobs of a worker share."""

    worker: str
    client: Client
    state: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Doom:
    """Why a job must not run, who is to be told, and what is stored then."""

    exc: BaseException
    handler: FailureHandler
    outcome: Dead


class Held:
    """One claimed job. Its epoch is unique in the namespace, so it is the key everywhere in the worker."""

    __slots__ = (
        "_args",
        "_current",
        "_function",
        "_kwargs",
        "_surroundings",
        "body",
        "cause",
        "connection",
        "deadline",
        "delivery",
        "doom",
        "epoch",
        "leaving",
        "settled",
        "started",
        "suspect",
        "timeout",
        "transacted",
    )

    def __init__(self, delivery: Delivery, surroundings: Surroundings) -> None:
        self.delivery = delivery
        self._surroundings = surroundings
        self._current: CurrentJob | None = None
        self.epoch = delivery.epoch
        self.suspect = len(delivery.crashes) >= SUSPECT_AFTER
        self.body: asyncio.Task[None] | None = None
        self.doom: Doom | None = None
        self.timeout: float | None = None
        self.deadline: float | None = None
        self.cause: Cause | None = None
        self.started = False
        self.settled = False
        self.leaving = False
        self.transacted = False
        self.connection: Any = None

    def prepare(
        self, function: Callable[..., Awaitable[object]], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> None:
        """Say what `run` is to call."""
        self._function, self._args, self._kwargs = function, args, kwargs

    def run(self) -> Awaitable[object]:
        """Call the task with its arguments."""
        return self._function(*self._args, **self._kwargs)

    @property
    def current(self) -> CurrentJob:
        """What the body may know."""
        if self._current is None:
            self._current = CurrentJob(
                self.delivery.job,
                epoch=self.epoch,
                attempt=self.delivery.trail.attempt + 1,
                client=self._surroundings.client,
                state=self._surroundings.state,
            )
        return self._current

    def transaction(self) -> JobTransaction:
        """A transaction whose commit is this job's end."""
        client, worker = self._surroundings.client, self._surroundings.worker
        return JobTransaction(self, client.transactions.settle(worker, Token(self.delivery.job.id, self.epoch)))

    @property
    def progress(self) -> float | None:
        """How far its body says it is."""
        return None if self._current is None else self._current.progress_made

    @property
    def running(self) -> bool:
        """Whether its body, or the handler that buries it, was started and has no outcome yet."""
        return self.body is not None and not self.settled

    def cancel(self, cause: Cause) -> None:
        """Stop the body. The first cause stands; a body that swallows the cancellation is not stopped."""
        if self.body is None or self.settled:
            return
        if not self.started:
            # a task cancelled before its first step would end without an outcome: let it start, then cancel it
            asyncio.get_running_loop().call_soon(self.cancel, cause)
            return
        self.cause = self.cause or cause
        if self._current is not None:
            self._current.cancel()
        self.body.cancel()

    def body_ended(self) -> None:
        """What was the cause for the body is none for the handler that follows."""
        self.cause = None

    def __repr__(self) -> str:
        return f"job {self.delivery.job.id} of {self.delivery.job.task}"
