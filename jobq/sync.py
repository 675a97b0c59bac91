"""A client for code that is not async: the same methods, as plain functions, safe to call from any thread."""

import asyncio
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Collection, Coroutine, Iterable, Sequence
from concurrent.futures import Future, wait
from datetime import datetime, timedelta
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Final, ParamSpec, Protocol, Self, TypeVar

from jobq._perform import JobHandle, Performer
from jobq._signature import MAX_PAYLOAD
from jobq.broker import JoinedSync
from jobq.client import Client
from jobq.dead import DeadJobs
from jobq.errors import ConfigError
from jobq.model import DEFAULT_QUEUE, Answer, DeadJob, Job
from jobq.registry import Call, Task

__all__ = ["SyncClient", "SyncDeadJobs", "SyncTransactionClient"]

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

_CLOSED: Final = 'this SyncClient is not open; use it as "with SyncClient(url) as client:"'


class SyncPerformer(ABC):
    """What enqueues from synchronous code."""

    @property
    @abstractmethod
    def _performer(self) -> Performer:
        """What does it on the client's loop."""

    @abstractmethod
    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run it there, and wait for it."""

    def perform_async(self, task: Task[P, R], /, *args: P.args, **kwargs: P.kwargs) -> JobHandle[R]:
        """See `Client.perform_async`."""
        return self._run(self._performer.perform_async(task, *args, **kwargs))

    def perform_in(
        self, delay: float | timedelta, task: Task[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> JobHandle[R]:
        """See `Client.perform_in`."""
        return self._run(self._performer.perform_in(delay, task, *args, **kwargs))

    def perform_at(self, at: datetime, task: Task[P, R], /, *args: P.args, **kwargs: P.kwargs) -> JobHandle[R]:
        """See `Client.perform_at`."""
        return self._run(self._performer.perform_at(at, task, *args, **kwargs))

    def perform_many(self, calls: Iterable[Call[R]]) -> list[JobHandle[R]]:
        """See `Client.perform_many`."""
        # What makes the calls, a database's cursor for one, may belong to this thread, and must not hold up the others.
        return self._run(self._performer.perform_many(list(calls)))


class SyncClient(SyncPerformer):
    """Enqueues jobs from synchronous code: each `perform_*` blocks until the broker has stored them, or raises.

    One instance serves any number of threads, and their calls share round trips. Used as a context manager, or with
    `open()` and `close()`. It runs a `Client` on an event loop in a thread of its own; after a fork, make a new one.
    """

    def __init__(
        self, url: str, *, timeout: float = 5.0, max_payload: int = MAX_PAYLOAD, outbox: str | None = None
    ) -> None:
        self._client = Client(url, timeout=timeout, max_payload=max_payload, outbox=outbox)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._calls: set[Future[Any]] = set()

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def open(self) -> Self:
        """Connect. Raises what `Client` raises on entering."""
        if self._loop is not None:
            raise ConfigError("this SyncClient is open already")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=_serve, args=(self._loop,), name="jobq sync client", daemon=True)
        self._thread.start()
        try:
            self._run(self._client.__aenter__())
        except BaseException:
            self._stop(self._loop, self._thread)
            self._loop = self._thread = None
            raise
        return self

    def close(self) -> None:
        """Wait for what is under way, and disconnect."""
        if os.getpid() != self._pid:
            return
        with self._lock:
            loop, thread, self._loop, self._thread = self._loop, self._thread, None, None
        if loop is None or thread is None:
            return
        wait(list(self._calls))
        try:
            asyncio.run_coroutine_threadsafe(self._client.__aexit__(None, None, None), loop).result()
        finally:
            self._stop(loop, thread)

    def within(self, connection: object) -> "SyncTransactionClient":
        """See `Client.within`. `connection` is one of a library for synchronous code, and used in this thread."""
        if self._loop is None:
            raise ConfigError(_CLOSED)
        return SyncTransactionClient(self._client.transactions.join_sync(connection), self._client, self._start)

    @property
    def dead(self) -> "SyncDeadJobs":
        """See `Client.dead`."""
        if self._loop is None:
            raise ConfigError(_CLOSED)
        return SyncDeadJobs(self._client.dead, self._run)

    @property
    def _performer(self) -> Client:
        return self._client

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self._start(coroutine).result()

    def _start(self, coroutine: Coroutine[Any, Any, T]) -> "Future[T]":
        if os.getpid() != self._pid:  # the thread is not here, and whoever held the lock may not be either
            coroutine.close()
            raise ConfigError("this SyncClient was made before this process was forked; make a new one after forking")
        with self._lock:  # so that `close` knows of every call, and nobody waits on a loop that has ended
            if self._loop is None:
                coroutine.close()
                raise ConfigError(_CLOSED)
            if threading.current_thread() is self._thread:
                coroutine.close()
                raise ConfigError("a SyncClient cannot be used on its own event loop; in async code use Client")
            call = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
            self._calls.add(call)
        call.add_done_callback(self._calls.discard)
        return call

    @staticmethod
    def _stop(loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


class SyncTransactionClient(SyncPerformer):
    """Enqueues jobs in a transaction of the caller's: `client.within(connection)` makes it. See `TransactionClient`."""

    def __init__(self, transaction: JoinedSync, client: Client, start: "_Start") -> None:
        self._transaction = transaction
        self._errands = SimpleQueue[_Errand | None]()
        self._inner = client.within_joined(self)
        self._start = start

    async def enqueue(self, jobs: Sequence[Job]) -> Sequence[Answer]:
        """Have the caller's thread do it. Called on the client's loop."""
        errand = _Errand(jobs)
        self._errands.put(errand)
        return await asyncio.wrap_future(errand.answers)

    @property
    def _performer(self) -> Performer:
        return self._inner

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        call = self._start(coroutine)
        call.add_done_callback(lambda _: self._errands.put(None))
        try:
            while (errand := self._errands.get()) is not None:
                errand.run(self._transaction)
        except BaseException:
            call.cancel()
            raise
        return call.result()


