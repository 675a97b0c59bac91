"""The enqueuers' loops, the same for all contenders. Standard library only (uvloop if there is one): peers run it too.

A client program is called `PROGRAM MODE URL AMOUNT` and prints one JSON object. Modes: `one` and `together` enqueue
for AMOUNT seconds, one by one and from 100 at once; `bulk` stores AMOUNT jobs by the bulk call; `noops` and `naps`
fill the queue with AMOUNT jobs; `paced` enqueues AMOUNT jobs, one about every 10 ms. Where tables have to be made,
`prepare` makes them.
"""

import asyncio
import json
import random
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any, Final

WIDTH: Final = 100
THREADS: Final = 16
WARM_UP: Final = 0.3
INTERVAL: Final = 0.010
JITTER: Final = 0.002
LIFE: Final = 600
CHUNK: Final = 1_000

Send = Callable[[int], Awaitable[object]]
Drained = tuple[float, float]
"""Jobs a second, and nanoseconds of this process's CPU time for each."""
SendNow = Callable[[int], object]
SendTo = Callable[[str, int], Awaitable[object]]
"""By the name of a task: `noop`, `nap` or `stamp`."""
SendManyTo = Callable[[str, Sequence[int]], Awaitable[object]]


def arguments() -> tuple[str, str, float]:
    """MODE, URL and AMOUNT; also sees to it that the process does not live for ever."""
    signal.alarm(LIFE)
    mode, url, amount = sys.argv[1:4]
    return mode, url, float(amount)


def report(**values: float) -> None:
    """Print the result."""
    print(json.dumps(values))


class Meter:
    """Runs from its making on."""

    def __init__(self) -> None:
        self._start, self._cpu = time.perf_counter(), time.process_time_ns()

    def read(self, count: int) -> Drained:
        """What was needed for `count` jobs."""
        return count / (time.perf_counter() - self._start), (time.process_time_ns() - self._cpu) / max(1, count)


def run(main: Coroutine[Any, Any, None]) -> None:
    """On uvloop, if it is installed."""
    with suppress(ImportError):
        import uvloop  # noqa: PLC0415 - optional

        uvloop.run(main)
        return
    asyncio.run(main)


async def one_by_one(send: Send, seconds: float) -> float:
    """Awaited calls a second."""
    await _until(send, time.perf_counter() + WARM_UP)
    start = time.perf_counter()
    count = await _until(send, start + seconds)
    return count / (time.perf_counter() - start)


async def together(send: Send, seconds: float) -> float:
    """Awaited calls a second of 100 coroutines."""
    await _all_until(send, WARM_UP)
    start = time.perf_counter()
    count = await _all_until(send, seconds)
    return count / (time.perf_counter() - start)


async def fill(send: Send, count: int) -> None:
    """`count` calls, by 100 coroutines."""

    async def some(first: int) -> None:
        for number in range(first, count, WIDTH):
            await send(number)

    await asyncio.gather(*(some(first) for first in range(WIDTH)))


async def paced(send: Send, count: int) -> None:
    """A call now and then, each with the time at which it begins."""
    for _ in range(count):
        await asyncio.sleep(INTERVAL + random.uniform(-JITTER, JITTER))
        await send(time.monotonic_ns())


async def act(send: SendTo, send_many: SendManyTo, mode: str, amount: float) -> None:
    """What MODE asks of a peer that has a bulk call."""
    match mode:
        case "one":
            report(rate=await one_by_one(partial(send, "noop"), amount))
        case "together":
            report(rate=await together(partial(send, "noop"), amount))
        case "bulk":
            report(rate=await bulk(partial(send_many, "noop"), int(amount)))
        case "noops" | "naps":
            for start in range(0, int(amount), CHUNK):
                await send_many(mode.removesuffix("s"), range(start, min(start + CHUNK, int(amount))))
            report()
        case _:
            await paced(partial(send, "stamp"), int(amount))
            report()


async def bulk(send_many: Callable[[Sequence[int]], Awaitable[object]], count: int, repeats: int = 3) -> float:
    """Jobs a second, of calls with `count` jobs each."""
    await send_many(range(CHUNK))
    start = time.perf_counter()
    for _ in range(repeats):
        await send_many(range(count))
    return repeats * count / (time.perf_counter() - start)


async def _all_until(send: Send, seconds: float) -> int:
    end = time.perf_counter() + seconds
    return sum(await asyncio.gather(*(_until(send, end) for _ in range(WIDTH))))


async def _until(send: Send, end: float) -> int:
    count = 0
    while time.perf_counter() < end:
        await send(count)
        count += 1
    return count


def one_by_one_now(send: SendNow, seconds: float) -> float:
    """Calls a second of a library that blocks."""
    _until_now(send, time.perf_counter() + WARM_UP)
    start = time.perf_counter()
    count = _until_now(send, start + seconds)
    return count / (time.perf_counter() - start)


def together_now(send: SendNow, seconds: float) -> float:
    """Calls a second of 16 threads."""
    with ThreadPoolExecutor(THREADS) as pool:
        until = partial(_until_now, send)
        list(pool.map(until, [time.perf_counter() + WARM_UP] * THREADS))
        start = time.perf_counter()
        count = sum(pool.map(until, [start + seconds] * THREADS))
        return count / (time.perf_counter() - start)


def paced_now(send: SendNow, count: int) -> None:
    """As `paced`, for a library that blocks."""
    for _ in range(count):
        time.sleep(INTERVAL + random.uniform(-JITTER, JITTER))
        send(time.monotonic_ns())


def _until_now(send: SendNow, end: float) -> int:
    count = 0
    while time.perf_counter() < end:
        send(count)
        count += 1
    return count
