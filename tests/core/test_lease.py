"""Leases: kept through blocked loops, given up in time, and no alarm without end. In real time, with short ones."""

# ruff: noqa: SIM117 - what starts in the outer block is to outlive the inner one

import asyncio
import copy
import itertools
import logging
import sys
import threading
import time
from collections import Counter
from types import FrameType
from typing import Any, cast

import pytest

import jobq
from jobq import App, Client, Retry
from jobq.model import Claim, Delivery, Done, Job, Released, WorkerInfo
from jobq.worker import Worker
from jobq.worker.held import Held, Surroundings
from jobq_memory import MemoryBroker
from tests.core.bench import Faulty, state_of, until

JOBS = 30_000
SHORT: dict[str, Any] = {"lease": 1.0, "renew": 0.3, "sweep": 0.1, "max_lag": 0.3}


def block(seconds: float) -> None:
    """Keep the event loop from running, as a careless body does."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


async def test_a_body_that_blocks_the_loop_for_several_leases_loses_nothing_and_is_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app, ran = App(), Counter[str]()

    @app.task(name="blocker")
    async def blocker() -> None:
        ran["blocker"] += 1
        block(3.5)

    @app.task(name="innocent")
    async def innocent() -> None:
        await asyncio.sleep(0.01)
        ran["innocent"] += 1

    async with MemoryBroker() as broker, Client(broker) as client:
        stop, swept = threading.Event(), list[int]()

        def sweeper() -> None:
            """Another worker, on another loop, which would take whatever has no lease."""

            async def sweep() -> None:
                async with broker.twin() as other:
                    while not stop.is_set():
                        swept.append((await other.sweep("elsewhere", 100)).reclaimed)
                        await asyncio.sleep(0.05)

            asyncio.run(sweep())

        thread = threading.Thread(target=sweeper)
        thread.start()
        try:
            async with Worker(app, broker, **SHORT):
                await client.perform_many([blocker.call(), *(innocent.call() for _ in range(10))])
                await until(lambda: not state_of(broker).jobs)
        finally:
            stop.set()
            await asyncio.to_thread(thread.join)
    assert ran == {"blocker": 1, "innocent": 10}
    assert sum(swept) == 0
    (warning,) = [r.getMessage() for r in caplog.records if "has blocked the event loop" in r.getMessage()]
    assert "of blocker has blocked the event loop" in warning
    assert "block(3.5)" in warning
    assert any("the event loop runs again" in record.getMessage() for record in caplog.records)
    assert not [r for r in caplog.records if "heartbeat" in r.getMessage() or "lost" in r.getMessage()]


async def test_a_worker_that_cannot_renew_gives_its_jobs_up_before_the_lease_ends_and_recovers(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app, log = App(), list[tuple[str, float]]()

    @app.task(retry=Retry(max_retries=0))
    async def work() -> None:
        log.append(("start", time.monotonic()))
        try:
            await asyncio.sleep(1.3 if len(log) == 1 else 0)
        except asyncio.CancelledError:
            log.append(("cancelled", time.monotonic()))
            raise
        log.append(("done", time.monotonic()))

    async with MemoryBroker() as memory, Client(memory) as client:
        broker = Faulty(memory)
        async with Worker(app, broker, **SHORT) as worker:
            await client.perform_async(work)
            await until(lambda: log)
            broker.twin_faults.down = True
            lease = next(iter(state_of(memory).leases.values()))
            await until(lambda: len(log) >= 2)
            assert log[1][0] == "cancelled"
            assert time.time() < lease.end, "given up only after the broker's lease had ended"
            await until(lambda: worker.running == 0)
            entry = next(iter(state_of(memory).jobs.values()))
            assert (entry.epoch, entry.trail.attempt) == (None, 0)
            await asyncio.sleep(0.3)
            assert len(log) == 2, "a worker without a lease must not claim"
            broker.twin_faults.down = False
            await until(lambda: not state_of(memory).jobs)
    assert [what for what, _ in log] == ["start", "cancelled", "start", "done"]
    assert len([r for r in caplog.records if "giving up 1 jobs" in r.getMessage()]) == 1
    assert state_of(memory).dead == {}


async def test_a_handler_that_a_lost_lease_cuts_is_called_again() -> None:
    app, calls, ends = App(), list[int](), list[int]()

    async def died(job: Job, _: BaseException) -> None:
        calls.append(len(calls))
        if len(calls) == 1:
            await asyncio.Event().wait()
        ends.append(len(calls))

    @app.task(retry=Retry(max_retries=0), on_dead=died)
    async def work() -> None:
        raise ValueError

    async with MemoryBroker() as memory, Client(memory) as client:
        broker = Faulty(memory)
        async with Worker(app, broker, **SHORT) as worker:
            handle = await client.perform_async(work)
            await until(lambda: calls)
            broker.twin_faults.down = True
            await until(lambda: worker.running == 0)
            assert state_of(memory).dead == {}
            broker.twin_faults.down = False
            await until(lambda: handle.id in state_of(memory).dead)
    assert (len(calls), ends) == (2, [2])


async def test_what_arrives_after_the_worker_has_fenced_itself_is_not_started() -> None:
    """A claim whose reply was slow: by the time it is here, nobody knows whether the lease still holds."""
    app, ran = App(), list[float]()

    @app.task
    async def work() -> None:
        ran.append(time.monotonic())

    class SlowReply(Faulty):
        reply: asyncio.Event | None = None

        async def turn(self, outcomes: Any, claim: Claim) -> Any:
            answer = await super().turn(outcomes, claim)
            if answer.deliveries and self.reply is not None:
                await self.reply.wait()
            return answer

    async with MemoryBroker() as memory, Client(memory) as client:
        broker = SlowReply(memory)
        async with Worker(app, broker, **SHORT) as worker:
            await until(lambda: broker.faults.calls["wait"])
            broker.reply = asyncio.Event()
            handle = await client.perform_async(work)
            await until(lambda: state_of(memory).jobs[handle.id].epoch is not None)
            broker.twin_faults.down = True
            await until(lambda: not worker._turner.leased.is_set())
            broker.reply.set()
            await until(lambda: worker.running == 0)
            await asyncio.sleep(0.1)
            assert ran == []
            broker.twin_faults.down = False
            broker.reply = None
            await until(lambda: not state_of(memory).jobs)
    assert len(ran) == 1


async def test_a_thread_outlives_its_lease_and_its_outcome_is_refused_without_an_alarm_loop(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app, go, runs = App(), threading.Event(), list[int]()

    @app.task
    def work() -> None:
        runs.append(jobq.current().epoch)
        if len(runs) == 1:
            go.wait()

    async with MemoryBroker() as memory, Client(memory) as client:
        broker = Faulty(memory)
        async with Worker(app, broker, **SHORT):
            handle = await client.perform_async(work)
            await until(lambda: runs)
            broker.twin_faults.down = True
            await until(lambda: any("giving up" in record.getMessage() for record in caplog.records))
            broker.faults.down = True
            await until(lambda: next(iter(state_of(memory).leases.values())).end < time.time())
            await memory.sweep(
                "elsewhere", 100
            )  # before the worker is back: had it been quicker, the job were still its own
            broker.faults.down = broker.twin_faults.down = False
            await until(lambda: handle.id not in state_of(memory).jobs or len(runs) > 1)
            go.set()
            await until(lambda: not state_of(memory).jobs)
            await asyncio.sleep(0.2)
            before = len(caplog.records)
            turns = broker.faults.calls["turn"]
            await asyncio.sleep(0.5)
            assert broker.faults.calls["turn"] - turns < 10
            assert len([r for r in caplog.records[before:] if r.levelno >= logging.WARNING]) == 0
    assert len(runs) == 2
    assert runs[1] > runs[0]


async def test_a_job_that_somebody_else_took_is_cancelled_and_has_no_outcome(caplog: pytest.LogCaptureFixture) -> None:
    app, log = App(), list[str]()

    @app.task
    async def work() -> None:
        log.append("start")
        try:
            await asyncio.Event().wait()
        finally:
            log.append("end")

    async with MemoryBroker() as memory, Client(memory) as client:
        broker = Faulty(memory)
        async with Worker(app, broker, grace=0.1, **SHORT) as worker:
            handle = await client.perform_async(work)
            await until(lambda: log == ["start"])
            # somebody believes that this worker is dead, and takes its job
            thief = WorkerInfo("thief", "elsewhere")
            worker._turner.claiming = False
            await memory.heartbeat(thief, (), 60)
            await memory.sweep("elsewhere", 100, (worker.id,))
            turn = await memory.turn((), Claim("thief", ("default",), 1))
            assert [delivery.job.id for delivery in turn.deliveries] == [handle.id]
            await until(lambda: log == ["start", "end"])
            await until(lambda: worker.running == 0)
            entry = state_of(memory).jobs[handle.id]
            assert (entry.epoch, entry.worker) == (turn.deliveries[0].epoch, "thief")
            assert entry.crashes == (), "the worker turned up alive, so it was no crash"
            assert (await memory.turn([Done(handle.id, turn.deliveries[0].epoch)], Claim("thief"))).refused == []
    assert any("the lease of" in record.getMessage() for record in caplog.records)
    assert all(isinstance(outcome, Released) for outcome in broker.outcomes())


async def test_a_worker_that_the_broker_has_forgotten_gets_a_new_lease_at_once() -> None:
    app, ran = App(), list[int]()

    @app.task
    async def work(n: int) -> None:
        ran.append(n)

    async with MemoryBroker() as broker, Client(broker) as client:
        async with Worker(app, broker, lease=60, renew=20) as worker:
            await client.perform_async(work, 1)
            await until(lambda: ran == [1])
            state_of(broker).leases.clear()
            await client.perform_async(work, 2)
            await until(lambda: ran == [1, 2], 5)
            assert worker.id in state_of(broker).leases


async def test_the_jobs_of_a_worker_that_died_run_again_after_its_lease() -> None:
    app, ran = App(), list[int]()

    @app.task
    async def work(n: int) -> None:
        ran.append(n)

    async with MemoryBroker() as broker, Client(broker) as client:
        await client.perform_many([work.call(n) for n in range(5)])
        await broker.heartbeat(WorkerInfo("dead", "elsewhere"), (), 0.5)
        assert len((await broker.turn((), Claim("dead", ("default",), 10))).deliveries) == 5
        begun = time.monotonic()
        async with Worker(app, broker, **SHORT):
            await until(lambda: len(ran) == 5)
        assert 0.4 < time.monotonic() - begun < 0.5 + 0.1 * 1.25 + 1
    assert sorted(ran) == [0, 1, 2, 3, 4]


async def test_progress_is_in_the_next_heartbeat() -> None:
    app, go = App(), asyncio.Event()

    @app.task
    async def work() -> None:
        jobq.current().progress(3, 4)
        await go.wait()

    beats = list[float | None]()

    class Watching(MemoryBroker):
        def twin(self) -> MemoryBroker:
            other = super().twin()
            original = other.heartbeat

            async def heartbeat(worker: Any, some: Any, lease: float, resume: int = 0) -> Any:
                beats.extend(beat.progress for beat in some)
                return await original(worker, some, lease, resume)

            setattr(other, "heartbeat", heartbeat)  # noqa: B010 - both checkers accept it
            return other

    async with Watching() as broker, Client(broker) as client, Worker(app, broker, **SHORT):
        await client.perform_async(work)
        await until(lambda: 0.75 in beats)
        go.set()


async def test_a_neighbour_that_is_provably_dead_is_swept_long_before_its_lease_ends() -> None:
    import subprocess  # noqa: PLC0415

    from jobq.worker.identity import _start_time, host_id  # noqa: PLC0415

    app, ran = App(), list[int]()

    @app.task
    async def work() -> None:
        ran.append(1)

    process = await asyncio.to_thread(
        subprocess.Popen, [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, text=True
    )
    host = host_id()
    peer = WorkerInfo(f"{host}-{process.pid}-{_start_time(process.pid)}-abcd", host)
    async with MemoryBroker() as broker, Client(broker) as client:
        await client.perform_async(work)
        await broker.heartbeat(peer, (), 600)
        assert len((await broker.turn((), Claim(peer.id, ("default",), 10))).deliveries) == 1
        async with Worker(app, broker, sweep=600):
            await asyncio.sleep(0.2)
            assert ran == []
            process.kill()
            await asyncio.to_thread(process.wait)
            if process.stdin is not None:
                process.stdin.close()
            begun = time.monotonic()
            await until(lambda: ran)
            assert time.monotonic() - begun < 3


@pytest.mark.parametrize("outcome", ["done", "again"])
async def test_what_a_broker_has_forgotten_that_it_was_settled_runs_again_here(
    outcome: str, caplog: pytest.LogCaptureFixture
) -> None:
    app, runs, go = App(), list[tuple[str, int]](), asyncio.Event()

    @app.task(retry=Retry(backoff=lambda _: 3600.0))
    async def work(name: str) -> None:
        current = jobq.current()
        first = all(name != before for before, _ in runs)
        runs.append((name, current.attempt))
        if first:
            await go.wait()
            if outcome == "again":
                raise RuntimeError("later")

    async with MemoryBroker() as broker, Client(broker) as client, Worker(app, broker, **SHORT):
        await client.perform_many([work.call(name) for name in "abc"])
        await until(lambda: len(runs) == 3)
        before = copy.deepcopy(state_of(broker))
        go.set()
        await until(lambda: not any(entry.epoch for entry in state_of(broker).jobs.values()))
        broker._here.state = before
        assert len(before.leases) == 1, "the worker lives, so no sweep would ever help"
        await until(lambda: not before.jobs)
    assert sorted(runs[3:]) == [("a", 1), ("b", 1), ("c", 1)]
    assert [r.getMessage() for r in caplog.records if "lost its last moments" in r.getMessage()]


async def test_at_every_line_of_the_loop_all_that_the_worker_has_received_is_named() -> None:
    app, looks = App(), Counter[bool]()

    @app.task
    async def work() -> None:
        await asyncio.sleep(0)

    async with MemoryBroker() as broker, Client(broker) as client:
        async with Worker(app, broker, concurrency=5, lease=60) as worker:

            def look(frame: FrameType, event: str, _: object) -> Any:
                if "/jobq/worker/" not in frame.f_code.co_filename or frame.f_code is Worker._snapshot.__code__:
                    return None
                if event == "line" and worker.id in state_of(broker).leases:
                    resume, beats = worker._snapshot()
                    named = {beat.epoch for beat in beats}
                    held = [entry.epoch or 0 for entry in state_of(broker).leases[worker.id].held.values()]
                    looks[all(epoch in named for epoch in held if epoch <= resume)] += 1
                return look

            before = sys.gettrace()
            sys.settrace(look)
            try:
                await client.perform_many([work.call() for _ in range(200)])
                await until(lambda: not state_of(broker).jobs)
            finally:
                sys.settrace(before)
    assert looks[True] > 1000
    assert not looks[False]


class Going:
    """Stands for the turner and the slots of a loop that goes on by some steps before each look at it.

    The one job arrives, is received, is held, is no longer unread, and its outcome is stored.
    """

    def __init__(self, delivery: Delivery, steps: tuple[int, ...]) -> None:
        self._delivery = delivery
        self._steps = iter(steps)
        self.at = 0

    @property
    def resume(self) -> int:
        self.at += next(self._steps)
        return self._delivery.epoch if self.at >= 2 else 0

    @property
    def unread(self) -> list[Delivery]:
        self.at += next(self._steps)
        return [self._delivery] if 1 <= self.at < 4 else []

    @property
    def held(self) -> dict[int, Held]:
        self.at += next(self._steps)
        around = Surroundings("w", Client(MemoryBroker()), {})
        return {self._delivery.epoch: Held(self._delivery, around)} if 3 <= self.at < 5 else {}


def test_a_job_that_moves_on_between_the_looks_of_the_lease_thread_is_found_somewhere() -> None:
    worker, delivery = Worker(App(), "memory://"), Delivery(Job(id="a", task="t"), 7)
    for steps in itertools.product(range(6), repeat=3):
        going = Going(delivery, steps)
        worker._turner = worker._slots = cast("Any", going)
        resume, beats = worker._snapshot()
        stored = going.at >= 5
        assert stored or resume < delivery.epoch or [beat.epoch for beat in beats] == [delivery.epoch], steps


async def test_however_threads_interleave_no_job_that_lives_here_is_ever_put_back() -> None:
    """Heartbeats without a pause, from a thread that the interpreter switches to as often as it can."""
    app, ran, returned = App(), Counter[int](), list[int]()

    @app.task
    async def work(n: int) -> None:
        ran[n] += 1
        await asyncio.sleep(0)

    main = asyncio.get_running_loop()

    class Watching(MemoryBroker):
        def twin(self) -> MemoryBroker:
            other = super().twin()
            original = other.heartbeat

            async def heartbeat(worker: Any, beats: Any, lease: float, resume: int = 0) -> Any:
                orders = await original(worker, beats, lease, resume)
                returned.append(orders.returned)
                if len(returned) % 10 == 0:  # or the worker would do nothing but obey orders
                    await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(asyncio.sleep(0), main))
                return orders

            setattr(other, "heartbeat", heartbeat)  # noqa: B010 - both checkers accept it
            return other

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        async with Watching() as broker, Client(broker) as client:
            async with Worker(app, broker, concurrency=20, lease=60, renew=1e-6):
                for first in range(0, JOBS, 500):
                    await client.perform_many([work.call(n) for n in range(first, first + 500)])
                await until(lambda: not state_of(broker).jobs, 60)
    finally:
        sys.setswitchinterval(interval)
    assert len(returned) > 1
    assert sum(returned) == 0
    assert ran == Counter(range(JOBS))
