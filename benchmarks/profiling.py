"""The profiles of `profile.py`."""

import argparse
import asyncio
import cProfile
import pstats
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Final, Self, cast

from benchmarks import gauge
from benchmarks.contenders import cache
from benchmarks.places import place
from benchmarks.processes import Processes
from benchmarks.programs import load
from benchmarks.programs.jobq_app import app, noop
from benchmarks.programs.jobq_client import fill
from jobq import Client
from jobq.broker import Broker
from jobq.model import Claim, Outcome, Turn
from jobq.plugins import open_broker
from jobq.worker import Worker

__all__ = ["main"]

Stats = dict[tuple[str, int, str], tuple[int, int, float, float, object]]
Work = Callable[[], Awaitable[None]]
Watch = AbstractContextManager[object]
_EVERY: Final = 0.001
_SWITCH: Final = 0.0002


class Sampler:
    """Looks at what every other thread is doing, from a thread of its own."""

    def __init__(self) -> None:
        self.own: Counter[str] = Counter()
        self.under: Counter[str] = Counter()
        self.count = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, name="sampler")

    def __enter__(self) -> Self:
        self._interval = sys.getswitchinterval()
        sys.setswitchinterval(_SWITCH)  # else samples are taken where threads let go of the interpreter by themselves
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()
        sys.setswitchinterval(self._interval)

    def _look(self) -> None:
        while not self._stop.wait(_EVERY):
            self.count += 1
            names = {thread.ident: thread.name for thread in threading.enumerate()}
            for ident, frame in _frames().items():
                if ident != self._thread.ident:
                    self._note(names.get(ident, "?"), frame)

    def _note(self, thread: str, frame: FrameType | None) -> None:
        stack: list[str] = []
        while frame is not None:
            stack.append(f"[{thread}] {_where(frame.f_code.co_filename)}:{frame.f_code.co_name}")
            frame = frame.f_back
        self.own[stack[0]] += 1
        self.under.update(set(stack))

    def show(self, seconds: float, jobs: int, top: int) -> None:
        """Samples as microseconds of wall time a job."""
        cost = seconds / max(1, self.count) / jobs * 1e6
        print(f"{'own us/job':>10}  {'with callees':>12}  (wall time, {self.count} samples)")
        for name, samples in self.own.most_common(top):
            print(f"{samples * cost:10.2f}  {self.under[name] * cost:12.2f}  {name}")


class Calls:
    """cProfile of this thread."""

    def __init__(self) -> None:
        self._profile = cProfile.Profile()

    def __enter__(self) -> Self:
        self._profile.enable()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._profile.disable()

    def show(self, seconds: float, jobs: int, top: int) -> None:
        """Own time, most first."""
        del seconds
        stats = cast("Stats", cast("Any", pstats.Stats(self._profile)).stats)
        print(f"{'own us/job':>10}  {'with callees':>12}  {'calls/job':>9}")
        for (file, line, name), (_, calls, own, under, _) in sorted(stats.items(), key=lambda item: -item[1][2])[:top]:
            where = f"{_where(file)}:{line}:{name}" if line else name
            print(f"{own / jobs * 1e6:10.2f}  {under / jobs * 1e6:12.2f}  {calls / jobs:9.2f}  {where}")


async def one(client: Client, _: Broker, jobs: int) -> Work:
    """Enqueue one by one."""

    async def work() -> None:
        for number in range(jobs):
            await client.perform_async(noop, number)

    return work


async def together(client: Client, _: Broker, jobs: int) -> Work:
    """Enqueue from 100 coroutines."""

    async def work() -> None:
        await load.fill(lambda number: client.perform_async(noop, number), jobs)

    return work


async def bulk(client: Client, _: Broker, jobs: int) -> Work:
    """Enqueue by `perform_many`."""

    async def work() -> None:
        await fill(client, noop, jobs)

    return work


