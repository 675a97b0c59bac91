"""From a delivery to an outcome, in named steps."""

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

import anyio.to_thread
from anyio import CapacityLimiter

from jobq._context import running
from jobq.client import Client
from jobq.errors import DecodeError, Discard, JobAborted, JobPoisonous, JobTimeout, TaskUnknown, Verdict
from jobq.middleware import Handler, chain
from jobq.model import Again, Cancelled, Dead, Delivery, Done, Job, Outcome, Released
from jobq.registry import AsyncTask, FailureHandler, Registry, Task, TaskOptions
from jobq.worker.deadlines import Deadlines
from jobq.worker.held import Cause, Doom, Held, Surroundings
from jobq.worker.outcomes import Scribe, failure_of
from jobq.worker.slots import Slots

__all__ = ["Executor"]

HANDLER_TIMEOUT: Final = 30.0
"""Seconds that an `on_failure` or `on_dead` handler may take."""
_UNKNOWN: Final = TaskOptions()
_GIVEN_BACK: Final = (Cause.SHUTDOWN, Cause.LEASE_LOST)
"""Why a run is stopped that is nobody's failure and nobody's wish: it is to begin anew elsewhere."""

log = logging.getLogger("jobq.worker")


class Executor:
    """Runs jobs. Whatever happens in a body, each delivery ends in exactly one outcome, or was lost with its lease."""

    def __init__(
        self,
        registry: Registry,
        slots: Slots,
        deadlines: Deadlines,
        scribe: Scribe,
        client: Client,
        *,
        state: dict[str, Any],
        now: Callable[[], float],
        park_grace: float,
    ) -> None:
        self._tasks = registry.tasks
        self._slots = slots
        self._deadlines = deadlines
        self._scribe = scribe
        self._surroundings = Surroundings(scribe.worker, client, state)
        self._now = now
        self._park_grace = park_grace
        self._limiter = CapacityLimiter(slots.concurrency)
        for task in registry.tasks.values():
            task.signature.prepare()
        self._handler: Handler | None = chain(registry.middlewares, _innermost) if registry.middlewares else None
        self._create_task = asyncio.get_running_loop().create_task

    def admit(self, delivery: Delivery) -> None:
        """Take a claimed job: it will wait for a slot, or it has its outcome already. Raises nothing."""
        held = Held(delivery, self._surroundings)
        self._slots.add(held)
        try:
            self._sort(held)
        except BaseException as exc:  # whatever it was (a validator may call sys.exit()), it is about this job alone
            log.exception("%r could not be taken; it counts as a failure", held)
            self._slots.settle(held, self._failed(held, f"the worker could not take it: {failure_of(exc)}"))

    def _sort(self, held: Held) -> None:
        delivery = held.delivery
        task = self._tasks.get(delivery.job.task)
        if delivery.malformed is not None:
            self._bury(held, DecodeError(delivery.malformed), None)
        elif task is None:
            self._park(held)
        elif len(delivery.crashes) >= task.config.max_crashes:
            times = len(delivery.crashes)
            self._bury(held, JobPoisonous(f"held by a worker that died {times} times"), task)
        else:
            self._prepare(held, task)

    def refuse(self, delivery: Delivery) -> None:
        """Give a job back that was claimed before, and arrived after, the worker stopped claiming."""
        held = Held(delivery, self._surroundings)
        self._slots.add(held)
        self._slots.settle(held, _released(held))

    def start_waiting(self) -> None:
        """Start what waits, as far as there are slots."""
        while (held := self._slots.take()) is not None:
            doom = held.doom
            held.body = self._create_task(self._run(held) if doom is None else self._bury_with_handler(held, doom))
            if held.timeout is not None:
                self._deadlines.add(held)

    def _prepare(self, held: Held, task: Task[..., Any]) -> None:
        try:
            args, kwargs = task.signature.decode(held.delivery.job.body)
        except DecodeError as exc:
            self._bury(held, exc, task)
            return
        held.timeout = task.config.timeout
        held.prepare(self._runner(task), args, kwargs)
        self._slots.queue(held)

    async def _run(self, held: Held) -> None:
        held.started = True
        token = running.set(held)
        delivery = held.delivery
        try:
            if self._handler is None:
                await held.run()
            else:
                await self._handler(delivery.job)
        except BaseException as exc:
            self._deadlines.discard(held)
            outcome = None if held.leaving else await self._outcome_after(held, exc)
            if held.leaving and held.cause is None:
                log.warning("%r is done, as its transaction has committed; after that it raised", held, exc_info=exc)
        else:
            if held.deadline is not None:
                self._deadlines.discard(held)
            outcome = None if held.leaving else Done(delivery.job.id, delivery.epoch)
            if held.cause is Cause.TIMEOUT:
                log.warning("%r took longer than its timeout, yet it ended; its end counts", held)
        running.reset(token)  # else job, task and context are a circle, which is memory until it is collected
        self._end(held, outcome)

    def _end(self, held: Held, outcome: Outcome | None) -> None:
        """It has its outcome, unless its transaction was that, and the next one its slot."""
        if outcome is None:
            self._slots.drop(held)
        else:
            self._slots.settle(held, outcome)
        if self._slots.waiting:
            self.start_waiting()

    async def _outcome_after(self, held: Held, exc: BaseException) -> Outcome:
        try:
            return await self._after(held, exc)
        except BaseException:  # whatever goes wrong here, the job must have an outcome, and its slot an end
            log.exception("what became of %r could not be decided; it counts as a failure", held)
            return self._failed(held, "see the worker's log")

    def _failed(self, held: Held, why: str) -> Outcome:
        """What follows when it is the worker that failed: the same as after a body's error, so that it has an end."""
        task = self._tasks.get(held.delivery.job.task)
        options = _UNKNOWN if task is None else task.config
        return self._scribe.after_error(held.delivery, JobAborted(why), options, self._now())

    async def _after(self, held: Held, exc: BaseException) -> Outcome:
        """What a body's exception means; the worker's own cancellations are no errors."""
        delivery, cause = held.delivery, held.cause
        if cause in _GIVEN_BACK:
            # after a lost lease the broker refuses this, unless the lease was only feared lost: then it is due
            return _released(held)
        if cause is Cause.ORDERED:
            return self._scribe.cancelled(delivery, "ordered", self._now())
        if cause is Cause.TIMEOUT and isinstance(exc, asyncio.CancelledError):
            timeout = JobTimeout(f"it ran longer than its timeout of {held.timeout:g} s")
            timeout.__cause__ = exc
            exc = timeout
        elif not isinstance(exc, Exception):
            aborted = JobAborted(f"the body raised {failure_of(exc)}")
            aborted.__cause__ = exc
            exc = aborted
        task = self._tasks[delivery.job.task]
        outcome = self._scribe.after_error(delivery, exc, task.config, self._now())
        if isinstance(exc, Discard):  # nothing is stored of it, so this is its only trace
            log.info("%r was discarded: %s", held, exc.reason)
        if not isinstance(exc, Verdict) or isinstance(outcome, Dead):
            handler = task.config.on_dead if isinstance(outcome, Dead) else task.config.on_failure
            self._log_failure(held, outcome)
            if handler is not None and not await self._call_handler(handler, held, exc):
                return _released(held)
        return outcome

    def _park(self, held: Held) -> None:
        delivery, now = held.delivery, self._now()
        since = delivery.trail.parked
        name = delivery.job.task
        if since is not None and now - since >= self._park_grace:
            self._bury(held, TaskUnknown(f"unknown task {name!r}: no worker knew it for {self._park_grace:g} s"), None)
            return
        if since is None:
            log.warning("%r is put aside: this worker knows no task %r", held, name)
        self._slots.settle(held, self._scribe.parked(delivery, now))

    def _bury(self, held: Held, exc: BaseException, task: Task[..., Any] | None) -> None:
        options = _UNKNOWN if task is None else task.config
        log.error("%r is dead: %s", held, exc)
        outcome = self._scribe.buried(held.delivery, exc, self._now(), keep=options.keep_dead)
        if options.on_dead is None:
            self._slots.settle(held, outcome)
        else:
            held.doom = Doom(exc, options.on_dead, outcome)
            self._slots.queue(held)

    async def _bury_with_handler(self, held: Held, doom: Doom) -> None:
        held.started = True
        called = await self._call_handler(doom.handler, held, doom.exc)
        self._end(held, doom.outcome if called else _released(held))

    async def _call_handler(self, handler: FailureHandler, held: Held, exc: BaseException) -> bool:
        """Call it; what it raises is logged. False if the worker cut it short, so that it has to be called again."""
        job = held.delivery.job
        held.body_ended()
        try:
            async with asyncio.timeout(HANDLER_TIMEOUT):
                if inspect.iscoroutinefunction(handler):
                    await handler(job, exc)
                else:
                    call = anyio.to_thread.run_sync(handler, job, exc, limiter=self._limiter, abandon_on_cancel=True)
                    if inspect.isawaitable(value := await call):
                        await value
        except BaseException:  # not even sys.exit() in a handler may cost the job its outcome
            if held.cause in _GIVEN_BACK:
                log.warning("the handler %r of %r was cut short; the job is given back", handler, held)
                return False
            log.exception("the handler %r of job %s failed", handler, job.id)
        return True

    def _log_failure(self, held: Held, outcome: Again | Dead | Cancelled) -> None:
        failure = "" if outcome.trail.failure is None else str(outcome.trail.failure)
        if isinstance(outcome, Dead):
            log.error("%r is dead after attempt %d: %s", held, outcome.trail.attempt, failure)
        else:
            log.info("%r failed and runs again: %s", held, failure)

    def _runner(self, task: Task[..., Any]) -> Callable[..., Awaitable[object]]:
        if isinstance(task, AsyncTask):
            return partial(_run_in_transaction, task.function) if task.config.transaction else task.function
        return partial(self._run_in_thread, task.function)

    async def _run_in_thread(self, function: Callable[..., object], *args: object, **kwargs: object) -> object:
        """Run a plain function in a thread. The slot and the lease stay with it until it returns, come what may."""
        current = running.get().current
        current.in_thread()
        call = anyio.to_thread.run_sync(_run_apart, partial(function, *args, **kwargs), limiter=self._limiter)
        thread = self._create_task(call)
        while not thread.done():
            try:
                await asyncio.shield(thread)
            except asyncio.CancelledError:
                if thread.done():
                    break
                current.cancel()  # nobody can stop a thread; it may ask
        value, exc = thread.result()
        if exc is not None:
            raise exc
        return await value if inspect.isawaitable(value) else value


async def _run_in_transaction(function: Callable[..., Awaitable[object]], *args: object, **kwargs: object) -> object:
    async with running.get().transaction():
        return await function(*args, **kwargs)


def _run_apart(call: Callable[[], object]) -> tuple[object, BaseException | None]:
    """The end of a call as a value: SystemExit, raised in an asyncio task, would end the event loop."""
    try:
        return call(), None
    except BaseException as exc:  # noqa: BLE001
        return None, exc


def _released(held: Held) -> Released:
    return Released(held.delivery.job.id, held.epoch)


async def _innermost(_: Job) -> object:
    return await running.get().run()
