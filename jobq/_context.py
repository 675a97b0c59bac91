"""What a running job knows about itself."""

from collections.abc import Awaitable
from contextvars import ContextVar
from threading import Event
from typing import TYPE_CHECKING, Any, Protocol

from jobq._transaction import JobTransaction, Leaving
from jobq.errors import NoCurrentJob
from jobq.model import Job

if TYPE_CHECKING:
    from jobq.client import Client

__all__ = ["CurrentJob", "Running", "current", "running"]


class CurrentJob:
    """The job that runs here. Get it with `jobq.current()`."""

    __slots__ = ("_cancelled", "attempt", "client", "epoch", "job", "progress_made", "state")

    def __init__(self, job: Job, *, epoch: int, attempt: int, client: "Client", state: dict[str, Any]) -> None:
        self.job = job
        self.epoch = epoch
        """The fencing token of this run: grows with every claim, so that an outside system can refuse a stale one."""
        self.attempt = attempt
        """1 in the first run, 2 in the first retry, …"""
        self.client = client
        """Enqueues more jobs on the worker's own connection."""
        self.state = state
        """What the app's lifespan yielded."""
        self.progress_made: float | None = None
        self._cancelled: Event | None = None

    @property
    def id(self) -> str:
        """The job's id: the same in every run, so a good idempotency key."""
        return self.job.id

    @property
    def task(self) -> str:
        """The task's name."""
        return self.job.task

    @property
    def queue(self) -> str:
        """The queue it was claimed from."""
        return self.job.queue

    @property
    def enqueued_at(self) -> float:
        """When it was enqueued, in seconds since the epoch, on the client's clock."""
        return self.job.created

    @property
    def headers(self) -> dict[str, str]:
        """What enqueue middleware attached to it."""
        return self.job.headers or {}

    @property
    def connection(self) -> Any:
        """What the job's transaction is open on. Raises `NoCurrentJob` outside it."""
        if _running().connection is None:
            raise NoCurrentJob(
                "no transaction of this job is open: async with jobq.current().transaction() as connection:"
            )
        return _running().connection

    def transaction(self) -> JobTransaction:
        """A transaction of the broker's database, whose commit is also the job's end: both, or neither.

        ::

            async with jobq.current().transaction() as connection:
                await connection.execute("UPDATE accounts SET …")  # on SQLite without the `await`

        See `JobTransaction`. Raises `Unsupported` on a broker that is no database.
        """
        return _running().transaction()

    @property
    def cancelled(self) -> bool:
        """Whether this run should stop: a long loop in a thread asks now and then, since nobody can interrupt it."""
        return self._cancelled is not None and self._cancelled.is_set()

    def progress(self, done: float, total: float = 1.0) -> None:
        """Say how far the run is. The next heartbeat tells the broker; none of jobq's own brokers keeps it yet."""
        self.progress_made = done / total if total > 0 else None

    def cancel(self) -> None:
        """Ask a run in a thread to stop. Called by the worker."""
        if self._cancelled is not None:
            self._cancelled.set()

    def in_thread(self) -> None:
        """Prepare for `cancelled` being read from a thread. Called by the worker."""
        self._cancelled = Event()


class Running(Leaving, Protocol):
    """A job that a worker runs."""

    def transaction(self) -> JobTransaction:
        """The one that it may have."""
        ...

    @property
    def current(self) -> CurrentJob:
        """What it knows about itself; made when somebody asks, for most bodies never do."""
        ...

    def run(self) -> Awaitable[object]:
        """Call the task with its arguments; the innermost handler does."""
        ...


running: ContextVar[Running] = ContextVar("jobq.running")


def current() -> CurrentJob:
    """The job that is running here. Raises `NoCurrentJob` outside a job."""
    return _running().current


def _running() -> Running:
    try:
        return running.get()
    except LookupError:
        raise NoCurrentJob(
            "jobq.current() was called outside a job; it works in a task and in worker middleware"
        ) from None
