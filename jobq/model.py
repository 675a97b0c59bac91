"""The records that travel between client, broker and worker. All are frozen.

Those that are made for each job are left out of garbage collection (`gc=False`), as they cannot form cycles.

Times are seconds since the epoch, as floats; durations are seconds.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Final

from msgspec import Raw, Struct

PRIORITIES: Final = range(5)
"""Higher runs first."""
DEFAULT_PRIORITY: Final = 2
DEFAULT_QUEUE: Final = "default"
SUSPECT_AFTER: Final = 2
"""Crashes after which a job is a suspect: workers take suspects one at a time, and only when they can start at once."""
HISTORY_LIMIT: Final = 20
MAX_CHUNK: Final = 1000
"""The most jobs in one call of `Broker.enqueue`."""
MAX_PEEK: Final = 100
"""The most dead jobs that one call shows or takes away."""

_EMPTY_BODY: Final = Raw(b"{}")


class Job(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One enqueued call of a task. Its JSON form is the envelope on the wire (docs/wire-format.md).

    `body` is the call's arguments as JSON, which no broker decodes. Exactly one of `due` (a time on the broker's
    clock) and `delay` (relative, resolved by the broker when it stores the job) may be set; neither means now.
    The columns from `expires` on cost nothing when unset.
    """

    id: str
    task: str
    v: int = 1
    queue: str = DEFAULT_QUEUE
    priority: int = DEFAULT_PRIORITY
    created: float = 0.0
    due: float | None = None
    delay: float | None = None
    headers: dict[str, str] | None = None
    expires: float | None = None
    unique_key: str | None = None
    unique_until: float | None = None
    limit_key: str | None = None
    group: str | None = None
    batch: str | None = None
    result_ttl: float | None = None
    cron: str | None = None
    cron_slot: float | None = None
    body: Raw = _EMPTY_BODY


class Failure(Struct, frozen=True, gc=False, omit_defaults=True):
    """Why a run ended badly, as text: classes are never rebuilt from it."""

    kind: str
    message: str = ""
    traceback: str = ""

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}" if self.message else self.kind


class Happening(StrEnum):
    """What an `Event` in a job's history says happened."""

    RETRIED = "retried"
    SNOOZED = "snoozed"
    RELEASED = "released"
    PARKED = "parked"
    CRASHED = "crashed"
    DEAD = "dead"
    CANCELLED = "cancelled"
    REPLAYED = "replayed"


class Event(Struct, frozen=True, gc=False, omit_defaults=True):
    """One line of a job's history."""

    at: float
    what: Happening
    worker: str = ""
    detail: str = ""


class Trail(Struct, frozen=True, gc=False, omit_defaults=True):
    """What a job's runs have left behind; written only when a job is settled, by the worker that held it.

    `attempt` counts runs that ended in an error or a timeout. `parked` is when a worker that did not know the task
    first put the job aside. `failure` is the last one. `history` holds the last `HISTORY_LIMIT` events.
    """

    attempt: int = 0
    parked: float | None = None
    failure: Failure | None = None
    history: tuple[Event, ...] = ()


NO_TRAIL: Final = Trail()


class Crash(Struct, frozen=True, gc=False, array_like=True):
    """A lease that ran out while the job was held; written by the broker, and taken back if the worker turns up."""

    epoch: int
    at: float
    worker: str


class Delivery(Struct, frozen=True, gc=False):
    """A claimed job. `(job.id, epoch)` is the token that every write about it must name.

    `job.queue` is the queue it was claimed from. `malformed` says why the stored envelope cannot be read; `job` then
    holds its id and, as `body`, the raw bytes.
    """

    job: Job
    epoch: int
    trail: Trail = NO_TRAIL
    crashes: tuple[Crash, ...] = ()
    malformed: str | None = None


class DeadJob(Struct, frozen=True, gc=False):
    """A job that will not run again, as it is kept. `job.queue` is the queue in which it died.

    `died` is when, None where nobody has noted it. `reason` is the word of a server that has given it up by itself,
    for whatever it counts or limits. `malformed` is as in a `Delivery`; `envelope` is what is stored in any case.
    """

    job: Job
    envelope: bytes
    trail: Trail = NO_TRAIL
    crashes: tuple[Crash, ...] = ()
    died: float | None = None
    reason: str = ""
    malformed: str | None = None

    @property
    def id(self) -> str:
        """The job's id."""
        return self.job.id

    @property
    def task(self) -> str:
        """The name of its task; empty if that cannot be read."""
        return self.job.task

    @property
    def queue(self) -> str:
        """The queue in which it died, and to which it goes back."""
        return self.job.queue

    @property
    def error(self) -> str:
        """Why it is dead."""
        if self.reason:
            return f"given up by the server: {self.reason}"
        return str(self.trail.failure or self.malformed or "")


class Token(Struct, frozen=True, gc=False, array_like=True):
    """Who holds a job: its id and the epoch of the claim."""

    id: str
    epoch: int


class Done(Struct, frozen=True, gc=False):
    """The job ran; `result` is kept if the job asked for it."""

    id: str
    epoch: int
    result: bytes | None = None


