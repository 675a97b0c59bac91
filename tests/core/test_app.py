"""Registration: names, options, and the error that a mistake deserves, where it is made."""

import asyncio
import re
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from jobq import App, AsyncTask, Handler, Job, Retry, SyncTask, errors, testing
from jobq.registry import TaskOptions


async def test_a_task_stays_an_ordinary_function() -> None:
    app = App()

    @app.task
    async def double(x: int, *, plus: int = 0) -> int:
        """Twice x."""
        return 2 * x + plus

    @app.task(queue="q")
    def triple(x: int) -> int:
        return 3 * x

    assert await double(21, plus=1) == 43
    assert triple(5) == 15
    assert (double.__name__, double.__doc__) == ("double", "Twice x.")
    assert isinstance(double, AsyncTask)
    assert isinstance(triple, SyncTask)
    coroutine = double(1)
    assert asyncio.iscoroutine(coroutine)
    coroutine.close()


def test_a_name_is_the_qualname_unless_it_is_given() -> None:
    app = App()

    @app.task
    def one() -> None: ...

    @app.task(name="mail.send:v2")
    def two() -> None: ...

    assert one.name == "test_a_name_is_the_qualname_unless_it_is_given.<locals>.one"
    assert two.name == "mail.send:v2"
    assert set(app.registry.tasks) == {one.name, two.name}


def test_a_name_that_is_taken_is_an_error_that_names_both_places() -> None:
    app = App()

    def one() -> None: ...
    def two() -> None: ...

    app.task(name="same")(one)
    first, second = one.__code__.co_firstlineno, two.__code__.co_firstlineno
    with pytest.raises(errors.ConfigError) as caught:
        app.task(name="same")(two)
    assert re.search(rf"'same'.*test_app\.py:{first} and .*test_app\.py:{second}\. .*name=", str(caught.value))
    assert app.registry.tasks["same"].function is one


def test_two_apps_may_use_the_same_names() -> None:
    def work() -> None: ...

    assert App().task(name="same")(work).name == App().task(name="same")(work).name


BAD_OPTIONS: list[tuple[dict[str, Any], str]] = [
    ({"name": "has space"}, "'has space' cannot name a task"),
    ({"name": "x" * 201}, "cannot name a task"),
    ({"name": "a\nb"}, "cannot name a task"),
    ({"name": "a\n"}, "cannot name a task"),
    ({"queue": "a b"}, "'a b' cannot name a queue"),
    ({"queue": ""}, "'' cannot name a queue"),
    ({"queue": "q\n"}, "cannot name a queue"),
    ({"queue": "a}:b"}, "cannot name a queue"),
    ({"queue": 5}, "5 cannot name a queue"),
    ({"retry_queue": "ü"}, "'ü' cannot name a queue"),
    ({"priority": 5}, "priority is 5"),
    ({"priority": -1}, "priority is -1"),
    ({"priority": True}, "priority is True"),
    ({"priority": 1.0}, "priority is 1.0"),
    ({"priority": "high"}, "priority is 'high'"),
    ({"timeout": 0}, "timeout is 0"),
    ({"timeout": -1}, "timeout is -1"),
    ({"timeout": float("nan")}, "timeout is nan"),
    ({"timeout": "60"}, "timeout is '60'"),
    ({"max_crashes": 0}, "max_crashes is 0"),
    ({"timeout": float("inf")}, "timeout is inf"),
    ({"max_crashes": "3"}, "max_crashes is '3'"),
    ({"max_crashes": float("nan")}, "max_crashes is nan"),
    ({"max_crashes": 2.5}, "max_crashes is 2.5; it is a whole number"),
    ({"max_crashes": True}, "max_crashes is True"),
    ({"keep_dead": "no"}, "keep_dead is 'no'; it is True or False"),
    ({"keep_dead": None}, "keep_dead is None"),
    ({"retry": 5}, "retry is 5"),
    ({"retry": {"max_retries": 5}}, "retry is {'max_retries': 5}"),
    ({"on_dead": "handler"}, "on_dead is 'handler'"),
    ({"on_failure": 1}, "on_failure is 1"),
]


@pytest.mark.parametrize(("options", "message"), BAD_OPTIONS, ids=repr)
def test_an_option_that_cannot_be_right_is_an_error_that_says_what_can(options: dict[str, Any], message: str) -> None:
    app = App()

    def work() -> None: ...

    with pytest.raises(errors.ConfigError, match=re.escape(message)):
        app.task(**options)(work)
    assert app.registry.tasks == {}


def test_an_unknown_option_is_an_error_that_names_it() -> None:
    app: Any = App()
    with pytest.raises(TypeError, match=r"retries"):
        app.task(retries=3)


