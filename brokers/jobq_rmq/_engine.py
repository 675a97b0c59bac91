"""What the verbs do, on the loop that the connections live on; a turn that waits for nothing, in any thread."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from threading import RLock
from typing import Final

from jobq.errors import BrokerError
from jobq.model import (
    SUSPECT_AFTER,
    Beat,
    Claim,
    Delivery,
    Orders,
    Outcome,
    Token,
    Turn,
    WorkerInfo,
    leaves_nothing,
)
from jobq_rmq._consumers import Consumers
from jobq_rmq._graves import Graves
from jobq_rmq._handover import Handover
from jobq_rmq._held import Ledger
from jobq_rmq._inbox import Inboxes
from jobq_rmq._publisher import Publisher
from jobq_rmq._receiver import Arrival
from jobq_rmq._sender import Sender
from jobq_rmq._settle import Settler
from jobq_rmq._stamps import Stamps
from jobq_rmq._topology import Topology
from jobq_rmq._url import Target

_SLACK: Final = 10
"""For so many jobs that a worker runs one more is prefetched, and for fewer none: it would wait behind a long one."""
_MOST_PREFETCHED: Final = 0xFFFF
_GOODBYE: Final = 1.0
"""Seconds that giving back may take when this process leaves."""


class Engine:
    """Both connections, and what this process holds."""

    def __init__(self, target: Target, stamps: Stamps) -> None:
        self._lock = RLock()
        """Whoever changes what is known here, or reads several things of it, has this. Nobody awaits with it."""
        self._topology = Topology(target.prefix, target.kind, target.delays)
        self._publisher = Publisher(target, self._topology)
        self._ledger = Ledger()
        self._inboxes = Inboxes()
        self._consumers = Consumers(
            target, self._topology, self._lock, self._inboxes, known=self._is_known, on_down=self._ledger.detach
        )
        self._settler = Settler(self._topology, self._lock, self._publisher, self._consumers, self._ledger)
        self._handover = Handover(
            target=target,
            topology=self._topology,
            lock=self._lock,
            publisher=self._publisher,
            inboxes=self._inboxes,
            consumers=self._consumers,
            ledger=self._ledger,
            settler=self._settler,
        )
        self.graves = Graves(target, self._topology, self._publisher)
        self.sender = Sender(self._topology, self._publisher, stamps)
        self._workers: dict[str, WorkerInfo] = {}
        self._claiming = set[str]()
        """The workers that claim from any queue at all."""

    async def open(self) -> None:
        await self._publisher.open()
        try:
            await self._consumers.open()
        except BaseException:
            await self._publisher.close()
            raise
        self._handover.start()

    async def close(self) -> None:
        with suppress(BrokerError, TimeoutError):
            async with asyncio.timeout(_GOODBYE):
                await self._handover.stop()
                await self._settler.send_back(await self._consumers.stop())
                await self._consumers.let_go()
        await self._consumers.close()
        await self._publisher.close()

    def turn_at_once(self, outcomes: Sequence[Outcome], claim: Claim) -> Turn | None:
        """The turn, if it waits for nothing, as most do; `flush` has to follow. Else None, and nothing has changed."""
        if not all(map(leaves_nothing, outcomes)):
            return None
        with self._lock:
            if not self._can_claim_at_once(claim, len(outcomes)):
                return None
            found = self._next(claim, ())
            if any(self._settler.needs_another(arrival) for arrival in found):
                for arrival in reversed(found):
                    self._inboxes.add_first(arrival)
                return None
            refused = self._settler.settle_ends(outcomes, claim.worker)
            deliveries = [self._ledger.hold(arrival, claim.worker, claim.resume) for arrival in found]
            return Turn(deliveries, refused, resume=deliveries[-1].epoch if deliveries else 0)

    def flush(self) -> None:
        """Send the acknowledgements."""
        self._consumers.flush()

    async def turn(self, outcomes: Sequence[Outcome], claim: Claim) -> Turn:
        self._consumers.check()
        refused = await self._settler.settle(outcomes, claim.worker)
        info = self._workers.get(claim.worker)
        if info is None:
            return Turn((), refused, leased=False)
        deliveries = self._unreceived(claim)
        if claim.queues:
            self._claiming.add(claim.worker)
            await self._claim(claim, deliveries)
        else:
            await self._stop_claiming(claim.worker)
        return Turn(deliveries, refused, resume=deliveries[-1].epoch if deliveries else 0)

    def _can_claim_at_once(self, claim: Claim, settling: int) -> bool:
        """Whether this worker claims, has received all that it holds, and need not be told that there is nothing."""
        return (
            claim.worker in self._workers
            and claim.worker in self._claiming
            and bool(claim.queues)
            and self._consumers.are_consumed(claim.queues)
            and not self._ledger.after(claim.worker, claim.resume)
            and (
                not claim.limit
                or self._consumers.has_any(claim.queues)
                or self._ledger.holds(claim.worker, besides=settling)
            )
        )

    async def wait(self, queues: Sequence[str], seconds: float) -> None:
        """On any loop: who waits for a job is woken where it is."""
        self._consumers.check()
        await self._consumers.wait(queues, seconds)

    async def heartbeat(self, worker: WorkerInfo, beats: Sequence[Beat], lease: float, resume: int) -> Orders:
        self._consumers.check()
        named = {beat.id for beat in beats}
        with self._lock:
            gone = self._ledger.of(worker.id)
            if lease > 0:
                self._workers[worker.id] = worker
                gone = [held for held in gone if held.epoch <= resume and held.arrival.stored.id not in named]
            for held in gone:
                self._ledger.drop(held)
        await self._settler.give_back([held.arrival for held in reversed(gone)])
        if lease <= 0:
            self._workers.pop(worker.id, None)
            await self._stop_claiming(worker.id)
        lost = [Token(beat.id, beat.epoch) for beat in beats if not self._ledger.find(beat.id, beat.epoch, worker.id)]
        return Orders(time.time(), lost, returned=len(gone))

    async def _claim(self, claim: Claim, deliveries: list[Delivery]) -> None:
        """Add to `deliveries`. To a worker that holds nothing, none are added only if there are none for it."""
        if await self._consumers.consume(claim.queues, self._prefetch()):
            await self._consumers.fence()
        await self._take(claim, deliveries)
        if claim.limit and not self._ledger.holds(claim.worker):
            await self._consumers.look(claim.queues)
            await self._take(claim, deliveries)

    async def _take(self, claim: Claim, deliveries: list[Delivery]) -> None:
        while True:
            with self._lock:
                found = self._next(claim, deliveries)
                replaced = [(arrival, message) for arrival in found if (message := self._settler.instead(arrival))]
                dropped = {arrival for arrival, _ in replaced}
                deliveries += [
                    self._ledger.hold(arrival, claim.worker, claim.resume)
                    for arrival in found
                    if arrival not in dropped
                ]
            if not found:
                return
            await self._settler.replace(replaced)

    def _next(self, claim: Claim, deliveries: Sequence[Delivery]) -> list[Arrival]:
        """As many of those that have arrived as there is room for beside `deliveries`; one suspect in all."""
        found: list[Arrival] = []
        room = claim.limit - len(deliveries)
        suspects = claim.suspects and not any(len(delivery.crashes) >= SUSPECT_AFTER for delivery in deliveries)
        for queue in claim.queues:
            if suspects and len(found) < room and (suspect := self._inboxes.take_suspect(queue)):
                found.append(suspect)
                suspects = False
            while len(found) < room and (arrival := self._inboxes.take(queue)):
                found.append(arrival)
        return found

    def _unreceived(self, claim: Claim) -> list[Delivery]:
        return [held.delivery() for held in self._ledger.after(claim.worker, claim.resume)]

    async def _stop_claiming(self, worker: str) -> None:
        """Leave what has arrived to others, unless another worker here claims."""
        self._claiming.discard(worker)
        if not self._claiming:
            await self._settler.send_back(await self._consumers.stop())

    def _prefetch(self) -> int:
        concurrency = sum(info.concurrency for info in self._workers.values())
        return min(concurrency + concurrency // _SLACK, _MOST_PREFETCHED)

    def _is_known(self, arrival: Arrival) -> bool:
        return self._settler.is_known(arrival)
