"""`jobq.testing.running`: an app's jobs run inside a test, on a clock that the test moves."""

import asyncio
import re
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

import jobq
from jobq import App, Discard, Handler, Job, Retry, Snooze, testing
from jobq.testing import JobState
from tests.core.bench import until


async def test_a_job_runs_when_the_test_says_so() -> None:
    app, ran = App(), list[int]()

    @app.task
    async def work(x: int) -> None:
        ran.append(x)

    async with testing.running(app) as jobs:
        handle = await jobs.client.perform_async(work, 42)
        await jobs.run_until_idle()
        assert ran == [42]
        assert jobs.state(handle) is JobState.DONE


async def test_a_delayed_job_is_never_early_and_runs_in_its_moment() -> None:
    app, times = App(), list[float]()

    async with testing.running(app) as jobs:

        @app.task(name="late")
        async def unknown_to_the_running_worker() -> None: ...

    @app.task
    async def work() -> None:
        times.append(jobs.clock.time())

    async with testing.running(app) as jobs:
        start = jobs.clock.time()
        handle = await jobs.client.perform_in(3600.5, work)
        await jobs.run_until_idle()
        assert (times, jobs.state(handle)) == ([], JobState.SCHEDULED)
        await jobs.advance(3600.4)
        assert times == []
        await jobs.advance(timedelta(days=2))
        assert times == [start + 3600.5]


async def test_retries_run_as_time_goes_by_until_the_job_is_dead() -> None:
    app, attempts = App(), list[int]()

    @app.task(retry=Retry(max_retries=2, backoff=lambda n: 60.0 * (n + 1)))
    async def fail() -> None:
        attempts.append(jobq.current().attempt)
        raise ValueError(f"no {len(attempts)}")

    async with testing.running(app) as jobs:
        handle = await jobs.client.perform_async(fail)
        await jobs.run_until_idle()
        assert attempts == [1]
        await jobs.advance(59)
        assert attempts == [1]
        await jobs.advance(1)
        assert attempts == [1, 2]
        await jobs.advance(120)
        (dead,) = jobs.dead
        assert dead.error == "ValueError: no 3"
        assert dead.trail.attempt == 3
        assert jobs.state(handle) is JobState.DEAD


async def test_drain_runs_everything_to_its_end() -> None:
    app, ends = App(), list[str]()

    @app.task(retry=Retry(max_retries=25))
    async def flaky() -> None:
        if jobq.current().attempt < 20:
            raise ValueError
        ends.append("flaky")

    @app.task
    async def parent() -> None:
        await jobq.current().client.perform_in(86_400, child)
        ends.append("parent")

    @app.task
    async def child() -> None:
        ends.append("child")

    async with testing.running(app) as jobs:
        await jobs.client.perform_async(flaky)
        await jobs.client.perform_async(parent)
        await jobs.drain()
        assert sorted(ends) == ["child", "flaky", "parent"]
        assert [e.job.task for e in jobs.enqueued()][2].endswith("child")
        assert jobs.enqueued(child)[0].delay == 86_400


async def test_drain_gives_up_on_a_job_that_snoozes_for_ever() -> None:
    app = App()

    @app.task(name="sleepy")
    async def sleepy() -> None:
        raise Snooze(10)

    async with testing.running(app) as jobs:
        await jobs.client.perform_async(sleepy)
        with pytest.raises(TimeoutError, match=r"after 5 steps.*of sleepy"):
            await jobs.drain(limit=5)


async def test_enqueued_shows_the_arguments_as_the_task_gets_them() -> None:
    app = App()

    @app.task
    async def work(pause: timedelta, *, names: set[str]) -> None: ...

    @app.task
    async def other() -> None: ...

    async with testing.running(app) as jobs:
        await jobs.client.perform_async(work.options(queue="bulk"), timedelta(seconds=5), names={"a"})
        await jobs.client.perform_async(other)
        (seen,) = jobs.enqueued(work)
        assert (list(seen.args), dict(seen.kwargs)) == ([timedelta(seconds=5)], {"names": {"a"}})
        assert seen.job.queue == "bulk"
        assert len(jobs.enqueued()) == 2


async def test_duplicates_are_left_out() -> None:
    app, ran = App(), list[int]()

    @app.task
    async def work(x: int) -> None:
        ran.append(x)

    async with testing.running(app) as jobs:
        await jobs.client.perform_in(5, work.options(id="one"), 1)
        await jobs.client.perform_in(5, work.options(id="one"), 2)
        await jobs.drain()
        assert len(jobs.enqueued()) == 1
        assert ran == [1]


