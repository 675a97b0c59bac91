"""Retries, verdicts, handlers, and the dead."""

import asyncio
import logging
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import jobq
from jobq import App, Discard, Exponential, Job, Retry, RetryIn, Snooze, testing
from jobq.model import HISTORY_LIMIT, NO_TRAIL, Cancelled, Crash, Delivery, Event, Failure, Happening, Trail
from jobq.registry import TaskOptions
from jobq.testing import JobState
from jobq.worker.outcomes import Scribe

NO_RETRY = Retry(max_retries=0)


# --- the decision


@pytest.mark.parametrize(
    ("retry", "exc", "attempt", "again"),
    [
        (Retry(), ValueError(), 1, True),
        (Retry(), ValueError(), 25, True),
        (Retry(), ValueError(), 26, False),
        (Retry(max_retries=0), ValueError(), 1, False),
        (Retry(on=(LookupError,)), KeyError(), 1, True),
        (Retry(on=(LookupError,)), ValueError(), 1, False),
        (Retry(never_on=(LookupError,)), KeyError(), 1, False),
        (Retry(on=(Exception,), never_on=(KeyError,)), IndexError(), 1, True),
        (Retry(on=()), ValueError(), 1, False),
    ],
)
def test_a_failure_is_retried_as_often_and_after_what_the_task_says(
    retry: Retry, exc: Exception, attempt: int, *, again: bool
) -> None:
    assert (retry.delay_after(exc, attempt) is not None) is again


@given(st.integers(0, 10_000), st.floats(0, 100), st.floats(1, 10), st.floats(0, 1e6))
def test_backoff_is_full_jitter_below_an_exponential_with_a_cap(
    retry: int, base: float, factor: float, cap: float
) -> None:
    delay = Exponential(base, factor, cap)(retry)
    assert 0 <= delay <= cap
    if retry < 20:
        assert delay <= base * factor**retry * (1 + 1e-9)


def test_backoff_is_spread_over_its_whole_range() -> None:
    delays = [Exponential(10)(3) for _ in range(2000)]
    assert min(delays) < 4
    assert max(delays) > 76
    assert 36 < sum(delays) / len(delays) < 44


def test_the_backoff_gets_the_number_of_the_retry_from_zero() -> None:
    retry = Retry(backoff=float)
    assert [retry.delay_after(ValueError(), attempt) for attempt in (1, 2, 3)] == [0, 1, 2]


# --- in a worker


async def test_retries_wait_for_their_backoff_and_count_attempts() -> None:
    app, runs = App(), list[tuple[float, int]]()

    @app.task(retry=Retry(max_retries=3, backoff=lambda n: 10.0 * 2**n))
    async def flaky() -> None:
        runs.append((jobs.clock.time() - start, jobq.current().attempt))
        if len(runs) < 4:
            raise ValueError

    async with testing.running(app) as jobs:
        start = jobs.clock.time()
        handle = await jobs.client.perform_async(flaky)
        await jobs.drain()
        assert jobs.state(handle) is JobState.DONE
    assert [attempt for _, attempt in runs] == [1, 2, 3, 4]
    assert [at for at, _ in runs] == pytest.approx([0, 10, 30, 70], abs=1e-5)


async def test_never_on_is_dead_at_once_and_on_limits_what_is_retried() -> None:
    app = App()
    retry = Retry(max_retries=1, backoff=lambda _: 0.0, never_on=(KeyError,), on=(LookupError,))

    @app.task(retry=retry)
    async def work(kind: str) -> None:
        raise {"key": KeyError, "index": IndexError, "value": ValueError}[kind]("x")

    async with testing.running(app) as jobs:
        for kind in ("key", "index", "value"):
            await jobs.client.perform_async(work, kind)
            await jobs.run_until_idle()
        assert [dead.trail.attempt for dead in jobs.dead] == [1, 2, 1]


def raise_(_: int) -> float:
    raise ZeroDivisionError("in the backoff")


def sys_exit(_: int) -> float:
    raise SystemExit(3)


