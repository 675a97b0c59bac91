"""`--processes N`: a parent that does no jobs, and children that do; one that dies is buried and replaced."""

import asyncio
import logging
import secrets
import signal
import time
from asyncio.subprocess import Process
from dataclasses import replace
from typing import Final

from jobq.app import App
from jobq.clock import SYSTEM_CLOCK
from jobq.errors import BrokerError
from jobq.plugins import open_broker
from jobq.worker import banner
from jobq.worker.children import Children
from jobq.worker.identity import host_id, new_worker_id
from jobq.worker.orphans import Origin
from jobq.worker.program import loop_factory
from jobq.worker.settings import SEAT, Settings
from jobq.worker.sweep import LIMIT

__all__ = ["run"]

_FIRST: Final = 0.1
_CAP: Final = 10.0
_MAX_EXPONENT: Final = 64
_HEALTHY: Final = 10.0
"""Seconds that a child must have lived for its death not to count as one in a row."""
_LAST_SWEEP: Final = 0.5

log = logging.getLogger("jobq.worker")


def run(settings: Settings, app: App, origin: Origin) -> int:
    """Keep `settings.processes` workers alive until a signal says stop, or the burst is over; then the exit code."""
    banner.show(settings, app, open_broker(settings.broker).url, loop_factory()[1])
    return asyncio.run(_Supervisor(settings).run(interrupt=not origin.supervised))


class _Supervisor:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._child = replace(settings, processes=1)
        self._children = Children(settings.grace)
        self._host = host_id()

    async def run(self, *, interrupt: bool) -> int:
        self._children.listen(interrupt=interrupt)
        codes = await asyncio.gather(*(self._seat() for _ in range(self._settings.processes)))
        log.info("stopped")
        return max(codes)

    async def _seat(self) -> int:
        """One place for a worker process, taken again whenever it becomes free; at the end, 0 or what went wrong."""
        deaths, stopping = 0, self._children.stopping
        while True:
            started = time.monotonic()
            try:
                child, worker = await self._hire()
            except OSError as exc:  # no process or no memory is to be had at the moment
                deaths += 1
                log.error("cannot start a worker: %s; trying again in %.1f s", exc, _pause(deaths))  # noqa: TRY400
                if await SYSTEM_CLOCK.wait(stopping, _pause(deaths)):
                    return 0
                continue
            code = await self._children.wait(child)
            if stopping.is_set() or (self._settings.burst and code >= 0):
                return max(code, 0)
            deaths = 1 if time.monotonic() - started > _HEALTHY else deaths + 1
            pause = _pause(deaths)
            log.error("worker %s %s; starting another in %.1f s", worker, _end(code), pause)
            await self._bury(worker, pause)
            if stopping.is_set():
                return 0

    async def _hire(self) -> tuple[Process, str]:
        token = secrets.token_hex(4)
        child = await self._children.start(
            self._child.command(), {**self._child.environ(), SEAT: f"{self._host}-{token}"}
        )
        return child, new_worker_id(self._host, child.pid, token)

    async def _bury(self, worker: str, pause: float) -> None:
        """Give its jobs back and wait for `pause` seconds, both before a successor looks for jobs in vain."""
        sweep = asyncio.create_task(self._sweep(worker))
        stop = asyncio.create_task(self._children.stopping.wait())
        await asyncio.wait([stop], timeout=pause)
        await asyncio.wait([stop, sweep], return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait([sweep], timeout=_LAST_SWEEP)
        stop.cancel()

    async def _sweep(self, worker: str) -> None:
        """Give what it held to the others now, and not when its lease ends."""
        try:
            async with open_broker(self._settings.broker) as broker:
                while (await broker.sweep(self._host, LIMIT, [worker])).more:
                    pass
        except BrokerError as exc:
            log.warning("%s; what %s held waits for the end of its lease", exc, worker)


def _pause(deaths: int) -> float:
    """Seconds before the next child, after so many in a row that died or could not be started."""
    return min(_CAP, _FIRST * 2.0 ** min(deaths - 1, _MAX_EXPONENT))


def _end(code: int) -> str:
    if code >= 0:
        return f"ended with code {code}"
    return f"was killed by {next((known.name for known in signal.Signals if known == -code), f'signal {-code}')}"
