"""What happens around a body: middleware, lifespan, `current()`, threads, and whatever a body may raise."""

import asyncio
import contextvars
import gc
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest

import jobq
from jobq import App, Client, Discard, Handler, Job, Retry, errors, testing
from jobq.testing import JobState
from jobq.worker import Worker
from jobq.worker.held import Held
from jobq_memory import MemoryBroker
from tests.core.bench import until

NO_RETRY = Retry(max_retries=0)


# --- who a body is


async def test_a_job_that_has_ended_leaves_nothing_for_the_garbage_collector() -> None:
    app, ended = App(), list[int]()

    @app.task
    async def work(number: int) -> None:
        jobq.current()
        await asyncio.sleep(0)
        ended.append(number)

    async with MemoryBroker() as broker, Client(broker) as client:
        gc.collect()
        gc.disable()
        try:
            async with Worker(app, broker, concurrency=5) as worker:
                ids = {handle.id for handle in await client.perform_many(work.call(number) for number in range(50))}
                await until(lambda: len(ended) == 50 and not worker.held)
                left = [thing for thing in gc.get_objects() if isinstance(thing, Held)]
                assert not ids & {held.delivery.job.id for held in left}
        finally:
            gc.enable()


async def test_current_tells_a_body_who_it_is() -> None:
    app, seen = App(), list[jobq.CurrentJob]()

    @app.task(name="work", queue="q", retry=Retry(max_retries=1, backoff=lambda _: 0.0))
    async def work(x: int) -> None:
        seen.append(jobq.current())
        if len(seen) == 1:
            raise ValueError

    async with testing.running(app) as jobs:
        handle = await jobs.client.perform_async(work.options(headers={"trace": "7"}), 1)
        created = jobs.clock.time()
        await jobs.run_until_idle()
    first, second = seen
    assert (first.id, first.task, first.queue, first.attempt) == (handle.id, "work", "q", 1)
    assert (first.enqueued_at, first.headers, first.state) == (created, {"trace": "7"}, {})
    assert (second.id, second.attempt) == (handle.id, 2)
    assert second.epoch > first.epoch
    assert first.cancelled is False


async def test_current_outside_a_job_is_an_error_that_says_where_it_works() -> None:
    with pytest.raises(errors.NoCurrentJob, match=r"outside a job.*in a task"):
        jobq.current()


async def test_a_body_enqueues_more_through_current() -> None:
    app, ran = App(), list[str]()

    @app.task
    async def parent() -> None:
        await jobq.current().client.perform_async(child)
        ran.append("parent")

    @app.task
    async def child() -> None:
        ran.append("child")

    async with testing.running(app) as jobs:
        await jobs.client.perform_async(parent)
        await jobs.run_until_idle()
    assert sorted(ran) == ["child", "parent"]


async def test_current_follows_into_tasks_that_a_body_starts_and_not_into_others() -> None:
    app, seen = App(), dict[str, str]()

    @app.task
    async def work(x: int) -> None:
        async def inner() -> str:
            await asyncio.sleep(0)
            return jobq.current().id

        seen[jobq.current().id] = await asyncio.create_task(inner())

    async with testing.running(app) as jobs:
        await jobs.client.perform_many([work.call(n) for n in range(5)])
        await jobs.run_until_idle()
        with pytest.raises(errors.NoCurrentJob):
            jobq.current()
    assert len(seen) == 5
    assert all(outer == inner for outer, inner in seen.items())


async def test_contextvars_do_not_leak_from_job_to_job() -> None:
    app, seen = App(), list[str | None]()
    var: contextvars.ContextVar[str | None] = contextvars.ContextVar("var", default=None)

    @app.task
    async def work() -> None:
        seen.append(var.get())
        var.set("dirty")

    async with testing.running(app, concurrency=1) as jobs:
        await jobs.client.perform_many([work.call() for _ in range(3)])
        await jobs.run_until_idle()
    assert seen == [None, None, None]


# --- threads


