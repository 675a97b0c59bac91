"""The App: where an application says what its jobs are."""

from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar, overload

from jobq._retry import Retry
from jobq.client import Client
from jobq.errors import ConfigError
from jobq.middleware import Middleware
from jobq.model import DEFAULT_PRIORITY, DEFAULT_QUEUE
from jobq.registry import AsyncTask, FailureHandler, Lifespan, Registry, SyncTask, TaskOptions

__all__ = ["App"]

P = ParamSpec("P")
R = TypeVar("R")
M = TypeVar("M", bound=Middleware)
L = TypeVar("L", bound=Lifespan)


class _Decorator:
    """What `app.task(...)` returns."""

    def __init__(self, registry: Registry, name: str | None, options: TaskOptions) -> None:
        self._registry = registry
        self._name = name
        self._options = options

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, function: Callable[P, R], /) -> SyncTask[P, R]: ...
    def __call__(self, function: Callable[P, Any], /) -> Any:
        return self._registry.add(function, self._name, self._options)


class App:
    """A set of tasks and what surrounds them. It holds no connection, and several clients and workers may share it."""

    def __init__(self) -> None:
        self.registry = Registry()

    @overload
    def task(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...  # type: ignore[overload-overlap]
    @overload
    def task(self, function: Callable[P, R], /) -> SyncTask[P, R]: ...
    @overload
    def task(
        self,
        /,
        *,
        name: str | None = None,
        queue: str = DEFAULT_QUEUE,
        retry: Retry | None = None,
        timeout: float | None = None,
        priority: int = DEFAULT_PRIORITY,
        max_crashes: int = 3,
        keep_dead: bool = True,
        retry_queue: str | None = None,
        on_failure: FailureHandler | None = None,
        on_dead: FailureHandler | None = None,
        transaction: bool = False,
    ) -> _Decorator: ...
    def task(self, function: Callable[P, Any] | None = None, /, *, name: str | None = None, **options: Any) -> Any:
        """Register a function as a task: `@app.task` or `@app.task(queue="mail", …)`.

        A coroutine function runs on the worker's event loop, a plain one in a thread. `name` is the task's name in
        stored jobs, by default the function's `__qualname__`. `retry` (default: 25 retries with backoff), `timeout`
        (seconds, default none), `priority` (0 to 4), `max_crashes` (runs that may die with their worker),
        `keep_dead` (keep dead jobs, default yes), `retry_queue` (where retries wait and run), `on_failure` and
        `on_dead` (called with the job and the exception when it will, and will not, run again), `transaction` (run in
        a transaction whose commit is also the job's end, default no) are explained in docs/tasks.md. Raises
        `ConfigError` for an option that cannot be right and for a name that is taken.
        """
        if options.get("retry", ...) is None:
            del options["retry"]
        decorator = _Decorator(self.registry, name, TaskOptions(**options))
        if function is None:
            return decorator
        if not callable(function):
            raise ConfigError(f"@app.task was given {function!r}, which is no function; options go by name")
        return decorator(function)

    def middleware(self, middleware: M) -> M:
        """Wrap every job in the worker: `async def mine(job, call_next)`. The first one registered is outermost."""
        self.registry.middlewares.append(middleware)
        return middleware

    def enqueue_middleware(self, middleware: M) -> M:
        """Wrap every enqueue in the client; what it passes to `call_next` is what is stored."""
        self.registry.enqueue_middlewares.append(middleware)
        return middleware

    def lifespan(self, lifespan: L) -> L:
        """Run an async context manager around a worker's life; the dict it yields is `current().state` in jobs."""
        if self.registry.lifespan is not None:
            raise ConfigError("the app has a lifespan already; combine them with contextlib.AsyncExitStack")
        self.registry.lifespan = lifespan
        return lifespan

    def client(self, url: str, *, timeout: float = 5.0, outbox: str | None = None) -> Client:
        """A client for `url`, to be used as `async with app.client("sqlite:///jobs.db") as client`.

        `timeout` (seconds) bounds how long an enqueue keeps trying. `outbox` (a URL) is where `client.within` stores
        jobs (docs/outbox.md). Raises `ConfigError` for a bad URL.
        """
        return Client(url, timeout=timeout, outbox=outbox)
