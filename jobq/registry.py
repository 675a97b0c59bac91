"""Tasks and what surrounds them: names to functions, and nothing outside this table is ever run."""

import inspect
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Generic, ParamSpec, Self, TypeVar, cast

from msgspec import Raw, Struct

from jobq._checks import (
    check_flag,
    check_headers,
    check_id,
    check_name,
    check_priority,
    check_queue,
    check_seconds,
    check_whole,
)
from jobq._retry import Retry
from jobq._signature import Signature
from jobq.codec import MAX_ENVELOPE
from jobq.errors import ConfigError
from jobq.middleware import Middleware
from jobq.model import DEFAULT_PRIORITY, DEFAULT_QUEUE, Job

__all__ = [
    "AsyncTask",
    "Call",
    "FailureHandler",
    "Lifespan",
    "Registry",
    "SyncTask",
    "Task",
    "TaskOptions",
]

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

FailureHandler = Callable[[Job, BaseException], Awaitable[object] | object]
"""Called with the job and what it raised; may be async. What it raises itself is logged and ignored."""
Lifespan = Callable[[], AbstractAsyncContextManager[dict[str, Any]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOptions:
    """How a task's jobs are run. Times are seconds.

    A worker that runs a job goes by its own code: options do not travel with jobs, but for `queue` and `priority`.
    """

    queue: str = DEFAULT_QUEUE
    priority: int = DEFAULT_PRIORITY
    retry: Retry = field(default_factory=Retry)
    timeout: float | None = None
    max_crashes: int = 3
    keep_dead: bool = True
    retry_queue: str | None = None
    on_failure: FailureHandler | None = None
    on_dead: FailureHandler | None = None
    transaction: bool = False

    def __post_init__(self) -> None:
        check_queue(self.queue)
        if self.retry_queue is not None:
            check_queue(self.retry_queue)
        check_priority(self.priority)
        if not isinstance(self.retry, Retry):
            raise ConfigError(f"retry is {self.retry!r}; it is a jobq.Retry, e.g. Retry(max_retries=5)")
        if self.timeout is not None:
            check_seconds("timeout", self.timeout)
        check_whole("max_crashes", self.max_crashes, 1)
        check_flag("keep_dead", self.keep_dead)
        check_flag("transaction", self.transaction)
        for name in ("on_failure", "on_dead"):
            if (handler := getattr(self, name)) is not None and not callable(handler):
                raise ConfigError(f"{name} is {handler!r}; it is a function of (job, exception)")


@dataclass(frozen=True, slots=True, kw_only=True)
class CallOptions:
    """What `task.options(...)` sets for one call; None leaves it to the task."""

    queue: str | None = None
    priority: int | None = None
    id: str | None = None
    headers: dict[str, str] | None = None


class Call(Struct, Generic[R_co], frozen=True, eq=False, gc=False):
    """Arguments bound to a task and already checked and encoded, to be enqueued."""

    task: "Task[..., R_co]"
    body: Raw


class Task(Generic[P, R_co]):
    """A registered function. Calling it just runs it; a client enqueues it."""

    def __init__(self, function: Callable[P, Any], name: str, config: TaskOptions, registry: "Registry") -> None:
        self.function = function
        self.name = name
        self.config = config
        self.registry = registry
        self.signature = Signature(function, name)
        self.overrides = CallOptions()
        self.__doc__ = function.__doc__
        self.__name__ = getattr(function, "__name__", name)
        self.__wrapped__ = function

    def call(self, *args: P.args, **kwargs: P.kwargs) -> Call[R_co]:
        """The task with arguments, to be enqueued later. Raises `TypeError` for arguments that do not fit.

        How large they may be is up to the client.
        """
        return Call(self, self.signature.encode(args, kwargs, MAX_ENVELOPE))

    def options(
        self,
        *,
        queue: str | None = None,
        priority: int | None = None,
        id: str | None = None,  # noqa: A002 - the job's word for it
        headers: dict[str, str] | None = None,
    ) -> Self:
        """The task with other options for the calls made through the result.

        With an `id`, enqueuing it again while the first job lives stores nothing. Raises `ConfigError`.
        """
        if queue is not None:
            check_queue(queue)
        if priority is not None:
            check_priority(priority)
        if id is not None:
            check_id(id)
        if headers is not None:
            check_headers(headers)
        old = self.overrides
        copy = object.__new__(type(self))
        copy.__dict__.update(self.__dict__)
        copy.overrides = CallOptions(
            queue=queue or old.queue,
            priority=old.priority if priority is None else priority,
            id=id or old.id,
            headers=old.headers if headers is None else dict(headers),
        )
        return copy

    def __repr__(self) -> str:
        return f"<task {self.name}>"


class AsyncTask(Task[P, R_co]):
    """A registered coroutine function."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R_co]:
        """Just run the function."""
        return cast("Coroutine[Any, Any, R_co]", self.function(*args, **kwargs))


class SyncTask(Task[P, R_co]):
    """A registered plain function; a worker runs it in a thread."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Just run the function."""
        return cast("R_co", self.function(*args, **kwargs))


class Registry:
    """What an app knows."""

    def __init__(self) -> None:
        self.tasks: dict[str, Task[..., object]] = {}
        self.middlewares: list[Middleware] = []
        self.enqueue_middlewares: list[Middleware] = []
        self.lifespan: Lifespan | None = None

    def add(self, function: Callable[..., Any], name: str | None, options: TaskOptions) -> Task[..., Any]:
        """Register `function`. Raises `ConfigError` if its name is taken or cannot be one."""
        name = name or str(getattr(function, "__qualname__", type(function).__qualname__))
        check_name(name)
        if (other := self.tasks.get(name)) is not None:
            raise ConfigError(
                f"two tasks are named {name!r}: {_place(other.function)} and {_place(function)}. Give one of them name="
            )
        task: Task[..., Any]
        if inspect.iscoroutinefunction(function):
            task = AsyncTask[..., Any](function, name, options, self)
        elif options.transaction:
            raise ConfigError(f"the task {name!r} is to run in a transaction, for which it must be an async def")
        else:
            task = SyncTask[..., Any](function, name, options, self)
        self.tasks[name] = task
        return task


def _place(function: Callable[..., object]) -> str:
    code = getattr(function, "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else repr(function)