async def test_a_plain_function_runs_in_a_thread_with_current_and_contextvars() -> None:
    app, seen = App(), list[Any]()
    var: contextvars.ContextVar[str] = contextvars.ContextVar("var")

    @app.task
    def work(x: int) -> None:
        seen.append((threading.current_thread() is threading.main_thread(), jobq.current().id, var.get()))

    @app.middleware
    async def wrap(job: Job, call_next: Handler) -> object:
        var.set(job.id)
        return await call_next(job)

    async with testing.running(app) as jobs:
        handle = await jobs.client.perform_async(work, 1)
        await jobs.run_until_idle()
    assert seen == [(False, handle.id, handle.id)]


async def test_as_many_threads_run_at_once_as_the_concurrency_allows() -> None:
    app, together = App(), threading.Barrier(8)

    @app.task
    def work() -> None:
        together.wait(timeout=10)

    async with testing.running(app, concurrency=8) as jobs:
        await jobs.client.perform_many([work.call() for _ in range(16)])
        await jobs.run_until_idle(timeout=20)
        assert jobs.dead == []
        assert {jobs.state(enqueued.job.id) for enqueued in jobs.enqueued()} == {JobState.DONE}


async def test_a_thread_is_asked_to_stop_by_cancelled_and_its_end_counts() -> None:
    app, asked = App(), threading.Event()

    @app.task(timeout=10, retry=NO_RETRY)
    def loop() -> None:
        while not jobq.current().cancelled:
            pass
        asked.set()

    async with testing.running(app) as jobs:
        handle = await jobs.client.perform_async(loop)
        await jobs.advance(11)
        await jobs.run_until_idle()
        assert asked.is_set()
        assert jobs.state(handle) is JobState.DONE


async def test_a_thread_over_its_timeout_keeps_its_slot_until_it_returns() -> None:
    app, go, ran = App(), threading.Event(), list[str]()

    @app.task(timeout=10, retry=NO_RETRY)
    def stuck() -> None:
        go.wait()
        ran.append("stuck")

    @app.task
    async def other() -> None:
        ran.append("other")

    async with testing.running(app, concurrency=1) as jobs:
        handle = await jobs.client.perform_async(stuck)
        await until(lambda: jobs.worker.running)
        await jobs.client.perform_async(other)
        await jobs.advance(100)
        assert (ran, jobs.state(handle)) == ([], JobState.RUNNING)
        go.set()
        await jobs.run_until_idle()
    assert ran == ["stuck", "other"]


async def test_what_a_thread_raises_is_the_jobs_failure() -> None:
    app = App()

    @app.task(retry=NO_RETRY)
    def work() -> None:
        raise LookupError("in a thread")

    @app.task(retry=NO_RETRY)
    def leave() -> None:
        raise SystemExit(3)

    @app.task(retry=NO_RETRY)
    def stop() -> None:
        raise StopIteration

    async with testing.running(app) as jobs:
        for task in (work, leave, stop):
            await jobs.client.perform_async(task)
            await jobs.run_until_idle()
        found = [dead.error for dead in jobs.dead]
    assert found[0] == "LookupError: in a thread"
    assert "SystemExit: 3" in found[1]
    assert len(found) == 3


# --- middleware and lifespan


async def test_middleware_wraps_from_the_first_to_the_last_and_sees_the_value() -> None:
    app, log = App(), list[object]()

    @app.task(name="work")
    async def work() -> str:
        log.append("body")
        return "value"

    @app.middleware
    async def outer(job: Job, call_next: Handler) -> object:
        log.append(("outer", job.task, jobq.current().id == job.id))
        value = await call_next(job)
        log.append(("outer got", value))
        return value

    @app.middleware
    async def inner(job: Job, call_next: Handler) -> object:
        log.append("inner")
        return await call_next(job)

    async with testing.running(app) as jobs:
        await jobs.client.perform_async(work)
        await jobs.run_until_idle()
    assert log == [("outer", "work", True), "inner", "body", ("outer got", "value")]


async def test_middleware_sees_a_bodys_exception_and_may_swallow_it() -> None:
    app, seen = App(), list[BaseException]()

    @app.task
    async def work() -> None:
        raise ValueError("bad")

    @app.middleware
    async def swallow(job: Job, call_next: Handler) -> object:
        try:
            return await call_next(job)
        except ValueError as exc:
            seen.append(exc)
            return None

    async with testing.running(app) as jobs:
        handle = await jobs.client.perform_async(work)
        await jobs.run_until_idle()
        assert jobs.state(handle) is JobState.DONE
    assert len(seen) == 1