def answering(value: Any) -> Callable[[int], Any]:
    return lambda _: value


@pytest.mark.parametrize("backoff", [raise_, sys_exit, *map(answering, ["soon", None, float("nan"), float("inf"), -5])])
async def test_a_backoff_that_is_broken_does_not_lose_the_job(backoff: Callable[[int], Any]) -> None:
    app, runs = App(), list[int]()

    @app.task(retry=Retry(max_retries=1, backoff=backoff))
    async def flaky() -> None:
        runs.append(jobq.current().attempt)
        raise ValueError

    async with testing.running(app) as jobs:
        await jobs.client.perform_async(flaky)
        await jobs.advance(3600)
        assert len(jobs.dead) == 1
    assert runs == [1, 2]


async def test_a_broken_backoff_is_named_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    app = App()

    @app.task(name="flaky", retry=Retry(max_retries=1, backoff=raise_))
    async def flaky() -> None:
        raise ValueError

    async with testing.running(app) as jobs:
        await jobs.client.perform_async(flaky)
        await jobs.run_until_idle()
    assert any("backoff" in record.getMessage() for record in caplog.records)


async def test_retries_wait_and_run_in_the_retry_queue() -> None:
    app, queues = App(), list[str]()

    @app.task(queue="fast", retry_queue="slow", retry=Retry(max_retries=2, backoff=lambda _: 5.0))
    async def flaky() -> None:
        queues.append(jobq.current().queue)
        raise ValueError

    async with testing.running(app) as jobs:
        await jobs.client.perform_async(flaky)
        await jobs.drain()
    assert queues == ["fast", "slow", "slow"]


async def test_retry_in_spends_an_attempt_and_has_its_own_delay() -> None:
    app, runs = App(), list[tuple[float, int]]()

    @app.task(retry=Retry(max_retries=2))
    async def again() -> None:
        runs.append((jobs.clock.time() - start, jobq.current().attempt))
        raise RetryIn(7)

    async with testing.running(app) as jobs:
        start = jobs.clock.time()
        await jobs.client.perform_async(again)
        await jobs.drain()
        assert len(jobs.dead) == 1
        assert jobs.dead[0].trail.attempt == 3
    assert [attempt for _, attempt in runs] == [1, 2, 3]
    assert [at for at, _ in runs] == pytest.approx([0, 7, 14])


async def test_retry_in_works_even_where_retries_are_limited_to_other_errors() -> None:
    app, runs = App(), list[int]()

    @app.task(retry=Retry(max_retries=5, on=(LookupError,)))
    async def again() -> None:
        runs.append(1)
        if len(runs) < 3:
            raise RetryIn(1)

    async with testing.running(app) as jobs:
        await jobs.client.perform_async(again)
        await jobs.drain()
        assert jobs.dead == []
    assert len(runs) == 3


async def test_snoozing_for_ever_spends_no_attempt_and_keeps_the_history_short() -> None:
    app, attempts = App(), list[int]()

    @app.task(retry=NO_RETRY)
    async def sleepy() -> None:
        attempts.append(jobq.current().attempt)
        if len(attempts) < 200:
            raise Snooze(60)
        raise ValueError("at last")

    async with testing.running(app) as jobs:
        await jobs.client.perform_async(sleepy)
        await jobs.drain()
        (dead,) = jobs.dead
    assert attempts == [1] * 200
    assert dead.trail.attempt == 1
    assert len(dead.trail.history) == HISTORY_LIMIT
    assert [event.what for event in dead.trail.history] == [Happening.SNOOZED] * (HISTORY_LIMIT - 1) + [Happening.DEAD]


async def test_discard_ends_as_cancelled_calls_no_handler_and_says_why(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "jobq.worker")
    app, called = App(), list[object]()

    def note(job: Job, exc: BaseException) -> None:
        called.append(exc)

    @app.task(on_dead=note, on_failure=note)
    async def work() -> None:
        raise Discard("user left")

    async with testing.running(app) as jobs:
        handle = await jobs.client.perform_async(work)
        await jobs.run_until_idle()
        assert (jobs.state(handle), jobs.dead, called) == (JobState.CANCELLED, [], [])
    assert f"job {handle.id} of {handle.task} was discarded: user left" in caplog.text