async def drain(client: Client, broker: Broker, jobs: int) -> Work:
    """Drain with one worker."""
    await fill(client, noop, jobs)
    done = gauge.read().count + jobs
    turns = Turns(broker)

    async def work() -> None:
        async with Worker(app, broker, concurrency=100):
            while gauge.read().count < done:
                await asyncio.sleep(0.01)
        turns.show(jobs)

    return work


class Turns:
    """How a worker's turns went: stands in for the broker's `turn`."""

    def __init__(self, broker: Broker) -> None:
        self._turn = broker.turn
        self._settled: list[int] = []
        self._claimed: list[int] = []
        self._seconds = 0.0
        setattr(broker, "turn", self)  # noqa: B010 - it is a method to the type checker

    async def __call__(self, outcomes: Sequence[Outcome], claim: Claim) -> Turn:
        settled, start = len(outcomes), time.perf_counter()
        turn = await self._turn(outcomes, claim)
        if settled or turn.deliveries:
            self._seconds += time.perf_counter() - start
            self._settled.append(settled)
            self._claimed.append(len(turn.deliveries))
        return turn

    def show(self, jobs: int) -> None:
        count = max(1, len(self._settled))
        print(
            f"{count} turns, on average {sum(self._settled) / count:.0f} outcomes and {sum(self._claimed) / count:.0f} "
            f"jobs; a turn was under way for {self._seconds / jobs * 1e6:.2f} us/job"
        )


def threads() -> dict[str, float]:
    """CPU seconds of each thread."""
    clocks = {thread.name: thread.ident for thread in threading.enumerate() if thread.ident is not None}
    return {name: time.clock_gettime(time.pthread_getcpuclockid(ident)) for name, ident in clocks.items()}


async def timed(prepare: Callable[[Client, Broker, int], Awaitable[Work]], url: str, jobs: int, watch: Watch) -> float:
    """Seconds for the work, watched; what led to it is not."""
    async with open_broker(url) as broker, Client(broker, timeout=60) as client:
        work = await prepare(client, broker, jobs)
        before, start = threads(), time.perf_counter()
        with watch:
            await work()
        seconds = time.perf_counter() - start
        if isinstance(watch, nullcontext):
            print(f"{seconds / jobs * 1e6:.2f} us/job ({jobs / seconds:,.0f}/s); CPU of each thread, us/job:")
            for name, cpu in threads().items():
                print(f"{(cpu - before.get(name, 0.0)) / jobs * 1e6:10.2f}  {name}")
    return seconds


def _frames() -> dict[int, FrameType]:
    return sys._current_frames()  # pyright: ignore[reportPrivateUsage] - documented, for this


def _where(file: str) -> str:
    """The end of a path: enough to know it by."""
    return "/".join(Path(file).parts[-2:])


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="benchmarks/profile.py", description="where the microseconds of a job go")
    what = {function.__name__: function for function in (one, together, bulk, drain)}
    parser.add_argument("what", choices=what)
    parser.add_argument("--broker", choices=("memory", "redis", "rmq", "sqlite"), default="memory")
    parser.add_argument("--how", choices=("calls", "samples"), default="calls")
    parser.add_argument("--jobs", type=int, help="default: 50,000, or 5,000 one by one")
    parser.add_argument("--top", type=int, default=25, help="functions to print (25)")
    asked = parser.parse_args()
    jobs = asked.jobs or (5_000 if asked.what == "one" else 50_000)
    watch = Calls() if asked.how == "calls" else Sampler()
    with tempfile.TemporaryDirectory(prefix="profile-", dir=cache()) as name:
        directory = Path(name)
        with Processes(directory) as processes, place(asked.broker, directory, processes) as where:
            load.run(_both(what[asked.what], where.url, jobs, watch, asked.top))


async def _both(
    prepare: Callable[[Client, Broker, int], Awaitable[Work]], url: str, jobs: int, watch: Calls | Sampler, top: int
) -> None:
    await timed(prepare, url, jobs, nullcontext())
    seconds = await timed(prepare, url, jobs, watch)
    watch.show(seconds, jobs, top)