async def test_an_exception_of_middleware_is_a_failure_of_the_job_and_can_be_a_verdict() -> None:
    app, ran = App(), list[str]()

    @app.task(name="a", retry=NO_RETRY)
    async def a() -> None:
        ran.append("a")

    @app.task(name="b")
    async def b() -> None:
        ran.append("b")

    @app.middleware
    async def refuse(job: Job, call_next: Handler) -> object:
        if job.task == "b":
            raise Discard("not wanted")
        raise PermissionError("no")

    async with testing.running(app) as jobs:
        await jobs.client.perform_async(a)
        cancelled = await jobs.client.perform_async(b)
        await jobs.run_until_idle()
        assert [dead.error for dead in jobs.dead] == ["PermissionError: no"]
        assert jobs.state(cancelled) is JobState.CANCELLED
    assert ran == []


async def test_middleware_may_leave_the_body_out() -> None:
    app, ran = App(), list[str]()

    @app.task
    async def work() -> None:
        ran.append("body")

    @app.middleware
    async def skip(job: Job, call_next: Handler) -> object:
        return None

    async with testing.running(app) as jobs:
        handle = await jobs.client.perform_async(work)
        await jobs.run_until_idle()
        assert jobs.state(handle) is JobState.DONE
    assert ran == []


async def test_middleware_that_is_no_coroutine_function_fails_the_job_and_not_the_worker() -> None:
    app = App()

    @app.task(name="work", retry=NO_RETRY)
    async def work() -> None: ...

    @app.middleware  # type: ignore[type-var]
    def wrong(job: Job, call_next: Handler) -> object:
        return None

    async with testing.running(app) as jobs:
        await jobs.client.perform_async(work)
        await jobs.run_until_idle()
        assert jobs.dead[0].error.startswith("TypeError")


async def test_middleware_registered_after_the_start_is_not_seen_by_a_running_worker() -> None:
    app, log = App(), list[str]()

    @app.task
    async def work() -> None: ...

    async with testing.running(app) as jobs:

        @app.middleware
        async def late(job: Job, call_next: Handler) -> object:
            log.append("late")
            return await call_next(job)

        await jobs.client.perform_async(work)
        await jobs.run_until_idle()
    assert log == []


async def test_state_is_what_the_lifespan_yields_and_it_outlives_the_last_job() -> None:
    app, log = App(), list[object]()

    @app.task
    async def work() -> None:
        log.append(jobq.current().state["pool"])

    @app.lifespan
    @asynccontextmanager
    async def life() -> AsyncGenerator[dict[str, object]]:
        yield {"pool": "open"}
        log.append("closed")

    async with testing.running(app) as jobs:
        await jobs.client.perform_async(work)
        await jobs.run_until_idle()
        assert log == ["open"]
    assert log == ["open", "closed"]


async def test_a_lifespan_that_fails_to_start_fails_the_worker_and_closes_what_was_open(
    memory: MemoryBroker,
) -> None:
    app = App()

    @app.lifespan
    @asynccontextmanager
    async def life() -> AsyncGenerator[dict[str, object]]:
        if not app.registry.tasks:
            raise RuntimeError("no database")
        yield {}

    worker = Worker(app, "memory://")
    with pytest.raises(RuntimeError, match=r"no database"):
        await worker.run()
    with pytest.raises(errors.ConfigError, match=r"works once"):
        await worker.run()


# --- what a body may raise


class Unprintable(Exception):
    def __str__(self) -> str:
        raise ValueError("even this fails")

    __repr__ = __str__