def test_the_reason_of_a_discard_is_in_its_outcome() -> None:
    outcome = Scribe("w").after_error(delivery(Trail()), Discard("user left"), TaskOptions(), 100.0)
    assert isinstance(outcome, Cancelled)
    assert outcome.trail.history == (Event(100.0, Happening.CANCELLED, "w", "user left"),)


@pytest.mark.parametrize("kind", [RetryIn, Snooze])
def test_a_verdict_takes_a_timedelta(kind: type[RetryIn | Snooze]) -> None:
    assert (kind(timedelta(minutes=2)).delay, kind(timedelta(seconds=-1)).delay) == (120.0, 0.0)


@pytest.mark.parametrize("delay", [float("nan"), float("inf"), 1e300])
async def test_a_verdict_with_a_delay_that_is_no_time_is_a_failure_of_the_job(delay: float) -> None:
    app = App()

    @app.task(retry=NO_RETRY)
    async def work(kind: str) -> None:
        raise Snooze(delay) if kind == "snooze" else RetryIn(delay)

    async with testing.running(app) as jobs:
        await jobs.client.perform_async(work, "snooze")
        await jobs.client.perform_async(work, "retry")
        await jobs.run_until_idle()
        assert [dead.error.split(":")[0] for dead in jobs.dead] == ["ValueError", "ValueError"]


async def test_keep_dead_false_forgets_the_dead(caplog: pytest.LogCaptureFixture) -> None:
    from jobq import Client  # noqa: PLC0415
    from jobq.worker import Worker  # noqa: PLC0415
    from jobq_memory import MemoryBroker  # noqa: PLC0415
    from tests.core.bench import state_of  # noqa: PLC0415

    app = App()

    @app.task(name="kept", retry=NO_RETRY)
    async def kept() -> None:
        raise ValueError

    @app.task(name="forgotten", retry=NO_RETRY, keep_dead=False)
    async def forgotten() -> None:
        raise ValueError

    async with MemoryBroker() as broker, Client(broker) as client:
        one = await client.perform_async(kept)
        await client.perform_async(forgotten)
        await Worker(app, broker, burst=True).run()
        assert set(state_of(broker).dead) == {one.id}
        assert state_of(broker).jobs == {}
    messages = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert len([text for text in messages if "is dead after attempt 1" in text]) == 2


# --- handlers


async def test_on_failure_is_called_for_what_runs_again_and_on_dead_for_what_does_not() -> None:
    app, called = App(), list[tuple[str, str, str]]()

    def failed(job: Job, exc: BaseException) -> None:
        called.append(("failure", job.task, str(exc)))

    async def died(job: Job, exc: BaseException) -> None:
        await asyncio.sleep(0)
        called.append(("dead", job.task, str(exc)))

    @app.task(name="work", retry=Retry(max_retries=1, backoff=lambda _: 1.0), on_failure=failed, on_dead=died)
    async def work() -> None:
        raise ValueError(f"run {jobq.current().attempt}")

    async with testing.running(app) as jobs:
        await jobs.client.perform_async(work)
        await jobs.drain()
    assert called == [("failure", "work", "run 1"), ("dead", "work", "run 2")]


async def test_a_handler_may_be_async_in_disguise() -> None:
    app, called = App(), list[str]()

    class Handler:
        async def __call__(self, _job: Job, _exc: BaseException) -> None:
            called.append("object")

    async def plain(job: Job, exc: BaseException) -> None:
        called.append("lambda")

    @app.task(retry=Retry(max_retries=1, backoff=lambda _: 0.0), on_failure=Handler(), on_dead=lambda j, e: plain(j, e))  # noqa: PLW0108
    async def work() -> None:
        raise ValueError

    async with testing.running(app) as jobs:
        await jobs.client.perform_async(work)
        await jobs.run_until_idle()
    assert called == ["object", "lambda"]


