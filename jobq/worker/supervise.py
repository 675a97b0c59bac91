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
_HEALTHY: Final = 30.0

log = logging.getLogger("jobq.worker")


async def supervise(name: str, step: Callable[[], Awaitable[None]], clock: Clock, *, cap: float = _CAP) -> None:
    """Call `step` for ever. An error is logged and backed off, with full jitter up to `cap` seconds; the loop goes on.

    A broker's error is one line, any other has its traceback. The backoff starts anew after a while in good health.
    """
    delay, last_error = _FIRST, clock.monotonic()
    while True:
        try:
            await step()
        except asyncio.CancelledError:
            raise
        except Exception as exc:  # whatever it was, the other jobs must go on
            now = clock.monotonic()
            delay = _FIRST if now - last_error > _HEALTHY else min(cap, delay * 2)
            last_error = now
            pause = random.uniform(0, delay)
            if isinstance(exc, BrokerError):
                log.warning("%s: %s; trying again in %.1f s", name, exc, pause)
            else:
                log.exception("%s failed; trying again in %.1f s", name, pause)
            await clock.sleep(pause)
