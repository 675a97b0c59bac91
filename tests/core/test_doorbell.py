"""How workers on one machine hear of each other."""

import sys
import time
from contextlib import closing

import pytest

from jobq import App
from jobq._ids import new_id
from jobq.worker import Worker
from jobq.worker.doorbell import Doorbell
from jobq_memory import MemoryBroker
from tests.core.bench import Faulty, until

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="these sockets are Linux's")
PATIENCE = 0.5
SWEEPS = 3


def test_a_ring_is_heard_once_by_the_one_it_was_for() -> None:
    names = new_id(), new_id(), new_id()
    with (
        closing(Doorbell(names[0])) as caller,
        closing(Doorbell(names[1])) as called,
        closing(Doorbell(names[2])) as other,
    ):
        assert not called.heard()
        caller.ring([names[1]])
        assert called.heard()
        assert not called.heard()
        assert not other.heard()


def test_who_is_gone_or_does_not_listen_holds_nobody_up() -> None:
    deaf = new_id()
    with closing(Doorbell(new_id())) as caller, closing(Doorbell(deaf)) as called:
        for _ in range(2000):
            caller.ring(["nobody", deaf])
        assert called.heard()
    caller.ring([deaf])


def test_a_worker_whose_name_cannot_be_had_has_no_bell_and_does_without() -> None:
    name = new_id()
    with closing(Doorbell(name)), closing(Doorbell(name)) as second, closing(Doorbell("x" * 200)) as long:
        for mute in (second, long):
            mute.ring([name])
            assert not mute.heard()


async def test_ringing_without_end_costs_a_sweep_a_second() -> None:
    async with MemoryBroker() as memory:
        broker = Faulty(memory)
        async with Worker(App(), broker, sweep=600) as worker:
            await until(lambda: broker.faults.calls["sweep"])
            with closing(Doorbell(new_id())) as visitor:
                begun = time.monotonic()

                def rung_for_long_enough() -> bool:
                    visitor.ring([worker.id])
                    return broker.faults.calls["sweep"] == SWEEPS

                await until(rung_for_long_enough)
                assert time.monotonic() - begun > (SWEEPS - 1) - PATIENCE