class Again(Struct, frozen=True, gc=False):
    """Run it again after `delay` seconds, in `queue` if one is given."""

    id: str
    epoch: int
    trail: Trail
    delay: float = 0.0
    queue: str | None = None


class Dead(Struct, frozen=True, gc=False):
    """It will not run again; `keep` stores it with its trail among the dead."""

    id: str
    epoch: int
    trail: Trail
    keep: bool = True


class Cancelled(Struct, frozen=True, gc=False):
    """It was stopped on purpose."""

    id: str
    epoch: int
    trail: Trail = NO_TRAIL


class Released(Struct, frozen=True, gc=False):
    """It is given back unfinished, to the front of its queue, or after `delay` seconds; no attempt is spent."""

    id: str
    epoch: int
    delay: float = 0.0


Outcome = Done | Again | Dead | Cancelled | Released


def leaves_nothing(outcome: Outcome) -> bool:
    """Whether its job has ended and is not kept, so that a broker has only to forget it."""
    return isinstance(outcome, (Done, Cancelled)) or (isinstance(outcome, Dead) and not outcome.keep)


def history_with(history: Sequence[Event], crashes: Sequence[Crash], event: Event) -> tuple[Event, ...]:
    """`history` with the crashes that were noted since its last event, and with one more event."""
    known = {event.at for event in history if event.what is Happening.CRASHED}
    crashed = [Event(crash.at, Happening.CRASHED, crash.worker) for crash in crashes if crash.at not in known]
    return (*history, *crashed, event)[-HISTORY_LIMIT:]


def replayed(dead: DeadJob, at: float) -> Trail:
    """The trail of a dead job that is put back at the time `at`: it begins anew, and its history goes on."""
    event = Event(round(at, 3), Happening.REPLAYED)
    return Trail(failure=dead.trail.failure, history=history_with(dead.trail.history, dead.crashes, event))


class Claim(Struct, frozen=True):
    """What a worker asks for in a turn.

    `queues` in the order in which they are to be emptied. `limit` is the most jobs to claim. `suspects` says that one
    suspect may be among them. `resume` is the highest epoch this worker has received: jobs claimed for it under a
    higher one were lost on the way and are delivered again, first, and all of them even beyond the limit.
    """

    worker: str
    queues: Sequence[str] = ()
    limit: int = 0
    suspects: bool = False
    resume: int = 0


class Turn(Struct, frozen=True):
    """The answer to a turn.

    `refused` are outcomes whose token was not, or no longer, held. `next_due` is in how many seconds the next
    scheduled job (of any queue) is due, None if there is none. `leased` is False when this worker holds no lease:
    nothing was claimed, and it must heartbeat first. `resume` is the highest epoch among the deliveries, 0 if there are
    none: a worker with much to do sends its next turn before it looks at them.
    """

    deliveries: Sequence[Delivery] = ()
    refused: Sequence[Token] = ()
    next_due: float | None = None
    leased: bool = True
    resume: int = 0


class Stamp(Struct, frozen=True, gc=False):
    """Names one call of `enqueue` so that it can be repeated: the client and a number that it counts up."""

    client: str
    number: int
    fresh: bool = False
    """Whether the ids of its jobs were made for this call: no broker knows any, unless from an earlier try of it."""


class Fate(StrEnum):
    """What became of an enqueued job."""

    STORED = "stored"
    DUPLICATE = "duplicate"
    REPLACED = "replaced"


class Answer(Struct, frozen=True, gc=False):
    """`id` is the live job: the new one, or the one that it duplicates."""

    id: str
    fate: Fate = Fate.STORED


class WorkerInfo(Struct, frozen=True, omit_defaults=True):
    """A worker, as others may see it. Ids of workers on one host and in one pid namespace share the prefix `host`."""

    id: str
    host: str
    hostname: str = ""
    pid: int = 0
    queues: tuple[str, ...] = ()
    concurrency: int = 0
    started: float = 0.0
    version: str = ""


class Beat(Struct, frozen=True, gc=False, omit_defaults=True):
    """A job that the worker holds, and how far it is."""

    id: str
    epoch: int
    progress: float | None = None


class Orders(Struct, frozen=True):
    """What a heartbeat brings back.

    `now` is the broker's time. `lost` are beats whose token this worker no longer holds. `cancel` are held jobs that
    somebody ordered to be cancelled. `paused` are queues that are not to be claimed from; `quiet` asks the worker to
    claim nothing at all. `returned` is how many jobs were put back because the worker knows nothing of them any more.
    """

    now: float
    lost: Sequence[Token] = ()
    cancel: Sequence[Token] = ()
    paused: Sequence[str] = ()
    quiet: bool = False
    returned: int = 0


class Swept(Struct, frozen=True):
    """What a sweep did, and in how many seconds the next scheduled job is due.

    `more` says that the limit stopped it. `peers` are the ids of all live workers that share the caller's host.
    """

    next_due: float | None = None
    promoted: int = 0
    reclaimed: int = 0
    more: bool = False
    peers: Sequence[str] = ()
