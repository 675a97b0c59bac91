"""pgqueuer: its jobs, its enqueuer, and (mode `work`, AMOUNT is the concurrency) its worker.

On one connection, as its guides have it: a pool, which asks the server to reset each connection, was slower.
"""
# pyright: basic, reportMissingImports=false

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import asyncpg
import pgqueuer

from benchmarks import gauge
from benchmarks.programs import load


def register(manager: Any) -> None:
    @manager.entrypoint("noop")
    async def noop(_job: Any) -> None:
        gauge.ended()

    @manager.entrypoint("nap")
    async def nap(_job: Any) -> None:
        start = gauge.started()
        await asyncio.sleep(0.05)
        gauge.ended(start)

    @manager.entrypoint("stamp")
    async def stamp(job: Any) -> None:
        gauge.late(int(job.payload))


@asynccontextmanager
async def working(url: str) -> AsyncGenerator[Any]:
    connection = await asyncpg.connect(url)
    manager = pgqueuer.PgQueuer.from_asyncpg_connection(connection)
    register(manager)
    gauge.gate()
    yield manager
    await connection.close()


async def enqueue(url: str, mode: str, amount: float) -> None:
    connection = await asyncpg.connect(url)
    queries = pgqueuer.Queries.from_asyncpg_connection(connection)

    async def send(task: str, number: int) -> None:
        await queries.enqueue(task, b"%d" % number)

    async def send_many(task: str, numbers: Sequence[int]) -> None:
        await queries.enqueue([task] * len(numbers), [b"%d" % number for number in numbers], [0] * len(numbers))

    if mode == "prepare":
        await queries.install()
        load.report()
    else:
        await load.act(send, send_many, mode, amount)
    await connection.close()


async def main() -> None:
    mode, url, amount = load.arguments()
    if mode == "work":
        most = int(amount)
        await pgqueuer.run(partial(working, url), batch_size=most // 2, max_concurrent_tasks=most)
    else:
        await enqueue(url, mode, amount)


if __name__ == "__main__":
    load.run(main())
