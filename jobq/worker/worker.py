"""The worker: its parts wired together, and the order in which they start and stop."""

import asyncio
import logging
import os
import socket
from collections.abc import Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Final, Self

from jobq.app import App
from jobq.broker import Broker
from jobq.client import Client
from jobq.clock import SYSTEM_CLOCK, Clock
from jobq.errors import BrokerUnavailable, ConfigError
from jobq.model import Beat, Orders, Token, WorkerInfo
from jobq.plugins import broker_of
from jobq.worker.deadlines import Deadlines
from jobq.worker.doorbell import Doorbell
from jobq.worker.execute import Executor
from jobq.worker.held import Cause, Held
from jobq.worker.identity import host_id, new_worker_id
from jobq.worker.lease import LeaseKeeper
from jobq.worker.options import WorkerOptions, queues_of
from jobq.worker.outcomes import Scribe
from jobq.worker.shutdown import LAST_TURN, Shutdown
from jobq.worker.slots import Slots
from jobq.worker.supervise import supervise
from jobq.worker.sweep import Sweeper
from jobq.worker.turn import Turner
from jobq.worker.watchdog import Watchdog

__all__ = ["Worker"]

_CONNECT_CAP: Final = 5.0
_RETRY_CAP: Final = 2.0
"""The most seconds between attempts of a loop that failed: within these a worker is back once its broker is."""

log = logging.getLogger("jobq.worker")


