"""The jobs, as a taskiq app on its Redis stream broker. Runs in taskiq's own virtual environment."""
# pyright: basic, reportMissingImports=false

import asyncio
import os

from taskiq_redis import RedisStreamBroker

from benchmarks import gauge

broker = RedisStreamBroker(os.environ["JOBQ_BENCH_URL"], xread_count=100)


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


gauge.gate()
