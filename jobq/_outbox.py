"""The outbox: jobs for one broker, stored in the caller's transaction by another one, until the relay moves them on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from msgspec import Raw
from msgspec.structs import replace

from jobq.broker import Joined, JoinedSync, Settlement, Transactions
from jobq.codec import encode_job
from jobq.model import Answer, Job, Token

__all__ = ["QUEUE", "TASK", "OutboxTransactions", "parcel"]

QUEUE: Final = "outbox"
"""Where they wait, which is no queue of a worker's."""
TASK: Final = "jobq.relay"


def parcel(job: Job) -> Job:
    """The job of the relay's that moves `job` on, when `job` is due."""
    return Job(
        id=f"{QUEUE}:{job.id}",  # not the job's own, which the relay could else not store in the same place
        task=TASK,
        queue=QUEUE,
        priority=job.priority,
        created=job.created,
        due=job.due,
        delay=job.delay,
        body=Raw(b'{"args":[%b]}' % encode_job(replace(job, due=None, delay=None))),
    )


@dataclass(frozen=True, slots=True)
class OutboxTransactions:
    """The transactions of an outbox: what is stored in them are parcels."""

    inner: Transactions

    def settle(self, worker: str, token: Token) -> Settlement:
        return self.inner.settle(worker, token)

    def join(self, connection: object) -> Joined:
        return _Joined(self.inner.join(connection))

    def bars(self, connection: object) -> bool:
        return self.inner.bars(connection)

    def join_sync(self, connection: object) -> JoinedSync:
        return _JoinedSync(self.inner.join_sync(connection))


@dataclass(frozen=True, slots=True)
class _Joined:
    transaction: Joined

    async def enqueue(self, jobs: Sequence[Job]) -> Sequence[Answer]:
        return _answers(jobs, await self.transaction.enqueue([parcel(job) for job in jobs]))


@dataclass(frozen=True, slots=True)
class _JoinedSync:
    transaction: JoinedSync

    def enqueue(self, jobs: Sequence[Job]) -> Sequence[Answer]:
        return _answers(jobs, self.transaction.enqueue([parcel(job) for job in jobs]))


def _answers(jobs: Sequence[Job], answers: Sequence[Answer]) -> Sequence[Answer]:
    return [Answer(job.id, answer.fate) for job, answer in zip(jobs, answers, strict=True)]
