"""A broker and the model side by side: every call goes to both, and both have to answer the same."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, Final, TypeVar

from msgspec.structs import replace

from jobq.broker import Broker
from jobq.model import Answer, Beat, Claim, Crash, Delivery, Job, Orders, Outcome, Stamp, Swept, Token, Turn, WorkerInfo
from jobq.testing import ManualClock
from jobq_memory._state import State

Open = Callable[[ManualClock], Broker]
Result = TypeVar("Result")

SHORTLY: Final = 0.002
"""Brokers may round times to the millisecond, so that nothing closer than this can be told apart."""


class World:
    """One namespace of a broker, the same in the model, and their common clock.

    Everything here speaks of the model's epochs. A broker's own have only to grow, so each is translated, by the
    delivery that brought it first.
    """

    def __init__(self, open_broker: Open) -> None:
        self.clock = ManualClock()
        self.model = State()
        self._real: dict[int, int] = {}
        self._modelled: dict[int, int] = {}
        self._runner = asyncio.Runner()
        try:
            self._broker = self._run(open_broker(self.clock).__aenter__())
        except BaseException:
            self._runner.close()
            raise

    @property
    def now(self) -> float:
        return self.clock.time()

    def close(self) -> None:
        self._run(self._broker.__aexit__(None, None, None))
        self._runner.close()

    def enqueue(self, jobs: Sequence[Job], stamp: Stamp) -> Sequence[Answer]:
        expected = self.model.enqueue(jobs, stamp, self.now)
        assert list(self._run(self._broker.enqueue(jobs, stamp))) == list(expected)
        return expected

    def turn(self, outcomes: Sequence[Outcome], claim: Claim) -> Turn:
        expected = self.model.turn(outcomes, claim, self.now)
        real_outcomes = [replace(outcome, epoch=self._to_real(outcome.epoch)) for outcome in outcomes]
        turn = self._run(self._broker.turn(real_outcomes, replace(claim, resume=self._to_real(claim.resume))))
        self._learn(turn.deliveries, expected.deliveries)
        assert [self._translate(d) for d in turn.deliveries] == [rounded(d) for d in expected.deliveries]
        assert sorted(self._tokens(turn.refused), key=repr) == sorted(expected.refused, key=repr)
        assert near(turn.next_due, expected.next_due)
        assert turn.leased == expected.leased
        return expected

    def heartbeat(self, worker: WorkerInfo, beats: Sequence[Beat], lease: float, resume: int = 0) -> Orders:
        expected = self.model.heartbeat(worker, beats, lease, resume, self.now)
        real_beats = [replace(beat, epoch=self._to_real(beat.epoch)) for beat in beats]
        orders = self._run(self._broker.heartbeat(worker, real_beats, lease, self._to_real(resume)))
        assert near(orders.now, expected.now)
        assert set(self._tokens(orders.lost)) == set(expected.lost)
        assert orders.returned == expected.returned
        assert (list(orders.cancel), list(orders.paused), orders.quiet) == ([], [], False)
        return expected

    def sweep(self, host: str, limit: int, dead: Sequence[str] = ()) -> Swept:
        expected = self.model.sweep(host, limit, dead, self.now)
        swept = self._run(self._broker.sweep(host, limit, dead))
        assert (swept.promoted, swept.reclaimed) == (expected.promoted, expected.reclaimed)
        exhausted = swept.promoted + swept.reclaimed == limit
        assert swept.more == expected.more or (swept.more and exhausted)  # whoever stops at the limit need not look on
        assert sorted(swept.peers) == sorted(expected.peers)
        assert near(swept.next_due, expected.next_due)
        return expected

    def _run(self, call: Coroutine[Any, Any, Result]) -> Result:
        return self._runner.run(call)

    def _to_real(self, epoch: int) -> int:
        return self._real.get(epoch, epoch)

    def _learn(self, deliveries: Iterable[Delivery], expected: Iterable[Delivery]) -> None:
        """Epochs that are new in the model must be new and higher in the broker."""
        for delivery, modelled in zip(deliveries, expected, strict=False):
            if modelled.epoch not in self._real:
                assert delivery.epoch > max(self._modelled, default=0), "epochs must grow"
                self._real[modelled.epoch] = delivery.epoch
                self._modelled[delivery.epoch] = modelled.epoch

    def _translate(self, delivery: Delivery) -> Delivery:
        crashes = (Crash(self._modelled.get(crash.epoch, -1), crash.at, crash.worker) for crash in delivery.crashes)
        return rounded(replace(delivery, epoch=self._modelled.get(delivery.epoch, -1), crashes=tuple(crashes)))

    def _tokens(self, tokens: Iterable[Token]) -> list[Token]:
        return [Token(token.id, self._modelled.get(token.epoch, token.epoch)) for token in tokens]


def rounded(delivery: Delivery) -> Delivery:
    """With the times of its crashes in milliseconds."""
    return replace(delivery, crashes=tuple(replace(crash, at=round(crash.at, 3)) for crash in delivery.crashes))


def near(seconds: float | None, expected: float | None) -> bool:
    """Equal as far as brokers have to tell times apart."""
    if seconds is None or expected is None:
        return seconds is expected
    return abs(seconds - expected) < SHORTLY
