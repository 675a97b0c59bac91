"""Timeouts: a failure at the right moment, whatever the body does about it."""

import asyncio
import logging
import random

import pytest

from jobq import App, Client, Retry, Snooze, testing
from jobq.model import Delivery, Job
from jobq.testing import JobState, ManualClock
from jobq.worker.deadlines import Deadlines
from jobq.worker.held import Cause, Held, Surroundings
from jobq_memory import MemoryBroker
from tests.core.bench import until

NO_RETRY = Retry(max_retries=0)


async def test_a_body_over_its_timeout_is_cancelled_and_has_failed() -> None:
    app, log = App(), list[str]()

    @app.task(timeout=30, retry=NO_RETRY)
    async def hang() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            log.append("cleaned up")

    async with testing.running(app) as jobs:
        handle = await jobs.client.perform_async(hang)
        await jobs.advance(29.9)
        assert (log, jobs.state(handle)) == ([], JobState.RUNNING)
        await jobs.advance(0.2)
        (dead,) = jobs.dead
    assert log == ["cleaned up"]
    assert dead.error == "JobTimeout: it ran longer than its timeout of 30 s"
    assert dead.trail.failure is not None
    assert "await asyncio.Event().wait()" in dead.trail.failure.traceback


async def test_cleaning_up_after_a_timeout_may_await() -> None:
    app, log = App(), list[str]()

    @app.task(timeout=5, retry=NO_RETRY)
    async def hang() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.01)
            log.append("cleaned up")

    async with testing.running(app) as jobs:
        await jobs.client.perform_async(hang)
        await jobs.advance(6)
        await jobs.run_until_idle()
        assert len(jobs.dead) == 1
    assert log == ["cleaned up"]


async def test_a_timeout_is_retried_like_any_failure_and_each_run_has_its_own() -> None:
    app, starts = App(), list[float]()

    @app.task(timeout=10, retry=Retry(max_retries=2, backoff=lambda _: 5.0, on=(TimeoutError,)))
    async def hang() -> None:
        starts.append(jobs.clock.time() - start)
        await asyncio.Event().wait()

    async with testing.running(app) as jobs:
        start = jobs.clock.time()
        await jobs.client.perform_async(hang)
        await jobs.advance(60)
        assert jobs.dead[0].trail.attempt == 3
    assert starts == pytest.approx([0, 15, 30])


async def test_a_body_that_swallows_its_timeout_and_returns_is_done(caplog: pytest.LogCaptureFixture) -> None:
    app = App()

    @app.task(timeout=10, retry=NO_RETRY)
    async def deaf() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return

    async with testing.running(app) as jobs:
        handle = await jobs.client.perform_async(deaf)
        await jobs.advance(11)
        assert jobs.state(handle) is JobState.DONE
    assert any("longer than its timeout" in record.getMessage() for record in caplog.records)


async def test_a_body_may_turn_its_timeout_into_a_verdict_or_an_error_of_its_own() -> None:
    app = App()

    @app.task(timeout=10, retry=NO_RETRY)
    async def snooze() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise Snooze(1000) from None

    @app.task(timeout=10, retry=NO_RETRY)
    async def fail() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise LookupError("mine") from None

    async with testing.running(app) as jobs:
        snoozed = await jobs.client.perform_async(snooze)
        await jobs.client.perform_async(fail)
        await jobs.advance(11)
        assert jobs.state(snoozed) is JobState.SCHEDULED
        assert [dead.error for dead in jobs.dead] == ["LookupError: mine"]


async def test_many_timeouts_of_different_length_each_end_in_their_moment() -> None:
    app, ended = App(), dict[int, float]()
    lengths = random.sample(range(1, 500), 60)

    def make(seconds: int) -> None:
        @app.task(name=f"t{seconds}", timeout=seconds, retry=NO_RETRY)
        async def hang() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                ended[seconds] = jobs.clock.time() - start

    for seconds in lengths:
        make(seconds)
    async with testing.running(app) as jobs:
        start = jobs.clock.time()
        await jobs.client.perform_many([app.registry.tasks[f"t{seconds}"].call() for seconds in lengths])
        await until(lambda: jobs.worker.running == 60)
        await jobs.clock.run(600)
        await jobs.run_until_idle()
        assert len(jobs.dead) == 60
    assert [ended[seconds] for seconds in lengths] == pytest.approx(lengths, abs=1e-3)


async def test_waiting_for_a_slot_is_not_counted() -> None:
    app, ran = App(), list[str]()
    go = asyncio.Event()

    @app.task
    async def first() -> None:
        await go.wait()

    @app.task(timeout=5)
    async def second() -> None:
        ran.append("second")

    async with testing.running(app, concurrency=1) as jobs:
        await jobs.client.perform_async(first)
        await until(lambda: jobs.worker.running)
        await jobs.client.perform_async(second)
        await jobs.advance(60)
        go.set()
        await jobs.run_until_idle()
    assert ran == ["second"]


async def test_a_job_without_a_timeout_runs_as_long_as_it_likes() -> None:
    app, go = App(), asyncio.Event()

    @app.task
    async def patient() -> None:
        await go.wait()

    async with testing.running(app) as jobs:
        handle = await jobs.client.perform_async(patient)
        await jobs.advance(1000)
        assert jobs.state(handle) is JobState.RUNNING
        go.set()
        await jobs.run_until_idle()
        assert jobs.state(handle) is JobState.DONE


async def test_timeouts_that_were_reached_are_logged_with_the_job(caplog: pytest.LogCaptureFixture) -> None:
    app = App()

    @app.task(name="slow", timeout=2, retry=NO_RETRY)
    async def hang() -> None:
        await asyncio.Event().wait()

    async with testing.running(app) as jobs:
        handle = await jobs.client.perform_async(hang)
        await jobs.advance(3)
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert f"job {handle.id} of slow is over its timeout of 2 s" in warnings


async def test_a_cancellation_before_the_first_step_still_ends_in_an_outcome() -> None:
    """A task that is cancelled before it ran would otherwise vanish without one."""
    delivery = Delivery(Job(id="j", task="t"), 1)
    held, log = Held(delivery, Surroundings("w", Client(MemoryBroker()), {})), list[str]()

    async def body() -> None:
        held.started = True
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            log.append("cancelled inside")

    held.body = asyncio.create_task(body())
    held.cancel(Cause.SHUTDOWN)
    held.cancel(Cause.TIMEOUT)
    await until(lambda: held.body is not None and held.body.done())
    assert log == ["cancelled inside"]
    assert held.cause is Cause.SHUTDOWN


async def test_deadlines_sleep_until_the_earliest_even_when_it_came_last() -> None:
    clock = ManualClock()
    deadlines = Deadlines(clock)
    cancelled = list[str]()

    class Probe(Held):
        def cancel(self, cause: Cause) -> None:
            cancelled.append(f"{self.delivery.job.id} {cause.name} {clock.monotonic():g}")

    async def loop() -> None:
        while True:
            await deadlines.step()

    task = asyncio.create_task(loop())
    await clock.run(1)
    around = Surroundings("w", Client(MemoryBroker()), {})
    probes = {name: Probe(Delivery(Job(id=name, task="t"), n), around) for n, name in enumerate("abc")}
    for name, seconds in (("a", 10.0), ("b", 3.0), ("c", 5.0)):
        probes[name].timeout = seconds
        deadlines.add(probes[name])
    await clock.run(4)
    assert cancelled == ["b TIMEOUT 4"]
    deadlines.discard(probes["c"])
    await clock.run(20)
    assert cancelled == ["b TIMEOUT 4", "a TIMEOUT 11"]
    task.cancel()
