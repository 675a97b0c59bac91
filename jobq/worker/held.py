"""A job in this worker's hands, from claim to stored outcome."""

import asyncio
from enum import Enum, auto

from jobq._context import CurrentJob
from jobq.model import SUSPECT_AFTER, Delivery

__all__ = ["Cause", "Held"]


class Cause(Enum):
    """Why the worker cancelled a body. Nobody asked: it is a failure."""

    TIMEOUT = auto()
    SHUTDOWN = auto()
    ORDERED = auto()
    LEASE_LOST = auto()


class Held:
    """One claimed job. Its epoch is unique in the namespace, so it is the key everywhere in the worker."""

    __slots__ = (
        "body",
        "cause",
        "current",
        "deadline",
        "delivery",
        "epoch",
        "settled",
        "started",
        "suspect",
        "timeout",
    )

    def __init__(self, delivery: Delivery) -> None:
        self.delivery = delivery
        self.epoch = delivery.epoch
        self.suspect = len(delivery.crashes) >= SUSPECT_AFTER
        self.current: CurrentJob | None = None
        self.body: asyncio.Task[None] | None = None
        self.timeout: float | None = None
        self.deadline: float | None = None
        self.cause: Cause | None = None
        self.started = False
        self.settled = False

    @property
    def running(self) -> bool:
        """Whether its body was started and has no outcome yet."""
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
        if self.current is not None:
            self.current.cancel()
        self.body.cancel()

    def __repr__(self) -> str:
        return f"job {self.delivery.job.id} of {self.delivery.job.task}"