RAISES: list[tuple[BaseException, str]] = [
    (ValueError("plain"), "ValueError: plain"),
    (ValueError(), "ValueError"),
    (SystemExit(1), "JobAborted: the body raised SystemExit: 1"),
    (KeyboardInterrupt(), "JobAborted: the body raised KeyboardInterrupt"),
    (GeneratorExit(), "JobAborted: the body raised GeneratorExit"),
    (asyncio.CancelledError("own"), "JobAborted: the body raised CancelledError: own"),
    (TimeoutError("own"), "TimeoutError: own"),
    (Unprintable(), "Unprintable: <its __str__ raised ValueError>"),
    (ValueError("lone \ud800 surrogate"), "ValueError: lone ? surrogate"),
    (ValueError("x" * 1_000_000), "ValueError: " + "x" * 2000),
    (ValueError("nul \0 esc \x1b[31m"), "ValueError: nul \0 esc \x1b[31m"),
    (ExceptionGroup("several", [ValueError("a"), KeyError("b")]), "ExceptionGroup: several (2 sub-exceptions)"),
    (BaseExceptionGroup("base", [SystemExit()]), "JobAborted: the body raised BaseExceptionGroup"),
    (StopAsyncIteration(), "StopAsyncIteration"),
    (RecursionError("deep"), "RecursionError: deep"),
    (MemoryError("full"), "MemoryError: full"),
    (errors.BrokerUnavailable("mine"), "BrokerUnavailable: mine"),
]


@pytest.mark.parametrize(("exc", "error"), RAISES, ids=lambda v: type(v).__name__)
async def test_whatever_a_body_raises_is_one_failure_and_the_worker_goes_on(exc: BaseException, error: str) -> None:
    app, ran = App(), list[str]()

    @app.task(retry=NO_RETRY)
    async def bad() -> None:
        await asyncio.sleep(0)
        raise exc

    @app.task
    async def good() -> None:
        ran.append("good")

    async with testing.running(app) as jobs:
        await jobs.client.perform_async(bad)
        await jobs.run_until_idle()
        await jobs.client.perform_async(good)
        await jobs.run_until_idle()
        (dead,) = jobs.dead
        assert dead.error.startswith(error)
        assert len(dead.error) < 2100
        assert dead.trail.attempt == 1
    assert ran == ["good"]


async def test_a_failure_keeps_the_traceback_to_the_line() -> None:
    app = App()

    def deep() -> None:
        raise ValueError("here")

    @app.task(retry=NO_RETRY)
    async def bad(x: int) -> None:
        deep()

    async with testing.running(app) as jobs:
        handle = await jobs.client.perform_async(bad, 7)
        await jobs.run_until_idle()
        (dead,) = jobs.dead
        failure = dead.trail.failure
        assert failure is not None
        assert "in deep" in failure.traceback
        assert 'raise ValueError("here")' in failure.traceback
        assert failure.traceback.rstrip().endswith("ValueError: here")
        assert (dead.job.id, bytes(dead.job.body)) == (handle.id, b'{"args":[7]}')


async def test_a_body_that_cancels_itself_has_failed() -> None:
    app = App()

    @app.task(retry=NO_RETRY)
    async def suicidal() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    async with testing.running(app) as jobs:
        await jobs.client.perform_async(suicidal)
        await jobs.run_until_idle()
        assert jobs.dead[0].error == "JobAborted: the body raised CancelledError"


async def test_a_body_may_use_timeouts_and_task_groups_of_its_own() -> None:
    app, ran = App(), list[str]()

    @app.task(timeout=60)
    async def work() -> None:
        try:
            async with asyncio.timeout(0):
                await asyncio.Event().wait()
        except TimeoutError:
            ran.append("timeout")
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(asyncio.sleep(60))
                raise LookupError
        except* LookupError:
            ran.append("group")

    async with testing.running(app) as jobs:
        handle = await jobs.client.perform_async(work)
        await jobs.run_until_idle()
        assert jobs.state(handle) is JobState.DONE
    assert ran == ["timeout", "group"]


async def test_a_task_may_return_anything() -> None:
    app = App()

    @app.task
    async def work() -> object:
        return object()

    async with testing.running(app) as jobs:
        handle = await jobs.client.perform_async(work)
        await jobs.run_until_idle()
        assert jobs.state(handle) is JobState.DONE


async def test_a_callable_that_returns_an_awaitable_in_a_thread_is_not_left_unawaited() -> None:
    app, ran = App(), list[int]()

    class Service:
        async def __call__(self, x: int) -> None:
            ran.append(x)

    task = app.task(name="service")(Service())
    async with testing.running(app) as jobs:
        await jobs.client.perform_async(task, 5)
        await jobs.run_until_idle()
    assert ran == [5]