@pytest.mark.parametrize("what", [5, "name", None])
def test_decorating_what_is_no_function_is_an_error(what: object) -> None:
    app: Any = App()
    with pytest.raises((errors.ConfigError, TypeError)):
        app.task(what)(what)


BAD_RETRIES: list[tuple[dict[str, Any], str]] = [
    ({"max_retries": -1}, "max_retries is -1"),
    ({"max_retries": "3"}, "max_retries is '3'"),
    ({"max_retries": 2.5}, "max_retries is 2.5; it is a whole number, at least 0"),
    ({"max_retries": float("nan")}, "max_retries is nan"),
    ({"max_retries": True}, "max_retries is True"),
    ({"backoff": 5}, "backoff is 5"),
    ({"on": ValueError}, "on is <class 'ValueError'>"),
    ({"on": ("ValueError",)}, "on is"),
    ({"never_on": (int,)}, "never_on is"),
]


@pytest.mark.parametrize(("options", "message"), BAD_RETRIES, ids=str)
def test_a_retry_that_cannot_be_right_is_an_error(options: dict[str, Any], message: str) -> None:
    with pytest.raises(errors.ConfigError, match=re.escape(message)):
        Retry(**options)


BAD_CALL_OPTIONS: list[tuple[dict[str, Any], str]] = [
    ({"queue": "a b"}, "'a b' cannot name a queue"),
    ({"queue": ""}, "'' cannot name a queue"),
    ({"priority": 9}, "priority is 9"),
    ({"id": ""}, "'' cannot be a job id"),
    ({"id": "a b"}, "'a b' cannot be a job id"),
    ({"id": "x" * 201}, "cannot be a job id"),
    ({"id": 7}, "7 cannot be a job id"),
    ({"headers": {"a": 1}}, "headers"),
    ({"headers": "a"}, "headers"),
]


@pytest.mark.parametrize(("options", "message"), BAD_CALL_OPTIONS, ids=str)
def test_a_call_option_that_cannot_be_right_is_an_error_at_the_call(options: dict[str, Any], message: str) -> None:
    app = App()

    @app.task
    def work() -> None: ...

    with pytest.raises(errors.ConfigError, match=re.escape(message)):
        work.options(**options)


def test_options_leave_the_task_as_it_was_and_add_up() -> None:
    app = App()

    @app.task(queue="mail", priority=1)
    def work(x: int) -> int:
        return x

    one = work.options(queue="bulk", headers={"a": "1"})
    two = one.options(priority=4, id="j1")
    assert (work.overrides.queue, one.overrides.queue, two.overrides.queue) == (None, "bulk", "bulk")
    assert (one.overrides.priority, two.overrides.priority, two.overrides.id) == (None, 4, "j1")
    assert two.overrides.headers == {"a": "1"}
    assert (two(3), two.name) == (3, work.name)
    assert one.options(priority=0).overrides.priority == 0


async def test_call_options_win_over_the_tasks() -> None:
    app = App()

    @app.task(queue="mail", priority=1)
    def work() -> None: ...

    async with testing.running(app) as jobs:
        await jobs.client.perform_async(work)
        await jobs.client.perform_async(work.options(queue="bulk", priority=4, id="j1", headers={"a": "1"}))
        await jobs.client.perform_async(work.options(priority=0))
        plain, special, low = (enqueued.job for enqueued in jobs.enqueued())
    assert (plain.queue, plain.priority, plain.headers) == ("mail", 1, None)
    assert (special.queue, special.priority, special.id, special.headers) == ("bulk", 4, "j1", {"a": "1"})
    assert low.priority == 0


def test_a_second_lifespan_is_an_error() -> None:
    app = App()

    @asynccontextmanager
    async def life() -> AsyncGenerator[dict[str, object]]:
        yield {}

    app.lifespan(life)
    with pytest.raises(errors.ConfigError, match=r"lifespan already.*AsyncExitStack"):
        app.lifespan(life)


def test_what_registers_gives_back_what_it_was_given() -> None:
    app = App()

    async def wrap(job: Job, call_next: Handler) -> object:
        return await call_next(job)

    @asynccontextmanager
    async def life() -> AsyncGenerator[dict[str, object]]:
        yield {}

    middleware: list[Callable[..., Any]] = [app.middleware(wrap), app.enqueue_middleware(wrap)]
    assert middleware == [wrap, wrap]
    assert app.lifespan(life) is life


def test_the_defaults_are_those_that_the_docs_promise() -> None:
    options = TaskOptions()
    assert (options.queue, options.priority, options.timeout, options.max_crashes) == ("default", 2, None, 3)
    assert (options.keep_dead, options.retry_queue, options.retry.max_retries) == (True, None, 25)
