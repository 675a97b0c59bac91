"""Long jobs: a server closes the channel of whoever holds a message for too long, so it is changed for another in time.

That one goes to a queue of this process alone. What is in there when the process is gone goes back to the queue of its
job, marked as having been held.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from threading import RLock
from typing import Final
from uuid import uuid4

from jobq.errors import BrokerError
from jobq.model import Done
from jobq_rmq import _messages
from jobq_rmq._consumers import Consumers
from jobq_rmq._held import Held, Ledger
from jobq_rmq._inbox import Inboxes
from jobq_rmq._link import end
from jobq_rmq._publisher import Publisher
from jobq_rmq._receiver import Arrival
from jobq_rmq._settle import Settler
from jobq_rmq._topology import Topology
from jobq_rmq._url import Target

_LOOKS: Final = 4
"""How often, in the time after which a message is changed, is looked for those whose time has come."""

log = logging.getLogger("jobq.rmq")


class Handover:
    """Changes the messages of jobs that are held for long. Lives on one event loop."""

    def __init__(
        self,
        *,
        target: Target,
        topology: Topology,
        lock: RLock,
        publisher: Publisher,
        inboxes: Inboxes,
        consumers: Consumers,
        ledger: Ledger,
        settler: Settler,
    ) -> None:
        self._target = target
        self._topology = topology
        self._lock = lock
        self._publisher = publisher
        self._inboxes = inboxes
        self._consumers = consumers
        self._ledger = ledger
        self._settler = settler
        self._holder = uuid4().hex[:12]
        self._coming: dict[str, Held] = {}
        """What has been published and has not arrived, by message."""
        self._here = asyncio.Event()
        self._warned = False
        self._looking = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Look now and then, until `stop`."""
        self._task = asyncio.create_task(self._run(), name="jobq rmq hand-over")

    async def stop(self) -> None:
        """What is held is no longer changed. What is being changed is waited for, unless whoever waits is cancelled."""
        if self._task is None:
            return
        try:
            await self._looking.acquire()  # cut midway, a copy of a job might be left behind
        finally:
            await end(self._task)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._target.handover / _LOOKS)
            try:
                async with self._looking:
                    await self._look()
            except BrokerError as exc:
                log.warning("jobs that are held for long could not be held anew: %s", exc)

    async def _look(self) -> None:
        moment = time.monotonic() - self._target.handover
        with self._lock:
            long = self._ledger.older(moment)
            waiting = self._inboxes.take_all(lambda arrival: arrival.since < moment)
        await self._settler.leave(waiting)
        if long and self._target.declares:
            await self._consumers.hold(self._holder, self._arrive)
            await self._change(long)
        elif long and not self._warned:
            self._warned = True
            log.warning(
                "a job has run for %g s. With ?declare=no it cannot be held anew: should it run for longer than the "
                "consumer_timeout of RabbitMQ at %s (30 minutes by default), somebody else will run it, too",
                self._target.handover,
                self._target.masked,
            )

    async def _change(self, long: Sequence[Held]) -> None:
        messages = [_messages.handed_over(self._topology, held.arrival.stored, self._holder) for held in long]
        self._here.clear()
        with self._lock:
            for message, held in zip(messages, long, strict=True):
                self._coming[message.id] = held
                # Should it arrive too late, or somewhere else first, it is to be acknowledged.
                self._ledger.remember(message.id, Done(message.job, held.epoch))
        try:
            for message, error in zip(messages, await self._publisher.publish(messages), strict=True):
                if error is not None:
                    self._coming.pop(message.id, None)
                    log.warning("a job that is held for long could not be held anew: %s", error)
            await self._arrived()
        finally:
            self._coming.clear()
            self._consumers.flush()

    async def _arrived(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._target.timeout):
                while self._coming:
                    self._here.clear()
                    await self._here.wait()

    def _arrive(self, arrival: Arrival) -> None:
        with self._lock:
            if arrival.receiver.is_closed:
                return
            held = self._coming.pop(arrival.message, None)
            self._here.set()
            if held is not None and self._ledger.is_held(held):
                self._ledger.recall(arrival)
                self._settler.change(held, arrival)
                return
            if self._settler.is_known(arrival):
                return
            if not arrival.redelivered and self._consumers.put_back(arrival):
                return
            arrival.receiver.reject([arrival])
