"""The clock for tests keeps the promises of `jobq.clock.Clock`, and moves only when told to."""

import asyncio
import threading

import pytest

from jobq.clock import Clock
from jobq.testing import ManualClock


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_time_stands_still_until_it_is_advanced() -> None:
    clock = ManualClock(100.0)
    protocol: Clock = clock
    assert (protocol.time(), protocol.monotonic()) == (100.0, 0.0)
    clock.advance(2.5)
    assert (clock.time(), clock.monotonic()) == (102.5, 2.5)


async def test_sleepers_wake_in_the_order_of_their_times() -> None:
    clock, woken = ManualClock(), list[int]()

    async def sleeper(seconds: int) -> None:
        await clock.sleep(seconds)
        woken.append(seconds)

    async with asyncio.TaskGroup() as group:
        for seconds in (3, 1, 2, 4):
            group.create_task(sleeper(seconds))
        await settle()
        assert clock.sleeping == 4
        clock.advance(3)
        await settle()
        assert woken == [1, 2, 3]
        clock.advance(1)
    assert woken == [1, 2, 3, 4]


async def test_a_sleeper_is_not_woken_early() -> None:
    clock = ManualClock()
    task = asyncio.create_task(clock.sleep(10))
    await settle()
    clock.advance(9.999)
    await settle()
    assert not task.done()
    clock.advance(0.001)
    await task


async def test_wait_returns_true_as_soon_as_the_event_is_set() -> None:
    clock, event = ManualClock(), asyncio.Event()
    task = asyncio.create_task(clock.wait(event, 10))
    await settle()
    event.set()
    assert await task
    assert clock.sleeping == 0


async def test_wait_returns_false_when_the_time_has_passed() -> None:
    clock = ManualClock()
    task = asyncio.create_task(clock.wait(asyncio.Event(), 10))
    await settle()
    clock.advance(10)
    assert not await task


async def test_wait_without_an_end_ends_with_the_event() -> None:
    clock, event = ManualClock(), asyncio.Event()
    task = asyncio.create_task(clock.wait(event, None))
    await settle()
    clock.advance(1e9)
    await settle()
    assert not task.done()
    event.set()
    assert await task


@pytest.mark.parametrize("seconds", [0, -1])
async def test_what_has_passed_already_is_not_waited_for(seconds: float) -> None:
    clock = ManualClock()
    await clock.sleep(seconds)
    assert not await clock.wait(asyncio.Event(), seconds)


async def test_a_cancelled_sleeper_is_forgotten() -> None:
    clock = ManualClock()
    task = asyncio.create_task(clock.sleep(1))
    await settle()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert clock.sleeping == 0
    clock.advance(1)


async def test_a_cancellation_from_outside_is_not_taken_for_the_end_of_the_wait() -> None:
    clock = ManualClock()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await clock.sleep(1)


async def test_run_lets_a_periodic_sleeper_wake_at_each_of_its_times() -> None:
    clock, times = ManualClock(0.0), list[float]()

    async def periodic() -> None:
        while True:
            await clock.sleep(10)
            times.append(clock.time())

    task = asyncio.create_task(periodic())
    await clock.run(35)
    task.cancel()
    assert times == [10, 20, 30]
    assert clock.time() == 35


async def test_a_step_back_changes_the_time_of_day_and_nobodys_sleep() -> None:
    clock = ManualClock(1000.0)
    task = asyncio.create_task(clock.sleep(5))
    await settle()
    clock.step(-600)
    assert (clock.time(), clock.monotonic()) == (400.0, 0.0)
    clock.advance(5)
    await task


def test_it_advances_only_forwards() -> None:
    with pytest.raises(ValueError, match="step"):
        ManualClock().advance(-1)


async def test_it_wakes_sleepers_on_the_loops_of_other_threads() -> None:
    clock, asleep = ManualClock(), threading.Barrier(3)
    woken = list[float]()

    async def sleeper() -> None:
        asyncio.get_running_loop().call_soon(asleep.wait)
        await clock.sleep(60)
        woken.append(clock.time())

    threads = [threading.Thread(target=asyncio.run, args=(sleeper(),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    await asyncio.to_thread(asleep.wait)
    clock.advance(60)
    for thread in threads:
        await asyncio.to_thread(thread.join)
    assert woken == [clock.time()] * 2
