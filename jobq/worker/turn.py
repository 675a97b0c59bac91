"""The one loop that talks to the broker about jobs: settle what ended, claim what fits, start it."""

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from typing import Final

from jobq.broker import Broker
from jobq.clock import Clock
from jobq.model import Claim, Delivery, Outcome, Turn
from jobq.worker.execute import Executor
from jobq.worker.held import Cause
from jobq.worker.options import QueueWeight
from jobq.worker.slots import Slots

__all__ = ["Turner"]

BATCH: Final = 1000
POLL: Final = 5.0
"""Seconds after which an idle worker looks for itself, in case a wake-up was lost."""
_QUICK: Final = 0.005
_TOLERATED: Final = 3
_SPIN_CAP: Final = 0.25
_SAME_DUE: Final = 0.0005
_PATIENCE: Final = 1.0
"""Seconds after which what was claimed ahead, and has not started, goes back; it may take as long again."""
_BUSY: Final = 32
"""Outcomes that wait when a reply arrives; from so many on, the next turn is sent before the reply is unpacked."""


log = logging.getLogger("jobq.worker")


class Turner:
    """Turns, one at a time. `step` makes one; the other loops run beside it and say when one is worth while."""

    def __init__(
        self,
        broker: Broker,
        worker: str,
        queues: Sequence[QueueWeight],
        *,
        slots: Slots,
        executor: Executor,
        clock: Clock,
    ) -> None:
        self._broker = broker
        self._worker = worker
        self._order = _order(queues)
        self._queues = [queue.name for queue in queues]
        self._slots = slots
        self._executor = executor
        self._clock = clock
        self.claiming = True
        self.leased = asyncio.Event()
        self.on_unleased: Callable[[], None] = lambda: None
        self.paused: frozenset[str] = frozenset()
        self.dry = asyncio.Event()
        """Set by a turn that looked for jobs, found none and left none held."""
        self.stored = asyncio.Event()
        """Set after every turn."""
        self.quiet = True
        """Whether no turn is under way, and the last one did not fail: the broker holds nothing that we do not know."""
        self.resume = 0
        """The highest epoch received."""
        self.unread: Sequence[Delivery] = ()
        """Received, and not all among the held ones yet."""
        self._read_up_to = 0
        self.calling = asyncio.Lock()
        """Held while a turn is under way. Who has it may cancel `step`, and cuts nothing."""
        self._sending: list[Outcome] = []
        self._tried: frozenset[int] = frozenset()
        """Epochs of the outcomes in turns that failed: those may have been stored, so that a repeat is refused."""
        self._hungry = asyncio.Event()
        self._alone = True
        """Whether nothing ran when the last turn began."""
        self._fruitless = 0
        self._due: float | None = None
        self._due_changed = asyncio.Event()

    async def step(self) -> None:
        """Wait until there is a reason for a turn, and make it. After any error there is a next one.

        It sends the outcomes again of which the last one did not say what became of them.
        """
        if not self._sending and not self.unread:
            await self._slots.changed.wait()
        self._slots.changed.clear()
        try:
            await self._turn()
        except BaseException:
            self._tried |= {outcome.epoch for outcome in self._sending}
            self._slots.changed.set()
            raise
        self.quiet = not self.unread
        self.stored.set()

    async def _turn(self) -> None:
        batch = self._take()
        claim = self._claim(len(batch))
        # else one may end meanwhile in a transaction of its own, and leave a job that this turn has not seen
        self._alone = len(self._slots.held) <= len(batch)
        self.quiet = False
        async with self.calling:
            turn = await self._exchange(batch, claim)
        self._settled(batch, turn)
        self._receive(turn, claim)

    async def _exchange(self, batch: list[Outcome], claim: Claim) -> Turn:
        """One round trip; what the last one brought is unpacked while this one is under way."""
        if not self.unread:
            return await self._broker.turn(batch, claim)
        under_way = asyncio.ensure_future(self._broker.turn(batch, claim))
        try:
            await asyncio.sleep(0)  # lets it be sent first
            self._unpack()
            return await under_way
        finally:
            under_way.cancel()  # no more than a formality, unless this step itself was cancelled at last

    async def wake(self) -> None:
        """While there is room and nothing was found, wait for the broker's hint."""
        await self._hungry.wait()
        started = self._clock.monotonic()
        await self._broker.wait(self._queues, POLL)
        self._hungry.clear()  # not before: after an error it is to be asked again
        self._slots.changed.set()
        self._fruitless = self._fruitless + 1 if self._clock.monotonic() - started < _QUICK else 0
        if self._fruitless > _TOLERATED:
            # hints with nothing behind them (others were faster, a suspect must wait) must not make this loop spin
            await self._clock.sleep(min(_SPIN_CAP, _QUICK * self._fruitless))

    async def alarm(self) -> None:
        """When the next scheduled job is due, make a turn, even with all slots taken: a turn makes it ready."""
        pause = None if self._due is None else max(0.0, self._due - self._clock.monotonic())
        if not await self._clock.wait(self._due_changed, pause):
            self._due = None
            self._slots.changed.set()
        self._due_changed.clear()

    async def give_back(self) -> None:
        """Give back what has waited too long for a slot, as other workers may have one.

        It was claimed because jobs were short; those that run now are not.
        """
        await self._slots.backlog.wait()
        waiting = self._slots.waiting
        last = waiting[-1] if waiting else None
        await self._clock.sleep(_PATIENCE)
        if last is not None and last in waiting:  # and so are all before it
            late = list(waiting)[: waiting.index(last) + 1]
            for held in reversed(late):  # what is released last is the foremost
                self._slots.give_up(held, Cause.SHUTDOWN)
            self._slots.slowed_down()
        if not waiting:
            self._slots.backlog.clear()

    def look(self) -> None:
        """Make a turn soon."""
        self._slots.changed.set()

    def _take(self) -> list[Outcome]:
        outcomes = self._slots.outcomes
        room = BATCH - len(self._sending)
        self._sending += outcomes[:room]
        del outcomes[:room]
        return self._sending

    def _claim(self, settling: int) -> Claim:
        if not (self.claiming and self.leased.is_set()):
            return Claim(self._worker, resume=self.resume)
        slots, unread = self._slots, len(self.unread)
        now = self._clock.monotonic()
        suspects = slots.probe(now, backlog=bool(unread or slots.waiting))
        room = max(slots.room(now, settling) - unread, int(suspects))
        return Claim(self._worker, self._order(self.paused), room, suspects=suspects, resume=self.resume)

    def _settled(self, batch: list[Outcome], turn: Turn) -> None:
        late = [token.id for token in turn.refused if token.epoch not in self._tried]
        self._sending = []
        if late:
            log.warning("%d outcomes came too late, their leases were lost: %s", len(late), ", ".join(late[:5]))
        self._tried = frozenset()
        self._slots.stored(batch, self._clock.monotonic())
        if self._slots.outcomes:
            self._slots.changed.set()

    def _receive(self, turn: Turn, claim: Claim) -> None:
        if not turn.leased and self.leased.is_set():
            self.leased.clear()
            self.on_unleased()
        if claim.suspects:
            self._slots.reserved = 0
        if turn.deliveries:
            self._fruitless = 0
            self._read_up_to = self.resume
            # in this order: whoever sees the epoch from another thread can see the deliveries
            self.unread = turn.deliveries
            self.resume = max(self.resume, turn.resume)
        if len(self._slots.outcomes) < _BUSY or claim.suspects:
            self._unpack()  # nothing is gained by putting it off; and nobody may die over a suspect that waits
        self._set_due(turn.next_due)
        if self.claiming and self.leased.is_set():
            self._look_again(turn, claim)

    def _unpack(self) -> None:
        """Take what a turn brought, and start what has a slot."""
        try:
            unknown = [delivery for delivery in self.unread if delivery.epoch not in self._slots.held]
        except BaseException:  # it makes no sense: let it come again
            self.resume = self._read_up_to
            self.unread = ()
            raise
        if self.claiming and self.leased.is_set():
            for delivery in unknown:
                self._executor.admit(delivery)
            self._executor.start_waiting()
        else:  # a slow reply may arrive after the worker stopped, or after its lease may have ended
            for delivery in reversed(unknown):
                self._executor.refuse(delivery)
        self.unread = ()  # not before each is among the held ones: the lease thread has to see it here or there
        self._slots.spent.clear()

    def _look_again(self, turn: Turn, claim: Claim) -> None:
        """After a turn that could claim: when to make the next one."""
        if claim.limit and len(turn.deliveries) < claim.limit:
            self._hungry.set()
            if not turn.deliveries and self._slots.empty and self._alone:
                # a turn that settled the last suspect has not looked for the next one
                (self.dry if claim.suspects else self._slots.changed).set()
        elif claim.limit and self._slots.room(self._clock.monotonic()) > len(self.unread):
            # as much as was asked for: there may be more, for the room that is left
            self._slots.changed.set()

    def _set_due(self, next_due: float | None) -> None:
        due = None if next_due is None else self._clock.monotonic() + next_due
        if due is not None and self._due is not None and abs(due - self._due) < _SAME_DUE:
            return
        if due is not self._due:
            self._due = due
            self._due_changed.set()


def _order(queues: Sequence[QueueWeight]) -> Callable[[frozenset[str]], list[str]]:
    """The order in which a turn looks at the queues: as given, or at random by weight."""
    names = [queue.name for queue in queues]
    if all(queue.weight is None for queue in queues):
        return lambda paused: [name for name in names if name not in paused] if paused else names
    weights = {queue.name: queue.weight or 1 for queue in queues}

    def shuffled(paused: frozenset[str]) -> list[str]:
        # exponential keys give each queue the first place in proportion to its weight (Efraimidis and Spirakis, 2006)
        keys = {name: random.expovariate(weight) for name, weight in weights.items() if name not in paused}
        return sorted(keys, key=keys.__getitem__)

    return shuffled
