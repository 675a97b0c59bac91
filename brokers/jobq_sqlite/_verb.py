"""A call to the writer's thread."""

import asyncio
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

from jobq_sqlite._sql import Tx

T = TypeVar("T")


class Verb(Generic[T]):
    """One call: what to do in a transaction, and then its answer or its failure.

    A verb may be run again after its transaction was rolled back.
    """

    answer: T
    wakes = False
    """Whether there may be more work than before."""
    durable = False
    """Whether its answer has to wait until it is on the disk; otherwise it gets there in the next milliseconds."""

    def __init__(self, weight: int) -> None:
        self.weight = weight
        self.failure: BaseException | None = None
        self.future: asyncio.Future[None] | None = None

    def glance(self, tx: Tx) -> bool:
        """Answer without a transaction, if nothing has to change. Returns whether it did."""
        return False

    @classmethod
    def at_once(cls, tx: Tx, verbs: "Sequence[Verb[Any]]") -> bool:  # noqa: ARG003 - for those that can
        """Do what all the waiting verbs of this kind nearly always need, by a single statement, if it is that.

        The statement is the transaction, unless there is one already. Returns whether it was done; if not, nothing
        has changed.
        """
        return False

    @classmethod
    def run_all(cls, tx: Tx, verbs: "Sequence[Verb[Any]]") -> None:
        """Run all the waiting verbs of this kind, whatever they need."""
        for verb in verbs:
            verb.run(tx)

    def run(self, tx: Tx) -> None:
        """Change the database and set `answer`."""
        raise NotImplementedError

    def stored(self) -> None:
        """Its transaction was committed."""
