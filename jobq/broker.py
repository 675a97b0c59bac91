"""The contract between jobq and a broker: verbs without state, records in and out.

A third-party broker implements `Broker`, registers itself in the entry-point group `jobq.brokers`, and proves itself
with `jobq.testing.BrokerConformance` (docs/writing-a-broker.md).

Rules for every verb:

* It is safe to repeat after a lost reply: the second execution of the same call changes nothing more.
* It is one atomic step for each job it touches: a crash in the middle leaves no job in two places, or in none.
* The broker bounds it in time and then raises `BrokerUnavailable` (it did not happen) or `OutcomeUnknown` (it may have
  happened). Except for `wait`, the framework does not cancel it midway, with one limit: a worker that ends waits half a
  second for it, and then cancels it. As after a lost reply, it may have happened.
* Drivers' exceptions do not leak: they are translated into `jobq.errors`.
* Time is the broker's clock. A due time or a lease never depends on the clock of a client or a worker.

Where a job is, at any moment, is exactly one of: *ready* (in its queue, by priority), *scheduled* (not due yet),
*held* (claimed, under an epoch), *dead* (kept), gone. In a queue the order is: higher priority first; within one
priority first in, first out, and a job that comes back (due, released, reclaimed) enters at the front: of those that
become due in one step the earliest is first; of those released in one turn, or enqueued when already due, the last.
"""

from collections.abc import Collection, Sequence
from enum import Flag, auto
from types import TracebackType
from typing import Any, Protocol, Self

from jobq.clock import Clock
from jobq.model import Answer, Beat, Claim, DeadJob, Job, Orders, Outcome, Stamp, Swept, Token, Turn, WorkerInfo

__all__ = [
    "Broker",
    "BrokerFactory",
    "Capability",
    "DeadLetters",
    "Joined",
    "JoinedSync",
    "Schema",
    "Settlement",
    "Transactions",
]


class Capability(Flag):
    """Which of the promises below a broker keeps that not every server lets it keep.

    What it does instead is in its own documentation.
    """

    NONE = 0
    PRIORITY = auto()
    """Honours `Job.priority`: at least, those above the default come before it, and those below after it."""
    ORDER = auto()
    """Keeps the whole order of a queue: every priority apart, and a job that comes back enters at the front."""
    IDS = auto()
    """Knows the ids of all live jobs and the stamps of all clients, whoever asks: nothing is stored twice."""
    ATOMIC = auto()
    """Stores a chunk in one step: whole, or not at all."""
    GREEDY = auto()
    """A turn brings as many jobs as there are, up to its limit.

    Without it, only an empty turn of a worker that holds nothing says that it was all.
    """
    CLOCK = auto()
    """Keeps the time itself: goes by the clock that it is given, and says when the next job is due."""
    LEASE = auto()
    """A lease on the broker's clock keeps what a worker holds; without it the connection does, and ends it at once."""
    FENCE = auto()
    """Counts claims in the whole namespace, and refuses every write that names an older epoch."""
    ALL = PRIORITY | ORDER | IDS | ATOMIC | GREEDY | CLOCK | LEASE | FENCE
    """What a broker declares that has all jobs in one place, and decides alone about them."""


