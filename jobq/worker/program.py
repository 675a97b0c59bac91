"""One worker as a process: loop, signals, banner, exit code."""

import asyncio
import importlib
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Final

from jobq.app import App
from jobq.errors import BrokerUnavailable
from jobq.worker import banner
from jobq.worker.control import Control, leave
from jobq.worker.identity import new_worker_id
from jobq.worker.orphans import Origin
from jobq.worker.relay import relay
from jobq.worker.settings import Settings
from jobq.worker.worker import Worker

__all__ = ["loop_factory", "run"]

LoopFactory = Callable[[], asyncio.AbstractEventLoop]

_SWITCH: Final = 0.0002
"""Seconds for which one of Python's threads may keep the others waiting, where the default is 0.005.

The event loop, the lease and SQLite's writer are threads that run for microseconds and are much waited for. Beside a
plain function that computes, or a busy loop, each of their steps would have to wait for 5 ms.
"""

log = logging.getLogger("jobq.worker")


def run(settings: Settings, app: App, origin: Origin) -> int:
    """Work until a signal says stop, or a burst is over; then the exit code. Raises `JobqError`."""
    sys.setswitchinterval(_SWITCH)
    factory, loop_name = loop_factory()
    with asyncio.Runner(loop_factory=factory) as runner:
        worker = _worker(settings, app, origin.seat)
        beside = _relay(settings)
        control = Control(worker, runner.get_loop(), beside)
        control.install(interrupt=not origin.supervised)
        if origin.seat is not None:
            log.info("worker %s started", worker.id)
        else:
            banner.show(settings, app, worker.broker.url, loop_name)
        runner.run(_work(worker, beside, control))
        control.exit_code = 0
        if worker.wedged:
            leave(0)
    log.info("stopped")
    return 0


def loop_factory() -> tuple[LoopFactory | None, str]:
    """Uvloop's event loop where it is installed, and what the loop is called."""
    try:
        uvloop = importlib.import_module("uvloop")
    except ImportError:
        return None, "asyncio"
    return uvloop.new_event_loop, f"uvloop {uvloop.__version__}"


async def _work(worker: Worker, beside: Worker | None, control: Control) -> None:
    if control.requested:
        return
    try:
        if beside is None:
            await worker.run()
        elif worker.options.burst:
            await beside.run()
            await worker.run()
        else:
            await _both(worker, beside)
    except BrokerUnavailable:
        if not control.requested:  # else: stopped while it waited for the broker
            raise


async def _both(*workers: Worker) -> None:
    """Until both have ended: one that ends, or fails, takes the other along."""
    running = [asyncio.create_task(worker.run()) for worker in workers]
    try:
        await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        for worker in workers:
            worker.stop()
        await asyncio.wait(running)
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    for task in running:
        task.result()


def _relay(settings: Settings) -> Worker | None:
    if not settings.outbox:
        return None
    return relay(settings.outbox, settings.broker, grace=settings.grace, burst=settings.burst)


def _worker(settings: Settings, app: App, seat: str | None) -> Worker:
    options = asdict(settings.worker_options())
    del options["weights"]
    if seat is not None:
        host, _, token = seat.partition("-")
        options["worker_id"] = new_worker_id(host, os.getpid(), token)
    return Worker(app, settings.broker, **options)
