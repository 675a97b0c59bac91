"""The jobs, for taskiq. Runs in its own virtual environment."""
# pyright: basic, reportMissingImports=false

import asyncio
from types import SimpleNamespace
from typing import Any

from benchmarks import gauge


def register(broker: Any) -> SimpleNamespace:
    """The tasks, on any of taskiq's brokers."""

    @broker.task(task_name="noop")
    async def noop(_number: int) -> None:
        gauge.ended()

    @broker.task(task_name="nap")
    async def nap(_number: int) -> None:
        start = gauge.started()
        await asyncio.sleep(0.05)
        gauge.ended(start)

    @broker.task(task_name="stamp")
    async def stamp(since: int) -> None:
        gauge.late(since)

    return SimpleNamespace(noop=noop, nap=nap, stamp=stamp)
