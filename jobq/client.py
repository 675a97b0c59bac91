"""Clients: where an application enqueues jobs."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

from jobq._checks import check_seconds
from jobq._context import running
from jobq._group_commit import GroupCommit
from jobq._outbox import OutboxTransactions
from jobq._perform import JobHandle, Performer
from jobq._signature import MAX_PAYLOAD
from jobq.broker import Broker, Joined, Transactions
from jobq.clock import SYSTEM_CLOCK, Clock
from jobq.dead import DeadJobs
from jobq.errors import BrokerUnavailable, ConfigError, Unsupported
from jobq.model import Answer, Job
from jobq.plugins import broker_of

__all__ = ["Client", "JobHandle", "TransactionClient"]


class Client(Performer):
    """Enqueues jobs: each `perform_*` returns when the broker has stored them, or raises.

    `Client("redis://…")` opens and closes its own connections. `Client(broker)` borrows a broker that the caller has
    entered. Used as an async context manager on one event loop, by any number of tasks; concurrent calls share round
    trips. `timeout` (seconds) is how long one enqueue keeps trying while the broker is away or silent: it raises when
    they are over, neither earlier nor later. Entering takes no longer either. `max_payload` (bytes) is the limit for
    the encoded arguments of one job. `outbox` is a broker that joins transactions: `within` stores jobs there, until
    the relay moves them on (docs/outbox.md).
    """

    def __init__(
        self,
        broker: Broker | str,
        *,
        timeout: float = 5.0,
        max_payload: int = MAX_PAYLOAD,
        outbox: Broker | str | None = None,
        clock: Clock | None = None,
    ) -> None:
        check_seconds("timeout", timeout)
        super().__init__(clock or SYSTEM_CLOCK, max_payload)
        self._broker = broker_of(broker, clock=clock)
        self._outbox = None if outbox is None else broker_of(outbox, clock=clock)
        self._owned = [self._broker] if isinstance(broker, str) else []
        if self._outbox is not None and isinstance(outbox, str):
            self._owned.append(self._outbox)
        self._open = not self._owned
        self._timeout = timeout
        self._commits = GroupCommit(self._broker, self._clock, timeout)
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        try:
            for broker in self._owned:
                await self._enter(broker)
        except BaseException:
            await self._stack.aclose()
            raise
        self._open = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._open = not self._owned
        try:
            await self._commits.close()
        finally:
            await self._stack.aclose()

    @property
    def dead(self) -> DeadJobs:
        """The jobs that will not run again: to be counted, looked at, put back, taken away, deleted."""
        self._check_entered()
        return DeadJobs(self._broker)

    def within(self, connection: object) -> "TransactionClient":
        """Enqueue in the caller's own transaction, which is open on `connection`: with it, or not at all.

        `connection` is one that the broker knows (docs/postgres.md, docs/brokers.md). Raises `TypeError` for any other
        object, naming those, and `Unsupported` for a broker that cannot.
        """
        self._check_entered()
        return self.within_joined(self.transactions.join(connection))

    def within_joined(self, transaction: Joined) -> "TransactionClient":
        """The same for a transaction that the broker has joined already."""
        return TransactionClient(transaction, self._clock, self._max_payload)

    @property
    def transactions(self) -> Transactions:
        """How the broker, or the outbox, joins transactions. Raises `Unsupported` if it cannot."""
        joining = self._outbox or self._broker
        if joining.transactions is None:
            raise Unsupported(
                f"{joining.url} cannot store jobs in a transaction of yours; postgresql:// can, and sqlite://, in the "
                "database that the transaction is in, also as the outbox of a client"
            )
        return joining.transactions if self._outbox is None else OutboxTransactions(joining.transactions)

    def hurry(self, seconds: float) -> None:
        """From now on let no call wait longer than `seconds`, be it under way already. Called by a worker that ends."""
        self._commits.hurry(seconds)

    async def _enter(self, broker: Broker) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                await self._stack.enter_async_context(broker)
        except TimeoutError:
            what = f"{broker.url} could not be opened within {self._timeout:g} s"
            raise BrokerUnavailable(f"{what}: it is away, overloaded, or locked") from None

    async def _store(self, jobs: Sequence[Job], *, fresh: bool = False) -> Sequence[Answer]:
        return await self._commits.store(jobs, fresh=fresh)

    def _check_open(self) -> None:
        self._check_entered()
        run = running.get(None)
        if run is None or run.connection is None or self._broker.transactions is None:
            return
        if self._broker.transactions.bars(run.connection):
            raise ConfigError(
                f"while this job's transaction is open, nothing else can be stored on {self._broker.url}: enqueue in "
                "it, by client.within(jobq.current().connection), or before or after it"
            )

    def _check_entered(self) -> None:
        if not self._open:
            raise ConfigError('this client is not open; use it as "async with app.client(url) as client:"')


class TransactionClient(Performer):
    """Enqueues jobs in a transaction of the caller's: `client.within(connection)` makes it.

    Each `perform_*` returns when the jobs are in that transaction. When it commits they are stored, and workers are
    woken; if it is rolled back they never were. Nothing is repeated, and errors are those of the connection's own
    library, as what they mean for the transaction is the caller's business.
    """

    def __init__(self, transaction: Joined, clock: Clock, max_payload: int) -> None:
        super().__init__(clock, max_payload)
        self._transaction = transaction

    async def _store(self, jobs: Sequence[Job], *, fresh: bool = False) -> Sequence[Answer]:  # noqa: ARG002
        return await self._transaction.enqueue(jobs)

    def _check_open(self) -> None:
        """It is as open as its transaction is."""