async def test_the_worker_looks_at_every_queue_unless_told_otherwise() -> None:
    app, ran = App(), list[str]()

    @app.task
    async def work() -> None:
        ran.append(jobq.current().queue)

    async with testing.running(app) as jobs:
        await jobs.client.perform_async(work.options(queue="never-named-before"))
        await jobs.run_until_idle()
    async with testing.running(app, queues=["mail"]) as jobs:
        elsewhere = await jobs.client.perform_async(work.options(queue="elsewhere"))
        await jobs.client.perform_async(work.options(queue="mail"))
        await until(lambda: len(ran) == 2)
        assert jobs.state(elsewhere) is JobState.READY
    assert ran == ["never-named-before", "mail"]


async def test_middleware_lifespan_and_threads_are_real() -> None:
    app, seen = App(), list[object]()

    @app.task
    def work() -> None:
        seen.append((threading.current_thread() is threading.main_thread(), jobq.current().state["db"]))

    @app.middleware
    async def wrap(job: Job, call_next: Handler) -> object:
        seen.append("before")
        return await call_next(job)

    @app.lifespan
    @asynccontextmanager
    async def life() -> AsyncGenerator[dict[str, object]]:
        seen.append("open")
        yield {"db": 1}
        seen.append("close")

    async with testing.running(app) as jobs:
        await jobs.client.perform_async(work)
        await jobs.run_until_idle()
    assert seen == ["open", "before", (False, 1), "close"]


async def test_a_timeout_is_reached_by_advancing() -> None:
    app, starts = App(), list[float]()

    @app.task(timeout=30, retry=Retry(max_retries=1, backoff=lambda _: 5.0))
    async def hang() -> None:
        starts.append(jobs.clock.time())
        await asyncio.Event().wait()

    async with testing.running(app) as jobs:
        start = jobs.clock.time()
        handle = await jobs.client.perform_async(hang)
        await jobs.advance(29)
        assert jobs.state(handle) is JobState.RUNNING
        await jobs.advance(50)
        assert [at - start for at in starts] == pytest.approx([0, 35])
        assert jobs.dead[0].error == "JobTimeout: it ran longer than its timeout of 30 s"


async def test_run_until_idle_names_what_does_not_end() -> None:
    app = App()

    @app.task(name="hang")
    async def hang() -> None:
        await asyncio.Event().wait()

    async with testing.running(app) as jobs:
        handle = await jobs.client.perform_async(hang)
        with pytest.raises(TimeoutError, match=re.escape(f"job {handle.id} of hang")):
            await jobs.run_until_idle(timeout=0.05)


async def test_leaving_ends_at_once_even_if_a_body_does_not() -> None:
    app, go = App(), asyncio.Event()

    @app.task
    async def stubborn() -> None:
        while not go.is_set():
            try:
                await go.wait()
            except asyncio.CancelledError:
                continue

    async with testing.running(app) as jobs:
        await jobs.client.perform_async(stubborn)
        await until(lambda: jobs.worker.running)
    assert len(jobs.worker.wedged) == 1
    go.set()
    await until(lambda: all(held.body is None or held.body.done() for held in jobs.worker.wedged))


async def test_a_discarded_job_is_cancelled_and_not_dead() -> None:
    app = App()

    @app.task
    async def work() -> None:
        raise Discard("gone")

    async with testing.running(app) as jobs:
        handle = await jobs.client.perform_async(work)
        await jobs.run_until_idle()
        assert jobs.state(handle) is JobState.CANCELLED
        assert jobs.dead == []


async def test_two_kits_do_not_see_each_other() -> None:
    app = App()

    @app.task
    async def work() -> None: ...

    async with testing.running(app) as one, testing.running(app) as other:
        await one.client.perform_async(work)
        await one.run_until_idle()
        assert len(one.enqueued()) == 1
        assert other.enqueued() == []


async def test_errors_of_the_lifespan_reach_the_test() -> None:
    app = App()

    @app.lifespan
    @asynccontextmanager
    async def life() -> AsyncGenerator[dict[str, object]]:
        if not app.registry.tasks:
            raise RuntimeError("no database")
        yield {}

    with pytest.raises(RuntimeError, match=r"no database"):
        async with testing.running(app):
            pass