async def fail_async(job: Job, exc: BaseException) -> None:
    raise LookupError("in the handler")


def fail_sync(job: Job, exc: BaseException) -> None:
    raise LookupError("in the handler")


async def cancel_async(job: Job, exc: BaseException) -> None:
    raise asyncio.CancelledError


def leave(job: Job, exc: BaseException) -> None:
    raise SystemExit(1)


async def leave_async(job: Job, exc: BaseException) -> None:
    raise SystemExit(1)


@pytest.mark.parametrize("handler", [fail_async, fail_sync, cancel_async, leave, leave_async])
async def test_a_handler_that_fails_changes_nothing_for_the_job(
    handler: Callable[[Job, BaseException], Any], caplog: pytest.LogCaptureFixture
) -> None:
    app = App()

    @app.task(retry=Retry(max_retries=1, backoff=lambda _: 0.0), on_failure=handler, on_dead=handler)
    async def work() -> None:
        raise ValueError("the body's")

    async with testing.running(app) as jobs:
        await jobs.client.perform_async(work)
        await jobs.run_until_idle()
        assert [dead.error for dead in jobs.dead] == ["ValueError: the body's"]
    assert len([record for record in caplog.records if "the handler" in record.getMessage()]) == 2


async def test_a_handler_that_hangs_is_given_up_and_the_outcome_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobq.worker.execute.HANDLER_TIMEOUT", 0.05)
    app = App()

    async def hang(job: Job, exc: BaseException) -> None:
        await asyncio.Event().wait()

    @app.task(retry=NO_RETRY, on_dead=hang)
    async def work() -> None:
        raise ValueError("x")

    async with testing.running(app) as jobs:
        await jobs.client.perform_async(work)
        await jobs.run_until_idle()
        assert len(jobs.dead) == 1


# --- what is written down


def delivery(trail: Trail = NO_TRAIL, crashes: tuple[Crash, ...] = ()) -> Delivery:
    return Delivery(Job(id="j", task="t"), 5, trail, crashes)


def test_the_history_says_what_happened_and_when() -> None:
    scribe = Scribe("w1")
    outcome = scribe.after_error(delivery(), ValueError("no"), TaskOptions(), 100.0)
    assert outcome.trail.history == (Event(100.0, Happening.RETRIED, "w1", "ValueError: no"),)
    failure = outcome.trail.failure
    assert failure is not None
    assert (failure.kind, failure.message) == ("ValueError", "no")


def test_crashes_enter_the_history_once() -> None:
    scribe = Scribe("w2")
    crash = Crash(3, 50.0, "w1")
    first = scribe.after_error(delivery(crashes=(crash,)), ValueError(), TaskOptions(), 100.0)
    assert [event.what for event in first.trail.history] == [Happening.CRASHED, Happening.RETRIED]
    second = scribe.after_error(delivery(first.trail, (crash,)), ValueError(), TaskOptions(), 200.0)
    assert [event.what for event in second.trail.history] == [Happening.CRASHED, Happening.RETRIED, Happening.RETRIED]


def test_a_run_forgets_that_the_job_was_parked() -> None:
    outcome = Scribe("w").after_error(delivery(Trail(parked=5.0)), ValueError(), TaskOptions(), 100.0)
    assert outcome.trail.parked is None
    snoozed = Scribe("w").after_error(delivery(Trail(parked=5.0)), Snooze(5), TaskOptions(), 100.0)
    assert snoozed.trail.parked is None


@given(st.text(max_size=5000), st.integers(0, 40))
def test_whatever_was_raised_the_outcome_can_be_stored_and_is_small(text: str, runs: int) -> None:
    from jobq.codec import decode_trail, encode_trail  # noqa: PLC0415

    trail = Trail()
    for n in range(runs):
        trail = Scribe("w").after_error(delivery(trail), ValueError(text), TaskOptions(), float(n)).trail
    data = encode_trail(trail)
    assert decode_trail(data) == trail
    assert len(data) < 150_000
    assert len(trail.history) <= HISTORY_LIMIT
    assert isinstance(trail.failure, Failure) or not runs
