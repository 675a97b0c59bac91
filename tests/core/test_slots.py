"""What a worker holds: room, slots, and the free one for a suspect."""

import asyncio

from msgspec import Raw

from jobq import Client
from jobq.model import Crash, Delivery, Done, Job
from jobq.worker.held import Held, Surroundings
from jobq.worker.slots import Slots
from jobq_memory import MemoryBroker


def held(epoch: int, crashes: int = 0) -> Held:
    notes = tuple(Crash(n, float(n), "w") for n in range(crashes))
    delivery = Delivery(Job(id=str(epoch), task="t", body=Raw(b"{}")), epoch, crashes=notes)
    return Held(delivery, Surroundings("w", Client(MemoryBroker()), {}))


def filled(concurrency: int, jobs: int) -> Slots:
    """All slots taken as far as there are jobs, the rest waiting."""
    slots = Slots(concurrency)
    for epoch in range(1, jobs + 1):
        job = held(epoch)
        slots.add(job)
        slots.queue(job)
    while (taken := slots.take()) is not None:
        taken.body = asyncio.get_running_loop().create_task(asyncio.sleep(0))
    return slots


async def test_a_slot_is_free_as_soon_as_its_body_has_an_outcome() -> None:
    slots = filled(2, 3)
    assert slots.take() is None
    first = slots.held[1]
    slots.settle(first, Done("1", 1))
    assert slots.take() is slots.held[3]


async def test_what_is_not_stored_yet_still_counts_against_the_room() -> None:
    slots = filled(2, 2)
    slots.settle(slots.held[1], Done("1", 1))
    assert slots.room(0.0, settling=0) == 0
    assert slots.room(0.0, settling=1) == 1


async def test_what_ran_fast_a_moment_ago_makes_room_for_20_ms_of_it_and_never_for_more_than_the_slots() -> None:
    slots = Slots(10)
    slots.stored([], 100.0)
    slots.stored([Done(str(epoch), epoch) for epoch in range(200)], 101.0)
    assert slots.room(101.0, settling=0) == 10 + 4
    slots.stored([Done(str(epoch), epoch) for epoch in range(100_000)], 102.0)
    assert slots.room(102.0, settling=0) == 10 + 10


async def test_a_broker_may_ask_for_more_than_the_slots_ahead() -> None:
    slots = Slots(10, 3)
    slots.stored([], 100.0)
    slots.stored([Done(str(epoch), epoch) for epoch in range(100_000)], 101.0)
    assert slots.room(101.0, settling=0) == 10 + 30


async def test_what_has_slowed_down_makes_no_room_until_it_is_measured_anew() -> None:
    slots = Slots(10)
    slots.stored([], 100.0)
    slots.stored([Done(str(epoch), epoch) for epoch in range(100_000)], 101.0)
    slots.slowed_down()
    slots.stored([Done(str(epoch), epoch) for epoch in range(300)], 101.1)
    assert slots.room(101.1, settling=0) == 10
    slots.stored([Done(str(epoch), epoch) for epoch in range(100)], 102.1)
    assert slots.room(102.1, settling=0) == 10 + 2


async def test_what_ran_fast_more_than_a_second_ago_makes_no_room() -> None:
    slots = Slots(10)
    slots.stored([], 100.0)
    slots.stored([Done(str(epoch), epoch) for epoch in range(100_000)], 101.0)
    assert slots.room(102.0, settling=0) == 10 + 10
    assert slots.room(102.1, settling=0) == 10


async def test_a_suspect_is_asked_for_when_it_could_start_at_once() -> None:
    slots = filled(2, 1)
    assert slots.probe(0.0, backlog=False)


async def test_a_slot_that_is_free_is_used_to_ask_and_not_kept_free() -> None:
    slots = Slots(1)
    job = held(1)
    slots.add(job)
    slots.queue(job)
    assert slots.probe(0.0, backlog=True)


async def test_under_a_backlog_that_leaves_slots_free_a_suspect_is_asked_for_now_and_then() -> None:
    slots = filled(2, 1)
    assert slots.probe(0.0, backlog=True)
    slots.queue(held(2))
    assert slots.take() is None, "the slot that is free is for the suspect"
    slots.reserved = 0
    assert slots.take() is not None
    slots.settle(slots.held[1], Done("1", 1))
    assert not slots.probe(0.9, backlog=True)
    assert slots.probe(1.0, backlog=True)


async def test_no_second_suspect_is_asked_for_while_one_is_held() -> None:
    slots = Slots(2)
    slots.add(held(1, crashes=2))
    assert not slots.probe(0.0, backlog=False)


async def test_under_a_lasting_backlog_a_slot_is_kept_free_for_a_suspect_now_and_then() -> None:
    slots = filled(2, 10)
    assert not slots.probe(0.0, backlog=True)
    slots.settle(slots.held[1], Done("1", 1))
    assert slots.take() is None, "the slot is kept for the suspect that may be there"
    assert slots.probe(0.1, backlog=True), "and now it can be asked for"
    slots.reserved = 0
    assert slots.take() is not None
    assert not slots.probe(0.2, backlog=True)
    assert slots.reserved == 0, "not again so soon"
