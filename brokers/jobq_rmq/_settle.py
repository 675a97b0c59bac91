"""Storing what became of jobs: acknowledged, published anew, or given back."""

import asyncio
import time
from collections.abc import Sequence
from threading import RLock
from typing import Final

from jobq.errors import BrokerError, OutcomeUnknown
from jobq.model import Again, Crash, Dead, Done, Outcome, Released, Token
from jobq_rmq import _messages
from jobq_rmq._consumers import Consumers
from jobq_rmq._held import Held, Ledger
from jobq_rmq._messages import Message
from jobq_rmq._publisher import Publisher
from jobq_rmq._receiver import Arrival
from jobq_rmq._topology import Topology

_EARLY: Final = 0.05
"""Seconds by which a job may be early: clocks are not more exact than that."""


class Settler:
    """Settles messages that have arrived. A message that takes another's place is confirmed before that is let go."""

    def __init__(
        self, topology: Topology, lock: RLock, publisher: Publisher, consumers: Consumers, ledger: Ledger
    ) -> None:
        self._topology = topology
        self._lock = lock
        self._publisher = publisher
        self._consumers = consumers
        self._ledger = ledger
        self._tasks = set[asyncio.Task[None]]()

    async def settle(self, outcomes: Sequence[Outcome], worker: str) -> list[Token]:
        """Store outcomes; returns the tokens of those that are not the worker's to give.

        Raises a `BrokerError` if some could not be stored: those jobs are held still.
        """
        returned: list[Arrival] = []
        replaced: list[tuple[Held, Message]] = []
        with self._lock:
            refused = [
                Token(outcome.id, outcome.epoch)
                for outcome in outcomes
                if not self._settle(outcome, worker, returned, replaced)
            ]
        await self.give_back(returned)
        await self._republish(replaced)
        self._consumers.flush()
        return refused

    def _settle(
        self, outcome: Outcome, worker: str, returned: list[Arrival], replaced: list[tuple[Held, Message]]
    ) -> bool:
        held = self._ledger.find(outcome.id, outcome.epoch, worker)
        if held is None:
            return False
        self._ledger.drop(held)
        if held.arrival.receiver.is_closed:
            self._ledger.remember(held.arrival.message, outcome)
        elif (message := self._after(held.arrival, outcome)) is not None:
            replaced.append((held, message))
        elif isinstance(outcome, Released):
            returned.append(held.arrival)
        else:
            self._acknowledge(held.arrival, outcome)
        return True

    def settle_ends(self, outcomes: Sequence[Outcome], worker: str) -> list[Token]:
        """The same for outcomes of which nothing is kept; whoever calls this has the lock, and flushes later."""
        return [Token(one.id, one.epoch) for one in outcomes if not self._settle(one, worker, [], [])]

    async def give_back(self, arrivals: Sequence[Arrival]) -> None:
        """To the front of their queues in this process, the last foremost; or to the server, for others."""
        await self.send_back([arrival for arrival in arrivals if not self._consumers.put_back(arrival)])

    async def send_back(self, arrivals: Sequence[Arrival]) -> None:
        """To the server, as they are: a message that is only refused would come again as if its worker had died.

        That is still done with those that cannot be published.
        """
        for arrival, _ in await self._replace(self._copies(arrivals)):
            arrival.receiver.nack([arrival])

    async def leave(self, arrivals: Sequence[Arrival]) -> None:
        """To the server, for others. Raises a `BrokerError` if some cannot be published: they can be taken here."""
        await self.replace(self._copies(arrivals))

    async def replace(self, pairs: Sequence[tuple[Arrival, Message]]) -> None:
        """Publish messages in the place of others. Raises a `BrokerError` if some were not: they can be taken again."""
        failed = await self._replace(pairs)
        for arrival, _ in reversed(failed):
            if not self._consumers.put_back(arrival):
                arrival.receiver.nack([arrival])
        raise_worst([error for _, error in failed], anything_stored=len(failed) < len(pairs))

    def _copies(self, arrivals: Sequence[Arrival]) -> list[tuple[Arrival, Message]]:
        return [
            (arrival, self.instead(arrival) or _messages.copy(self._topology, arrival.stored))
            for arrival in arrivals
            if not arrival.receiver.is_closed
        ]

    def needs_another(self, arrival: Arrival) -> bool:
        """Whether a message must not be claimed, because another has to take its place."""
        return arrival.redelivered or arrival.stored.eta - time.time() > _EARLY

    def instead(self, arrival: Arrival) -> Message | None:
        """What has to take the place of a message, because it comes too early, or because a worker died with it."""
        if not self.needs_another(arrival):
            return None
        old, now = arrival.stored, time.time()
        if arrival.redelivered:
            return _messages.after_crash(self._topology, old, Crash(self._ledger.next_epoch(), now, ""))
        return _messages.again(self._topology, old, queue=old.queue, trail=None, delay=old.eta - now)

    def is_known(self, arrival: Arrival) -> bool:
        """Whether a message that has come again is that of a job which runs here, or has ended here.

        What was neither, but here all the same, is no other worker's crash.
        """
        if not arrival.redelivered:
            return False
        if self._ledger.reattach(arrival):
            return True
        outcome = self._ledger.recall(arrival)
        if outcome is None:
            return False
        arrival.redelivered = False  # nobody died with it
        if isinstance(outcome, Released) and outcome.delay <= 0:
            return False
        self._tasks.add(task := asyncio.create_task(self._apply(arrival, outcome)))
        task.add_done_callback(self._tasks.discard)
        return True

    async def _apply(self, arrival: Arrival, outcome: Outcome) -> None:
        message = self._after(arrival, outcome)
        if message is not None:
            for _ in await self._replace([(arrival, message)]):
                with self._lock:
                    self._ledger.remember(arrival.message, outcome)
                arrival.receiver.nack([arrival])
        else:
            with self._lock:
                self._acknowledge(arrival, outcome)
            self._consumers.flush()

    async def _republish(self, replaced: Sequence[tuple[Held, Message]]) -> None:
        by_arrival = {held.arrival: held for held, _ in replaced}
        failed = await self._replace([(held.arrival, message) for held, message in replaced])
        with self._lock:
            for arrival, _ in failed:
                self._ledger.restore(by_arrival[arrival])
        raise_worst([error for _, error in failed], anything_stored=len(failed) < len(replaced))

    async def _replace(self, pairs: Sequence[tuple[Arrival, Message]]) -> list[tuple[Arrival, BrokerError]]:
        """Confirm the new messages, then acknowledge the old. Returns those for which that was not possible."""
        if not pairs:
            return []
        results: Sequence[BrokerError | None]
        with self._lock:
            self._ledger.excuse(arrival for arrival, _ in pairs)  # their channel may be lost meanwhile
        try:
            results = await self._publisher.publish([message for _, message in pairs])
        except BrokerError as exc:
            results = [exc] * len(pairs)
        with self._lock:
            for (arrival, _), error in zip(pairs, results, strict=True):
                if error is None:
                    self._acknowledge(arrival, Done(arrival.stored.id, 0))
        self._consumers.flush()
        return [(arrival, error) for (arrival, _), error in zip(pairs, results, strict=True) if error is not None]

    def _after(self, arrival: Arrival, outcome: Outcome) -> Message | None:
        """The message that takes a job's place, if there is one."""
        old = arrival.stored
        match outcome:
            case Again():
                queue = outcome.queue or old.queue
                return _messages.again(self._topology, old, queue=queue, trail=outcome.trail, delay=outcome.delay)
            case Dead(keep=True):
                return _messages.dead(self._topology, old, outcome.trail)
            case Released() if outcome.delay > 0:
                return _messages.again(self._topology, old, queue=old.queue, trail=None, delay=outcome.delay)
            case _:
                return None

    def change(self, held: Held, arrival: Arrival) -> None:
        """Hold a job by way of another message; the one before is acknowledged. Whoever calls this has the lock."""
        old = held.arrival
        self._ledger.change(held, arrival)
        self._acknowledge(old, Done(old.stored.id, 0))

    def _acknowledge(self, arrival: Arrival, outcome: Outcome) -> None:
        """It has ended. If the acknowledgement is lost with its channel, that holds when the message comes again."""
        arrival.receiver.ack(arrival)
        self._ledger.remember(arrival.message, outcome)


def raise_worst(errors: Sequence[BrokerError], *, anything_stored: bool) -> None:
    """Raise the worst of these, if there are any: what is known of some is not known of all."""
    if not errors:
        return
    unknown = next((error for error in errors if isinstance(error, OutcomeUnknown)), None)
    if unknown is None and anything_stored:
        unknown = OutcomeUnknown(f"some were stored, others not: {errors[0]}")
    raise unknown or errors[0]
