"""What this process holds, and what became of what it held last: state, no I/O."""

import time
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain, takewhile
from operator import attrgetter
from typing import Final

from jobq.model import Delivery, Outcome, Released
from jobq_rmq._receiver import Arrival

_MOST_ENDED: Final = 10_000


@dataclass(slots=True, eq=False)
class Held:
    """A job that a worker has claimed."""

    arrival: Arrival
    worker: str
    epoch: int

    def delivery(self) -> Delivery:
        return self.arrival.stored.delivery(self.epoch)


_NOTHING: Final[dict[int, Held]] = {}


class Ledger:
    """Which message is held by which worker, under which epoch."""

    def __init__(self) -> None:
        self._held: dict[str, dict[int, Held]] = {}
        """By worker and epoch, in the order of the epochs."""
        self._detached: dict[str, Held] = {}
        """Those whose channel is gone, by message: if it comes here again, it is still theirs."""
        self._ended: OrderedDict[str, Outcome] = OrderedDict()
        """What became of the last jobs, by message: that is done when it comes again."""
        self._epoch = time.time_ns() // 1000

    def next_epoch(self, seen: int = 0) -> int:
        """Higher than all before, and than `seen`."""
        self._epoch = max(self._epoch, seen) + 1
        return self._epoch

    def hold(self, arrival: Arrival, worker: str, seen: int) -> Delivery:
        """Note that `worker`, who has seen the epoch `seen`, has it from now on."""
        held = Held(arrival, worker, self.next_epoch(seen))
        self._held.setdefault(worker, {})[held.epoch] = held
        return held.delivery()

    def find(self, job: str, epoch: int, worker: str) -> Held | None:
        """What `worker` holds under this token, if it does."""
        held = self._held.get(worker, _NOTHING).get(epoch)
        return held if held is not None and held.arrival.stored.id == job else None

    def of(self, worker: str) -> list[Held]:
        """What a worker holds, in the order of its claims."""
        return list(self._held.get(worker, _NOTHING).values())

    def after(self, worker: str, epoch: int) -> list[Held]:
        """What of that is later than this."""
        held = self._held.get(worker, _NOTHING)
        later = list(takewhile(lambda one: one.epoch > epoch, reversed(held.values())))
        return later[::-1]

    def holds(self, worker: str, besides: int = 0) -> bool:
        """Whether a worker holds more than so many."""
        return len(self._held.get(worker, _NOTHING)) > besides

    def drop(self, held: Held) -> None:
        """It is no longer held."""
        others = self._held.get(held.worker, {})
        others.pop(held.epoch, None)
        if not others:
            self._held.pop(held.worker, None)
        self._detached.pop(held.arrival.message, None)

    def is_held(self, held: Held) -> bool:
        """Whether it is held still."""
        return self._held.get(held.worker, _NOTHING).get(held.epoch) is held

    def older(self, moment: float) -> list[Held]:
        """What the server has waited for since before `moment`."""
        return [held for held in self._all() if held.arrival.since < moment and not held.arrival.receiver.is_closed]

    def change(self, held: Held, arrival: Arrival) -> None:
        """It is held by way of another message from now on."""
        self._detached.pop(held.arrival.message, None)
        arrival.stored = held.arrival.stored
        arrival.redelivered = False  # nobody died with it
        held.arrival = arrival

    def restore(self, held: Held) -> None:
        """It is held after all."""
        others = [*self.of(held.worker), held]
        self._held[held.worker] = {one.epoch: one for one in sorted(others, key=attrgetter("epoch"))}
        if held.arrival.receiver.is_closed:
            self._detached[held.arrival.message] = held

    def remember(self, message: str, outcome: Outcome) -> None:
        """Note what is to be done if a message with this id comes again."""
        self._ended[message] = outcome
        while len(self._ended) > _MOST_ENDED:
            self._ended.popitem(last=False)

    def recall(self, arrival: Arrival) -> Outcome | None:
        """What became of the job of a message that has come again, if it has ended here."""
        return self._ended.pop(arrival.message, None)

    def excuse(self, unclaimed: Iterable[Arrival]) -> None:
        """Nobody has claimed these: if they come again, it was no crash."""
        for arrival in unclaimed:
            if not arrival.redelivered:
                self.remember(arrival.message, Released(arrival.stored.id, 0))

    def detach(self, unclaimed: Iterable[Arrival]) -> None:
        """A channel is lost, or all, and with it what nobody has claimed."""
        self.excuse(unclaimed)
        self._detached = {held.arrival.message: held for held in self._all() if held.arrival.receiver.is_closed}

    def reattach(self, arrival: Arrival) -> bool:
        """Whether a message that has come again is that of a job which is still held here."""
        held = self._detached.get(arrival.message)
        if held is None:
            return False
        self.change(held, arrival)
        return True

    def _all(self) -> Iterable[Held]:
        return chain.from_iterable(held.values() for held in self._held.values())
