"""What the worker holds: jobs waiting for a slot, jobs running, outcomes not stored yet. Pure bookkeeping.

A slot is held while a body runs. How much is held in all, with what waits and what is not stored yet, is bounded by
`room`, so that a slow broker slows the worker down instead of filling its memory.
"""

import asyncio
from collections import deque
from contextlib import suppress
from typing import Final

from jobq.model import Outcome, Released
from jobq.worker.held import Cause, Held

__all__ = ["Slots"]

_AHEAD: Final = 0.020
_RATE_WINDOW: Final = 0.1
"""The least number of seconds over which the rate is measured."""
_RATE_FRESH: Final = 1.0
"""Seconds for which a rate counts: what was fast may be slow, or another task, after a pause."""
_PROBE: Final = 1.0


class Slots:
    """The worker's hands. `changed` is set when there is something for the next turn."""

    def __init__(self, concurrency: int, ahead: int = 1) -> None:
        self.concurrency = concurrency
        self._ahead = ahead * concurrency
        self.held: dict[int, Held] = {}
        self.waiting: deque[Held] = deque()
        self.backlog = asyncio.Event()
        """Set when a job begins to wait for a slot."""
        self.outcomes: list[Outcome] = []
        self.changed = asyncio.Event()
        self.spent: list[Held] = []
        """No longer held. To free them takes a tenth of a turn's time: the next turn is sent first."""
        self.taken = 0
        self.reserved = 0
        """1 while a slot is kept free for a suspect that may be there."""
        self._suspects = 0
        self._probed = float("-inf")
        self._rate = 0.0
        self._stored = 0
        self._since: float | None = None

    @property
    def empty(self) -> bool:
        """Whether nothing is held."""
        return not self.held

    def room(self, now: float, settling: int = 0) -> int:
        """How many more to claim in a turn that settles `settling` of those held.

        No more than the free slots, plus what would start within 20 ms at a rate measured within the last second:
        enough to keep the slots busy during a round trip, too little to keep from other workers. How much that may be
        at most is up to the broker (docs/adr/0025).
        """
        fresh = self._since is not None and now - self._since <= _RATE_FRESH
        ahead = min(int(self._rate * _AHEAD), self._ahead) if fresh else 0
        return max(0, self.concurrency + ahead - (len(self.held) - settling))

    def probe(self, now: float, *, backlog: bool) -> bool:
        """Whether to ask for a suspect, which must start at once, with no other suspect beside it.

        With a `backlog` of jobs that wait for slots there would never be a free one, so now and then one is kept free:
        until the answer is here, if there is one now, or else from the end of the next body on.
        """
        if self._suspects:
            return False
        if now - self._probed >= _PROBE:
            self.reserved = 1
        if self.taken < self.concurrency and (self.reserved or not backlog):
            self._probed = now
            return True
        return False

    def add(self, held: Held) -> None:
        """Take a claimed job."""
        self.held[held.epoch] = held
        self._suspects += held.suspect

    def queue(self, held: Held) -> None:
        """Let a job wait for a slot; a suspect goes first."""
        (self.waiting.appendleft if held.suspect else self.waiting.append)(held)
        self.backlog.set()

    def take(self) -> Held | None:
        """The next job to start, and a slot for it; None if there is none of either."""
        if not self.waiting or self.taken + self.reserved >= self.concurrency:
            return None
        self.taken += 1
        return self.waiting.popleft()

    def settle(self, held: Held, outcome: Outcome) -> None:
        """Give a held job its one outcome; a second one is dropped."""
        if held.settled or held.epoch not in self.held:
            return
        held.settled = True
        self.taken -= held.body is not None
        self.outcomes.append(outcome)
        self.changed.set()

    def give_up(self, held: Held, cause: Cause) -> None:
        """Cancel its body, or give it back if there is none yet."""
        if held.body is not None:
            held.cancel(cause)
            return
        with suppress(ValueError):
            self.waiting.remove(held)
        self.settle(held, Released(held.delivery.job.id, held.epoch))

    def stored(self, outcomes: list[Outcome], now: float) -> None:
        """Outcomes are with the broker: their jobs are no longer held."""
        for outcome in outcomes:
            held = self.held.pop(outcome.epoch, None)
            if held is None:
                continue
            self.spent.append(held)
            if held.suspect:
                self._suspects -= 1
                self.changed.set()  # nobody calls a worker for a suspect; now it may ask for the next one
        self._measure(len(outcomes), now)

    def slowed_down(self) -> None:
        """Claim nothing ahead until the rate has been measured anew."""
        self._rate, self._since = 0.0, None

    def drop(self, held: Held) -> None:
        """Forget a job whose token somebody else has, or nobody; it waits, or its body has ended."""
        if self.held.pop(held.epoch, None) is None:
            return
        self.taken -= held.body is not None and not held.settled
        held.settled = True
        self._suspects -= held.suspect
        self.changed.set()
        if held in self.waiting:
            self.waiting.remove(held)

    def _measure(self, count: int, now: float) -> None:
        if self._since is None:
            self._stored, self._since = 0, now
            return
        self._stored += count
        elapsed = now - self._since
        if elapsed >= _RATE_WINDOW:
            self._rate, self._stored, self._since = self._stored / elapsed, 0, now