class Worker:
    """Runs an app's jobs.

    ::

        async with Worker(app, "redis://…", concurrency=20) as worker:
            ...  # it works in the background, e.g. inside a web app; leaving the block stops it gracefully

        await Worker(app, "redis://…").run()  # or: until stop() is called, or run() is cancelled

    `Worker(app, url)` opens its own connections; `Worker(app, broker)` borrows a broker that the caller has entered.
    Options are those of `WorkerOptions`; without `queues` it works on those that the app's tasks name, in equal shares.
    Raises `ConfigError`.
    """

    def __init__(self, app: App, broker: Broker | str, *, clock: Clock | None = None, **options: Any) -> None:
        options.setdefault("queues", queues_of(app.registry))
        self.options = WorkerOptions(**options)
        self.app = app
        self._clock = clock or SYSTEM_CLOCK
        self._own = isinstance(broker, str)
        self.broker = broker_of(broker, clock=clock)
        # before it is entered: a broker that has a twin knows that it must not lose its connections with this loop
        self._twin = self.broker.twin()
        host = host_id()
        self.id = self.options.worker_id or new_worker_id(host)
        self.info = WorkerInfo(
            id=self.id,
            host=host,
            hostname=socket.gethostname(),
            pid=os.getpid(),
            queues=tuple(weight.name for weight in self.options.weights),
            concurrency=self.options.concurrency,
            started=self._clock.time(),
        )
        self._skew = 0.0
        self._loops: list[asyncio.Task[None]] = []
        self._stack = AsyncExitStack()
        self._stopping = asyncio.Event()
        self._entered = False
        self._grace = self.options.grace
        self._shutdown: Shutdown | None = None
        self.wedged: tuple[Held, ...] = ()
        """After the end: jobs whose bodies would not stop. Their threads or tasks may still run; end the process."""

    async def __aenter__(self) -> Self:
        if self._entered:
            raise ConfigError("a Worker works once; make a new one")
        self._entered = True
        try:
            await self._open()
        except BaseException:
            await self._stack.aclose()
            raise
        self._start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        end = asyncio.create_task(self._end(), name="jobq shutdown")
        cancelled: asyncio.CancelledError | None = None
        while not end.done():
            try:
                await asyncio.shield(end)
            except asyncio.CancelledError as again:
                if end.done():
                    break
                cancelled = again  # asked twice: hurry up, but leave nothing half done
                self.stop(grace=0)
        if cancelled is not None:
            raise cancelled
        end.result()

    async def run(self) -> None:
        """Work until `stop()` is called or, with `burst`, until nothing is ready; then stop gracefully."""
        async with self:
            waits = [asyncio.create_task(self._stopping.wait())]
            if self.options.burst:
                waits.append(asyncio.create_task(self._turner.dry.wait()))
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()

    def stop(self, *, grace: float | None = None) -> None:
        """Begin to stop: claim nothing more, let running jobs go on for `grace` seconds, then give them back.

        May be called again with a shorter grace; 0 means now.
        """
        if grace is not None:
            self._grace = min(self._grace, grace)
            if self._shutdown is not None:
                self._shutdown.hurry(grace)
        self._stopping.set()

    @property
    def running(self) -> int:
        """How many jobs it holds."""
        return len(self._slots.held)

    @property
    def held(self) -> tuple[Held, ...]:
        """What it holds now, for a look from any thread."""
        return tuple(self._slots.held.values()) if hasattr(self, "_slots") else ()

    async def _open(self) -> None:
        if self._own:
            await self._connect()
        client = self._client = await self._stack.enter_async_context(Client(self.broker, clock=self._clock))
        state: dict[str, Any] = {}
        if self.app.registry.lifespan is not None:
            state = await self._stack.enter_async_context(self.app.registry.lifespan()) or {}
        options = self.options
        self._slots = Slots(options.concurrency, self.broker.ahead)
        self._deadlines = Deadlines(self._clock)
        self._executor = Executor(
            self.app.registry,
            self._slots,
            self._deadlines,
            Scribe(self.id),
            client,
            state=state,
            now=self._broker_time,
            park_grace=options.park_grace,
        )
        self._turner = Turner(
            self.broker, self.id, options.weights, slots=self._slots, executor=self._executor, clock=self._clock
        )
        bell = Doorbell(self.id)
        self._stack.callback(bell.close)
        self._sweeper = Sweeper(
            self.broker, self.info, self._clock, bell, interval=options.sweep, look=self._turner.look
        )
        self._keeper = self._lease_keeper()
        self._turner.on_unleased = self._keeper.beat_now

    async def _connect(self) -> None:
        """Enter the broker; one that is away now may come, so say so and go on trying."""
        delay = 0.2
        while True:
            try:
                await self._stack.enter_async_context(self.broker)
            except BrokerUnavailable as exc:
                if self._stopping.is_set() or self.options.burst:
                    raise
                log.warning("%s (trying again in %.1f s)", exc, delay)
            else:
                return
            await self._clock.wait(self._stopping, delay)
            delay = min(_CONNECT_CAP, delay * 2)

    def _lease_keeper(self) -> LeaseKeeper:
        if self._twin is None:
            raise ConfigError(f"the broker at {self.broker.url} has no twin to renew leases with")
        watchdog = Watchdog(self.options.max_lag, self._clock.monotonic, self._name_of)
        return LeaseKeeper(
            self._twin,
            self.info,
            self._clock,
            lease=self.options.lease,
            renew=self.options.renew,
            snapshot=self._snapshot,
            on_orders=self._obey,
            on_fence=self._fence,
            tick=watchdog.check,
        )

    def _start(self) -> None:
        self._keeper.start()
        steps = {
            "turn": self._turner.step,
            "wake-up": self._turner.wake,
            "alarm": self._turner.alarm,
            "give-back": self._turner.give_back,
            "timeouts": self._deadlines.step,
            "sweep": self._sweeper.step,
        }
        for name, step in steps.items():
            loop = supervise(name, step, self._clock, cap=_RETRY_CAP)
            self._loops.append(asyncio.create_task(loop, name=f"jobq {name}"))

    def _broker_time(self) -> float:
        return self._clock.time() + self._skew

    def _snapshot(self) -> tuple[int, Sequence[Beat]]:
        """The highest epoch received, and then all that this worker may still hold; for the lease thread."""
        # The broker puts back what is at or below this epoch and not named, so nothing that lives may be missing. A
        # job only ever moves on: it is unread before its epoch is in `resume`, held before it stops being unread, and
        # leaves the held ones when its outcome is stored or its token was lost. Reading the places in the same order,
        # while the loop goes on, finds each job in one of them; the other way round, one could slip past.
        # What arrives later is above this epoch (`Broker.turn`), so it does not matter when this reaches the broker.
        resume = self._turner.resume
        unread = self._turner.unread
        held = list(self._slots.held.values())  # one step under the GIL
        beats = {delivery.epoch: Beat(delivery.job.id, delivery.epoch) for delivery in unread}
        beats |= {each.epoch: Beat(each.delivery.job.id, each.epoch, each.progress) for each in held}
        return resume, list(beats.values())

    def _obey(self, orders: Orders) -> None:
        """Act on a heartbeat's answer."""
        self._skew = orders.now - self._clock.time()
        if orders.returned:
            log.warning("the broker has lost its last moments: %d jobs that had ended run again", orders.returned)
        for token in orders.lost:
            self._lose(token)
        for token in orders.cancel:
            if (held := self._slots.held.get(token.epoch)) is not None:
                held.cancel(Cause.ORDERED)
        self._turner.paused = frozenset(orders.paused)
        if orders.quiet:
            self._turner.claiming = False
        if not self._turner.leased.is_set():
            self._sweeper.registered.set()  # first, so that the neighbours know of us before we hold anything
            self._turner.leased.set()
            self._turner.look()

    def _lose(self, token: Token) -> None:
        """Somebody else may run this job now, or nobody needs to."""
        held = self._slots.held.get(token.epoch)
        if held is None or held.settled or held.leaving:
            return  # it ended while the heartbeat was under way; the broker has its outcome, or refuses it
        log.warning("the lease of %r was lost", held)
        if held.running:
            held.cancel(Cause.LEASE_LOST)
        else:
            self._slots.drop(held)

    def _fence(self) -> None:
        """The lease may end before it can be renewed: stop everything, so that no two workers run one job."""
        self._turner.leased.clear()
        log.error("no heartbeat got through for %.0f s: giving up %d jobs", self.options.lease, len(self._slots.held))
        for held in reversed(list(self._slots.held.values())):
            self._slots.give_up(held, Cause.LEASE_LOST)

    def _name_of(self, task: "asyncio.Task[object]") -> str:
        for held in list(self._slots.held.values()):
            if held.body is task:
                return repr(held)
        return f"the task {task.get_name()!r}"

    async def _end(self) -> None:
        """Stop, in at most grace + 2 seconds, whatever bodies and broker do."""
        self._stopping.set()
        self._shutdown = Shutdown(self._slots, self._turner, self._clock, self._grace)
        self.wedged = await self._shutdown.run()
        self._client.hurry(LAST_TURN)
        self._keeper.stop()
        await asyncio.gather(self._keeper.join(LAST_TURN), self._end_loops())
        await self._stack.aclose()

    async def _end_loops(self) -> None:
        """Cancel them, but let what they have asked the broker for end first, unless that takes too long."""
        idle = [asyncio.create_task(calling.acquire()) for calling in (self._turner.calling, self._sweeper.calling)]
        await asyncio.wait(idle, timeout=LAST_TURN)
        for task in (*idle, *self._loops):
            task.cancel()
        await asyncio.gather(*idle, *self._loops, return_exceptions=True)
