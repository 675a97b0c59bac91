"""What the verbs do, on the loop that the connections live on."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from jobq.errors import BrokerError, OutcomeUnknown
from jobq.model import (
    Again,
    Answer,
    Beat,
    Cancelled,
    Claim,
    Crash,
    Dead,
    Delivery,
    Done,
    Job,
    Orders,
    Outcome,
    Stamp,
    Token,
    Turn,
    WorkerInfo,
)
from jobq_rmq import _messages
from jobq_rmq._consumers import Consumers
from jobq_rmq._messages import Message
from jobq_rmq._publisher import Publisher
from jobq_rmq._receiver import Arrival
from jobq_rmq._topology import Topology
from jobq_rmq._url import Target

_MOST_ENDED: Final = 10_000
_MOST_STAMPS: Final = 1000
_EARLY: Final = 0.05
"""Seconds by which a job may be early: clocks are not more exact than that."""
_SLACK: Final = 0.1
"""The share of a worker's concurrency that is prefetched beside what it runs."""


@dataclass(slots=True, eq=False)
class _Held:
    """A job that a worker has claimed."""

    arrival: Arrival
    worker: str
    epoch: int


class Engine:
    """Both connections, and what this process holds."""

    def __init__(self, target: Target) -> None:
        self._topology = Topology(target.prefix, target.kind)
        self._publisher = Publisher(target, self._topology)
        self._consumers = Consumers(target, self._topology, self._is_known, self._detach)
        self._held: dict[int, _Held] = {}
        self._detached: dict[str, _Held] = {}
        """Held jobs whose channel is gone, by message: if the message comes here again, it is still theirs."""
        self._ended: OrderedDict[str, Outcome] = OrderedDict()
        """What became of the last jobs, by message: that is done when the message comes again."""
        self._workers: dict[str, WorkerInfo] = {}
        self._stamps: OrderedDict[str, tuple[int, set[int]]] = OrderedDict()
        """For each client its last stamp, and the indexes of jobs that are known to be stored."""
        self._epoch = time.time_ns() // 1000
        self._settling = set[asyncio.Task[None]]()

    async def open(self) -> None:
        await self._publisher.open()
        try:
            await self._consumers.open()
        except BaseException:
            await self._publisher.close()
            raise

    async def close(self) -> None:
        await self._consumers.close()
        await self._publisher.close()

    async def enqueue(self, jobs: Sequence[Job], stamp: Stamp) -> Sequence[Answer]:
        known = self._known_of(stamp)
        open_jobs = [(index, job) for index, job in enumerate(jobs) if index not in known]
        messages = [_messages.new(self._topology, job, _delay_of(job)) for _, job in open_jobs]
        results = await self._publisher.publish(messages)
        known.update(index for (index, _), result in zip(open_jobs, results, strict=True) if result is None)
        _raise_first(results, anything_stored=bool(known))
        return [Answer(job.id) for job in jobs]

    async def turn(self, outcomes: Sequence[Outcome], claim: Claim) -> Turn:
        self._consumers.check()
        refused = await self._settle(outcomes, claim.worker)
        info = self._workers.get(claim.worker)
        if info is None:
            return Turn((), refused, leased=False)
        if not claim.queues:
            await self._stop_consuming()
            return Turn(self._unreceived(claim), refused)
        deliveries = await self._claim(claim, info)
        return Turn(deliveries, refused, resume=deliveries[-1].epoch if deliveries else 0)

    async def wait(self, queues: Sequence[str], seconds: float) -> None:
        self._consumers.check()
        await self._consumers.wait(queues, seconds)

    async def heartbeat(self, worker: WorkerInfo, beats: Sequence[Beat], lease: float, resume: int) -> Orders:
        self._consumers.check()
        named = {beat.epoch for beat in beats}
        gone = [
            held
            for held in self._held.values()
            if held.worker == worker.id and held.epoch <= resume and held.epoch not in named
        ]
        if lease > 0:
            self._workers[worker.id] = worker
        else:
            gone = [held for held in self._held.values() if held.worker == worker.id]
            self._workers.pop(worker.id, None)
            if not self._workers:
                await self._stop_consuming()
        for held in gone:
            self._forget(held)
            await self._give_back(held.arrival)
        lost = [Token(beat.id, beat.epoch) for beat in beats if beat.epoch not in self._held]
        return Orders(time.time(), lost, returned=len(gone))

    async def _claim(self, claim: Claim, info: WorkerInfo) -> list[Delivery]:
        await self._consumers.consume(claim.queues, info.concurrency + max(1, round(info.concurrency * _SLACK)))
        deliveries = self._unreceived(claim)
        await self._take(claim, deliveries)
        if not deliveries and claim.limit:
            await self._consumers.fence(claim.queues)
            await self._take(claim, deliveries)
        return deliveries

    async def _take(self, claim: Claim, deliveries: list[Delivery]) -> None:
        suspects = claim.suspects
        for queue in claim.queues:
            if suspects and len(deliveries) < claim.limit and (arrival := self._consumers.take_suspect(queue)):
                deliveries.append(self._hold(arrival, claim.worker))
                suspects = False
            while len(deliveries) < claim.limit and (arrival := self._consumers.take(queue)):
                message = self._instead(arrival)
                if message is None:
                    deliveries.append(self._hold(arrival, claim.worker))
                else:
                    await self._replace(arrival, message)

    def _instead(self, arrival: Arrival) -> Message | None:
        """What has to take the place of a message, because it comes too early, or because a worker died with it."""
        now = time.time()
        if arrival.redelivered:
            return _messages.after_crash(self._topology, arrival.stored, Crash(self._next_epoch(), now, ""))
        early = arrival.stored.eta - now
        if early > _EARLY:
            return _messages.again(self._topology, arrival.stored, queue=arrival.stored.queue, trail=None, delay=early)
        return None

    async def _stop_consuming(self) -> None:
        for arrival in await self._consumers.stop():
            await self._give_back(arrival)

    async def _give_back(self, arrival: Arrival) -> None:
        """To its queue, with no crash for the run that it has not had."""
        if arrival.stored.crashes:
            with suppress(BrokerError):
                await self._replace(arrival, _messages.without_last_crash(self._topology, arrival.stored))
                return
        await arrival.receiver.nack([arrival])

    async def _replace(self, arrival: Arrival, message: Message) -> None:
        """Publish one message in the place of another: confirm the new one, then acknowledge the old."""
        try:
            (error,) = await self._publisher.publish([message])
        except BrokerError:
            await arrival.receiver.nack([arrival])
            raise
        if error is not None:
            await arrival.receiver.nack([arrival])
            raise error
        self._acknowledge(arrival, Done(arrival.stored.id, 0))
        await self._consumers.flush()

    def _hold(self, arrival: Arrival, worker: str) -> Delivery:
        epoch = self._next_epoch()
        self._held[epoch] = _Held(arrival, worker, epoch)
        return arrival.stored.delivery(epoch)

    def _unreceived(self, claim: Claim) -> list[Delivery]:
        return [
            held.arrival.stored.delivery(held.epoch)
            for held in self._held.values()
            if held.worker == claim.worker and held.epoch > claim.resume
        ]

    async def _settle(self, outcomes: Sequence[Outcome], worker: str) -> list[Token]:
        refused: list[Token] = []
        replaced: list[tuple[_Held, Outcome, Message]] = []
        for outcome in outcomes:
            held = self._held.get(outcome.epoch)
            if held is None or held.worker != worker or held.arrival.stored.id != outcome.id:
                refused.append(Token(outcome.id, outcome.epoch))
                continue
            self._forget(held)
            if held.arrival.receiver.is_closed:
                self._remember(held.arrival, outcome)
            elif (message := self._after(held.arrival, outcome)) is None:
                await self._end(held.arrival, outcome)
            else:
                replaced.append((held, outcome, message))
        await self._republish(replaced)
        await self._consumers.flush()
        return refused

    async def _republish(self, replaced: Sequence[tuple[_Held, Outcome, Message]]) -> None:
        if not replaced:
            return
        try:
            results = await self._publisher.publish([message for _, _, message in replaced])
        except BrokerError:
            self._held.update((held.epoch, held) for held, _, _ in replaced)
            raise
        for (held, outcome, _), error in zip(replaced, results, strict=True):
            if error is not None:
                self._held[held.epoch] = held
            else:
                self._acknowledge(held.arrival, Done(outcome.id, outcome.epoch))
        await self._consumers.flush()
        _raise_first(results, anything_stored=True)

    def _after(self, arrival: Arrival, outcome: Outcome) -> Message | None:
        """The message that takes a job's place, if there is one."""
        old = arrival.stored
        match outcome:
            case Again():
                queue = outcome.queue or old.queue
                return _messages.again(self._topology, old, queue=queue, trail=outcome.trail, delay=outcome.delay)
            case Dead(keep=True):
                return _messages.dead(self._topology, old, outcome.trail)
            case Done() | Cancelled() | Dead():
                return None
            case _ if outcome.delay > 0:
                return _messages.again(self._topology, old, queue=old.queue, trail=None, delay=outcome.delay)
            case _:
                return None

    async def _end(self, arrival: Arrival, outcome: Outcome) -> None:
        if not isinstance(outcome, Done | Cancelled | Dead):
            await self._give_back(arrival)
        else:
            self._acknowledge(arrival, outcome)

    def _acknowledge(self, arrival: Arrival, outcome: Outcome) -> None:
        """It has ended. If the acknowledgement is lost with its channel, that holds when the message comes again."""
        arrival.receiver.ack(arrival)
        self._remember(arrival, outcome)

    def _is_known(self, arrival: Arrival) -> bool:
        """Whether a message that has come again is that of a job which runs here, or has ended here."""
        if (held := self._detached.pop(arrival.message, None)) is not None:
            held.arrival = arrival
            return True
        if (outcome := self._ended.pop(arrival.message, None)) is None:
            return False
        task = asyncio.create_task(self._apply(arrival, outcome))
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)
        return True

    async def _apply(self, arrival: Arrival, outcome: Outcome) -> None:
        message = self._after(arrival, outcome)
        if message is None:
            await self._end(arrival, outcome)
            await self._consumers.flush()
            return
        try:
            await self._replace(arrival, message)
        except BrokerError:
            self._remember(arrival, outcome)

    def _detach(self) -> None:
        self._detached = {held.arrival.message: held for held in self._held.values() if held.arrival.receiver.is_closed}

    def _forget(self, held: _Held) -> None:
        self._held.pop(held.epoch, None)
        self._detached.pop(held.arrival.message, None)

    def _remember(self, arrival: Arrival, outcome: Outcome) -> None:
        self._ended[arrival.message] = outcome
        while len(self._ended) > _MOST_ENDED:
            self._ended.popitem(last=False)

    def _known_of(self, stamp: Stamp) -> set[int]:
        number, known = self._stamps.get(stamp.client, (0, set[int]()))
        if stamp.number != number:
            known = set[int]()
        self._stamps[stamp.client] = stamp.number, known
        self._stamps.move_to_end(stamp.client)
        while len(self._stamps) > _MOST_STAMPS:
            self._stamps.popitem(last=False)
        return known

    def _next_epoch(self) -> int:
        self._epoch += 1
        return self._epoch


def _delay_of(job: Job) -> float:
    return (job.delay or 0.0) if job.due is None else job.due - time.time()


def _raise_first(results: Sequence[BrokerError | None], *, anything_stored: bool) -> None:
    """Raise the worst of the errors: what is known of some is not known of all."""
    errors = [result for result in results if result is not None]
    if not errors:
        return
    unknown = next((error for error in errors if isinstance(error, OutcomeUnknown)), None)
    if unknown is None and anything_stored:
        unknown = OutcomeUnknown(f"some were stored, others not: {errors[0]}")
    raise unknown or errors[0]
