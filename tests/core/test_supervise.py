"""Loops outlive their errors, and wait longer only while these do not end."""

import asyncio
import logging
from collections.abc import Sequence

import pytest

from jobq.errors import BrokerUnavailable
from jobq.testing import ManualClock
from jobq.worker.supervise import supervise

CAP = 30.0

Step = tuple[float, Exception | None]
"""How long a step takes, and how it ends."""

AWAY = BrokerUnavailable("nobody is there")


def draw(monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    """Make every random number the same share of its range."""

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * share

    monkeypatch.setattr("random.uniform", uniform)


@pytest.fixture(autouse=True)
def _no_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    draw(monkeypatch, 1.0)


async def moments(steps: Sequence[Step], clock: ManualClock, *, cap: float = CAP) -> list[float]:
    """When each of `steps` begins, and when the next one would."""
    begun, left, over = list[float](), iter(steps), asyncio.Event()

    async def step() -> None:
        begun.append(round(clock.monotonic(), 3))
        seconds, error = next(left, (None, None))
        if seconds is None:
            over.set()
            await asyncio.Event().wait()
        else:
            await clock.sleep(seconds)
        if error is not None:
            raise error

    loop = asyncio.create_task(supervise("the loop", step, clock, cap=cap))
    async with asyncio.timeout(10):
        while not over.is_set():
            await clock.run(1)
    loop.cancel()
    await asyncio.gather(loop, return_exceptions=True)
    assert loop.cancelled()
    return begun


async def pauses(steps: Sequence[Step], clock: ManualClock, *, cap: float = CAP) -> list[float]:
    """The pause after each step that failed."""
    begun = await moments(steps, clock, cap=cap)
    ends = [start + step[0] for start, step in zip(begun, steps, strict=False)]
    gaps = [round(after - end, 3) for end, after in zip(ends, begun[1:], strict=True)]
    return [gap for gap, (_, error) in zip(gaps, steps, strict=True) if error is not None]


async def test_steps_that_go_well_follow_at_once(clock: ManualClock) -> None:
    assert await moments([(1, None), (2, None)], clock) == [0, 1, 3]


async def test_pauses_grow_up_to_the_cap_while_every_step_fails(clock: ManualClock) -> None:
    assert await pauses([(0.01, AWAY)] * 7, clock, cap=2) == [0.1, 0.2, 0.4, 0.8, 1.6, 2, 2]


async def test_a_step_that_takes_its_time_to_fail_is_not_in_good_health(clock: ManualClock) -> None:
    assert await pauses([(5, AWAY)] * 5, clock) == [0.1, 0.2, 0.4, 0.8, 1.6]


async def test_a_moment_s_error_every_20_seconds_never_makes_the_pauses_longer(clock: ManualClock) -> None:
    hiccup: list[Step] = [*[(1, None)] * 20, (0.01, AWAY)]
    assert await pauses(hiccup * 10, clock) == [0.1] * 10


async def test_what_fails_every_other_time_waits_longer_and_longer(clock: ManualClock) -> None:
    assert await pauses([(0.01, AWAY), (0.01, None)] * 5, clock) == [0.1, 0.2, 0.4, 0.8, 1.6]


async def test_after_an_outage_the_pauses_are_short_again_once_it_has_gone_well_for_long_enough(
    clock: ManualClock,
) -> None:
    outage: list[Step] = [(0.01, AWAY)] * 12
    too_short: list[Step] = [*[(1, None)] * 9, (0.01, AWAY)]
    long_enough: list[Step] = [*[(1, None)] * 11, (0.01, AWAY)]
    assert (await pauses([*outage, *too_short, *long_enough], clock))[-3:] == [30, 30, 0.1]


async def test_a_step_that_goes_well_without_an_end_is_in_good_health_too(clock: ManualClock) -> None:
    assert await pauses([(0.01, AWAY)] * 4 + [(11, AWAY)], clock) == [0.1, 0.2, 0.4, 0.8, 0.1]


async def test_the_pause_is_a_random_part_of_the_delay(clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    draw(monkeypatch, 0.25)
    assert await pauses([(0.01, AWAY)] * 3, clock) == [0.025, 0.05, 0.1]


async def test_a_broker_s_error_is_one_line_and_any_other_has_its_traceback(
    clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    await moments([(0, AWAY), (0, ZeroDivisionError("a bug"))], clock)
    one, other = caplog.records
    assert (one.levelno, one.getMessage()) == (
        logging.WARNING,
        "the loop: nobody is there; trying again in 0.1 s",
    )
    assert one.exc_info is None
    assert (other.levelno, other.getMessage()) == (logging.ERROR, "the loop failed; trying again in 0.2 s")
    assert other.exc_info is not None
    assert other.exc_info[0] is ZeroDivisionError