class Broker(Protocol):
    """Moves jobs between producers and workers and keeps them safe in between.

    Used as an async context manager, on one event loop. Entering connects, checks the server and raises
    `BrokerUnavailable` or `BrokerRefused`; leaving closes every connection and thread.
    """

    @property
    def url(self) -> str:
        """Where the broker is, with the password masked."""
        ...

    @property
    def capabilities(self) -> Capability:
        """What it can beyond the verbs."""
        ...

    @property
    def ahead(self) -> int:
        """How many times its concurrency a worker may claim in advance while jobs are short.

        1, or more where larger turns are worth while: where much of a turn's time does not depend on what it carries,
        as when it waits for a disk.
        """
        ...

    @property
    def dead_letters(self) -> "DeadLetters | None":
        """The dead jobs, to be looked at and put back; None if it cannot."""
        ...

    @property
    def transactions(self) -> "Transactions | None":
        """Enqueuing in transactions of the caller's; None if it cannot."""
        ...

    @property
    def schema(self) -> "Schema | None":
        """What has to be in the broker's database; None if it is none, or sees to that by itself."""
        ...

    def twin(self) -> "Broker | None":
        """A second, unentered broker on the same data for another event loop; None if it can have none."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None, /
    ) -> None: ...

    async def enqueue(self, jobs: Sequence[Job], stamp: Stamp) -> Sequence[Answer]:
        """Store all of `jobs` (at most `MAX_CHUNK`) or none, as durably as the broker can, and answer for each.

        A job whose id is that of a live job is not stored: its answer is `DUPLICATE`. A stamp that is not newer than
        the last one of its client changes nothing, even if the jobs have ended since, and answers the same. Stamps of
        one client come one after the other; they are remembered for an hour, or, where no reply can come from another
        process, by this one for its last thousands of clients. Sleeping workers are woken, also when a job becomes the
        earliest one due. Raises `BrokerFull` when there is no room.
        """
        ...

    async def turn(self, outcomes: Sequence[Outcome], claim: Claim) -> Turn:
        """Store outcomes, then claim jobs, in one round trip that never waits for work.

        An outcome counts only while its token is held; otherwise it is refused, and if the token was lost to an
        expired lease the crash is taken back, since the worker is alive. `Again` and `Released` put the job back with
        the same id; `Dead` with `keep` moves it to the dead. Then come all deliveries that were lost on the way
        (`claim.resume`), even beyond the limit, then jobs from the first queues that have any, up to `claim.limit` in
        all; scheduled jobs that are due count as ready. Each claim gets an epoch higher than every one before it in
        the namespace and higher than `claim.resume`: a broker that has lost its last moments has counted less than its
        workers have seen. A worker without a lease settles what it still holds and claims nothing.
        """
        ...

    async def wait(self, queues: Sequence[str], timeout: float) -> None:  # noqa: ASYNC109 - every broker bounds it
        """Return when there may be work in one of `queues`, or after `timeout` seconds at the latest.

        A hint: it may return early, and it takes no job. The only verb that is cancelled as a matter of course.
        """
        ...

    async def heartbeat(self, worker: WorkerInfo, beats: Sequence[Beat], lease: float, resume: int = 0) -> Orders:
        """Give `worker` a lease of `lease` seconds from now, whether it had one or not, and say what changed.

        Crashes that were charged to it for the tokens in `beats` are taken back. A lease of 0 says good-bye: the
        worker is forgotten, and what it still holds is reclaimed by the next sweep.

        `resume` is the highest epoch that the worker had received when it began to write `beats` down, which name
        every job that it may still hold. A job that the broker has as held by it at or below that epoch, and that is
        not named (under whatever epoch, since its body may still run), was settled in a moment that the broker has
        lost: in a crash, a failover, or the restoring of a backup. Such jobs are put back to the front of their
        queues, the one claimed first foremost, with no crash and with the trail they have; sleeping workers are woken.
        Since later claims have higher epochs, a late or repeated heartbeat puts none of those back.
        """
        ...

    async def sweep(self, host: str, limit: int, dead: Sequence[str] = ()) -> Swept:
        """Do the upkeep that any worker may do, touching at most `limit` jobs.

        Makes due jobs ready; reclaims the jobs of workers whose lease has ended, or who are in `dead`: each gets a
        `Crash` and goes back to the front of its queue, or from `SUSPECT_AFTER` crashes on to the queue's suspects;
        forgets what is too old to matter. Wakes sleeping workers. `host` selects the peers in the answer.
        """
        ...


class DeadLetters(Protocol):
    """The dead jobs of a broker, for people and their tools; a worker never looks here.

    Everything is about the jobs that died in one queue, the first one first. The framework calls nothing here by
    itself, and nothing twice: after an `OutcomeUnknown`, look. A call may hide from others what it is at work on.
    """

    async def count(self, queue: str) -> int:
        """How many there are."""
        ...

    async def peek(self, queue: str, limit: int) -> Sequence[DeadJob]:
        """Up to `limit` (at most `MAX_PEEK`) of them, which stay where they are."""
        ...

    async def replay(self, queue: str, limit: int | None = None, ids: Collection[str] | None = None) -> int:
        """Put back up to `limit` of those that are there now, or all; of `ids`, if given. Returns how many were.

        They go to the back of the queue, in their order, with the same envelope, no crashes, and the trail that
        `jobq.model.replayed` makes. Sleeping workers are woken. What dies again meanwhile is not put back again.
        Wherever this ends, none is lost: each is dead or ready, or both, where no step of the server's covers two
        queues.
        """
        ...

    async def pop(self, queue: str, limit: int) -> Sequence[DeadJob]:
        """Take up to `limit` (at most `MAX_PEEK`) of them away. What a lost reply leaves in doubt may come again."""
        ...

    async def purge(self, queue: str) -> int:
        """Delete those that are there now. Returns how many."""
        ...


class Transactions(Protocol):
    """Transactions of the broker's database that other work of the application's is in, too."""

    def settle(self, worker: str, token: Token) -> "Settlement":
        """A transaction, not begun yet, whose commit is also the end of this job."""
        ...

    def bars(self, connection: object) -> bool:
        """Whether the broker's verbs have to wait for the end of the job's transaction that is open on `connection`."""
        ...

    def join(self, connection: object) -> "Joined":
        """The transaction on a connection of a library for async code.

        Raises `TypeError` for any other object, naming what can be given, and `ConfigError` if no transaction is open.
        """
        ...

    def join_sync(self, connection: object) -> "JoinedSync":
        """The same for a connection of a library for synchronous code."""
        ...


class Settlement(Protocol):
    """A transaction that ends a claimed job. After `begin` comes one of the others, once; or its connection is lost."""

    async def begin(self) -> Any:
        """Begin it. Returns the connection that it is on, of the library that the broker uses.

        Connections for this are no others': however many transactions there are, the broker's verbs go on. Where a
        transaction bars them, it is bounded in time, and then rolled back: `commit` raises `JobTimeout`.
        """
        ...

    async def commit(self) -> None:
        """Settle the job as `Done` would, and commit. Raises `LeaseLost`, and has rolled back, if that is refused."""
        ...

    async def rollback(self) -> None:
        """Undo everything; nothing has become of the job."""
        ...


class Joined(Protocol):
    """A transaction of the caller's."""

    async def enqueue(self, jobs: Sequence[Job]) -> Sequence[Answer]:
        """Store all of `jobs` (at most `MAX_CHUNK`) in it, and have sleeping workers woken when it commits.

        It is never repeated, and the errors of the connection's library are raised as they are.
        """
        ...


class JoinedSync(Protocol):
    """The same, in the caller's thread."""

    def enqueue(self, jobs: Sequence[Job]) -> Sequence[Answer]:
        """See `Joined.enqueue`."""
        ...


class Schema(Protocol):
    """Tables and functions in a database, for those who do not want clients and workers to make them.

    It needs no entered broker: each call makes a connection of its own.
    """

    def script(self) -> str:
        """Everything, as SQL that may be run again and again."""
        ...

    def grants(self, role: str) -> str:
        """What clients and workers have to be allowed, as SQL."""
        ...

    async def lacking(self) -> str | None:
        """What is not there, in words; None if nothing is."""
        ...

    async def apply(self) -> bool:
        """Make what is not there, all or nothing. Returns whether anything was not. Others may do so meanwhile."""
        ...


class BrokerFactory(Protocol):
    """What an entry point in the group `jobq.brokers` names: usually the broker's class."""

    def __call__(self, url: str, *, clock: Clock | None = None) -> Broker:
        """A broker for `url`, not yet entered. Raises `ConfigError` for a URL that cannot be right.

        With a `clock`, the broker takes its time from there instead of its server, for tests.
        """
        ...