class _Errand:
    """Jobs to be stored in the caller's thread."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.jobs = jobs
        self.answers: Future[Sequence[Answer]] = Future()

    def run(self, transaction: JoinedSync) -> None:
        """Store them."""
        try:
            answers = transaction.enqueue(self.jobs)
        except BaseException as exc:
            self.answers.set_exception(exc)
            if not isinstance(exc, Exception):
                raise
        else:
            self.answers.set_result(answers)


class _Start(Protocol):
    """Starts a coroutine on the client's loop."""

    def __call__(self, coroutine: Coroutine[Any, Any, T], /) -> "Future[T]": ...


class _Run(Protocol):
    """Runs a coroutine on the client's loop and waits for it."""

    def __call__(self, coroutine: Coroutine[Any, Any, T], /) -> T: ...


class SyncDeadJobs:
    """What `SyncClient.dead` is: `DeadJobs`, as plain functions."""

    def __init__(self, dead: DeadJobs, run: _Run) -> None:
        self._dead = dead
        self._run = run

    def count(self, queue: str = DEFAULT_QUEUE) -> int:
        """See `DeadJobs.count`."""
        return self._run(self._dead.count(queue))

    def peek(self, queue: str = DEFAULT_QUEUE, limit: int = 20) -> list[DeadJob]:
        """See `DeadJobs.peek`."""
        return self._run(self._dead.peek(queue, limit))

    def replay(
        self, queue: str = DEFAULT_QUEUE, *, limit: int | None = None, ids: Collection[str] | None = None
    ) -> int:
        """See `DeadJobs.replay`."""
        return self._run(self._dead.replay(queue, limit=limit, ids=ids))

    def pop(self, queue: str = DEFAULT_QUEUE, limit: int = 1) -> list[DeadJob]:
        """See `DeadJobs.pop`."""
        return self._run(self._dead.pop(queue, limit))

    def purge(self, queue: str = DEFAULT_QUEUE) -> int:
        """See `DeadJobs.purge`."""
        return self._run(self._dead.purge(queue))


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    """Run `loop` until it is stopped; then end what a broker has not answered, and close it."""
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.get_loop().run_forever()
