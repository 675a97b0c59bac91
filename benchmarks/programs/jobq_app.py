"""The jobs, as a jobq app."""

import asyncio

from benchmarks import gauge
from jobq import App

app = App()


@app.task
async def noop(_number: int) -> None:
    gauge.ended()


@app.task
async def nap(_number: int) -> None:
    start = gauge.started()
    await asyncio.sleep(0.05)
    gauge.ended(start)


@app.task
async def stamp(since: int) -> None:
    gauge.late(since)


gauge.gate()
