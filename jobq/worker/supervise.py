"""Loops that outlive their errors."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Final

from jobq.clock import Clock
from jobq.errors import BrokerError

__all__ = ["supervise"]

_FIRST: Final = 0.1
_CAP: Final = 30.0
_LONG: Final = 10.0
"""Seconds without an error that are good health, whatever the pauses were; nothing takes so long to fail."""

log = logging.getLogger("jobq.worker")


async def supervise(name: str, step: Callable[[], Awaitable[None]], clock: Clock, *, cap: float = _CAP) -> None:
    """Call `step` for ever. An error is logged and backed off, with full jitter up to `cap` seconds; the loop goes on.

    A broker's error is one line, any other has its traceback. The backoff starts anew once it has gone well for longer
    than the last pause could be, so that only what fails again and again has to wait longer and longer.
    """
    delay, since, succeeded = 0.0, clock.monotonic(), False
    while True:
        try:
            await step()
            succeeded = True
        except asyncio.CancelledError:
            raise
        except Exception as exc:  # whatever it was, the other jobs must go on
            # a step may take its time to fail, and one that goes well may never return
            healthy = clock.monotonic() - since > (min(delay, _LONG) if succeeded else _LONG)
            delay = min(cap, _FIRST if healthy or not delay else delay * 2)
            pause = random.uniform(0, delay)
            if isinstance(exc, BrokerError):
                log.warning("%s: %s; trying again in %.1f s", name, exc, pause)
            else:
                log.exception("%s failed; trying again in %.1f s", name, pause)
            await clock.sleep(pause)
            since, succeeded = clock.monotonic(), False
