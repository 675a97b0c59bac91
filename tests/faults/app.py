"""The jobs of the fault tests. Each run leaves lines in a ledger: `nanoseconds id epoch attempt pid what`.

A line is one write to a file opened for appending, so it is whole and stays, however its process ends.
"""

import asyncio
import ctypes
import os
import time
from functools import cache
from pathlib import Path

import jobq
from jobq import App, Handler, Job, Retry

LEDGER = "JOBQ_TEST_LEDGER"
GATES = "JOBQ_TEST_GATES"
LOOK = 0.005

app = App()
soon = Retry(max_retries=25, backoff=lambda _: 0.1)
late = Retry(max_retries=25, backoff=lambda _: 3600.0)
never = Retry(max_retries=0)


@cache
def _ledger() -> int:
    return os.open(os.environ[LEDGER], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def now() -> int:
    """Nanoseconds on the clock that the ledger goes by."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def note(what: str) -> None:
    """One line about the job that runs here."""
    job = jobq.current()
    os.write(_ledger(), f"{now()} {job.id} {job.epoch} {job.attempt} {os.getpid()} {what}\n".encode())


@app.middleware
async def noted(job: Job, call_next: Handler) -> object:
    note("start")
    try:
        result = await call_next(job)
    except asyncio.CancelledError:
        note("cancel")
        raise
    except BaseException:
        note("fail")
        raise
    note("end")
    return result


@app.task
async def nap(seconds: float) -> None:
    await asyncio.sleep(seconds)


@app.task
async def gate(name: str) -> None:
    """Wait until the test opens the gate."""
    while not _gate(name).exists():
        await asyncio.sleep(LOOK)


@app.task(retry=late)
async def gate_or_fail(name: str) -> None:
    """Wait until the test opens the gate, and do what it says there: end, or fail and run again much later."""
    while not _gate(name).exists():
        await asyncio.sleep(LOOK)
    if _gate(name).read_text() == "raise":
        raise RuntimeError("as told")


@app.task(retry=never)
def order() -> None:
    """In a thread, wait for what the test has to say to this run, and do it."""
    told = _gate(f"{jobq.current().id}.{os.getpid()}")
    while not told.exists():
        time.sleep(LOOK)
    if told.read_text() == "raise":
        raise RuntimeError(f"as told in {os.getpid()}")


@app.task
def in_thread(seconds: float) -> None:
    """Cannot be stopped. Like the two below, it ends early when the gate opens that is named after its job."""
    _wait_blocking(seconds)


@app.task
async def block(seconds: float) -> None:
    """Keeps the event loop from everybody else."""
    _wait_blocking(seconds)


@app.task
async def stubborn(seconds: float) -> None:
    """Swallows every cancellation."""
    gate, end = _gate(jobq.current().id), time.monotonic() + seconds
    while time.monotonic() < end and not gate.exists():
        try:
            await asyncio.sleep(LOOK)
        except asyncio.CancelledError:
            note("swallowed")


@app.task(retry=soon, max_crashes=1000)
async def pay(table: str, seconds: float) -> None:
    """Write down, in a transaction, that this job had its effect."""
    async with jobq.current().transaction() as connection:
        await connection.execute(f"INSERT INTO {table} VALUES ($1)", jobq.current().id)
        await asyncio.sleep(seconds)


@app.task(retry=soon, max_crashes=1000)
async def spend(table: str, seconds: float, gate: str = "") -> None:
    """The same in a file, perhaps once the test has opened the gate."""
    while gate and not _gate(gate).exists():
        await asyncio.sleep(LOOK)
    async with jobq.current().transaction() as connection:
        connection.execute(f"INSERT INTO {table} VALUES (?)", (jobq.current().id,))
        await asyncio.sleep(seconds)


@app.task(retry=soon, max_crashes=1000)
async def flaky(seconds: float, failures: int) -> None:
    """Fail in the first runs."""
    await asyncio.sleep(seconds)
    if jobq.current().attempt <= failures:
        raise RuntimeError(f"attempt {jobq.current().attempt} fails")


@app.task
async def leave() -> None:
    os._exit(3)


@app.task
async def crash() -> None:
    ctypes.string_at(0)


def _wait_blocking(seconds: float) -> None:
    gate, end = _gate(jobq.current().id), time.monotonic() + seconds
    while time.monotonic() < end and not gate.exists():
        time.sleep(LOOK)


def _gate(name: str) -> Path:
    return Path(os.environ[GATES]) / name
