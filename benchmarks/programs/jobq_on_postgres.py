"""jobq's enqueuer, and two measurements that only a database wants.

Mode `dead_rows`: what AMOUNT jobs, which have run, have left to vacuum. Mode `claims`: how long a claim takes among
few jobs and among many, AMOUNT at the most.
"""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from importlib import import_module
from statistics import median
from typing import Any, Final

from benchmarks.programs import jobq_client, load
from benchmarks.programs.jobq_app import app, noop
from jobq import Client
from jobq.broker import Broker
from jobq.model import Claim, Done, WorkerInfo
from jobq.plugins import open_broker

SHARES: Final = {"claim_1k": 0.001, "claim_100k": 0.1, "claim_1m": 1.0}
WORKER: Final = WorkerInfo(id="claims", host="claims")
BATCH: Final = 100
SKIPPED: Final = 5
CLAIMS: Final = 50
OTHERS: Final = """
SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
"""
DEAD: Final = """
SELECT n_tup_upd + n_tup_del FROM pg_stat_user_tables WHERE schemaname = 'jobq' AND relname = 'jobs'
"""


async def dead_rows(url: str) -> int:
    """How many rows of the table of jobs were replaced or deleted, whether vacuum has been there or not."""
    connection: Any = await import_module("asyncpg").connect(url)
    while await connection.fetchval(OTHERS):  # who has not left yet may not have told what it did
        await asyncio.sleep(0.05)
    dead = int(await connection.fetchval(DEAD))
    await connection.close()
    return dead


async def claims(url: str, most: int) -> dict[str, float]:
    """Milliseconds of a claim by how many jobs there are, and the longest of them by the shortest.

    Each size has a schema of its own, and they take turns: what disturbs one disturbs all.
    """
    seconds: dict[str, list[float]] = {name: [] for name in SHARES}
    async with AsyncExitStack() as stack:
        queues = {name: await stack.enter_async_context(queue(url, name, int(most * SHARES[name]))) for name in SHARES}
        for _ in range(SKIPPED + CLAIMS):
            for name, (broker, client) in queues.items():
                seconds[name].append(await claim(broker, client))
    found = {name: median(each[SKIPPED:]) * 1000 for name, each in seconds.items()}
    return {**found, "claim_growth": max(found.values()) / min(found.values())}


@asynccontextmanager
async def queue(url: str, schema: str, count: int) -> AsyncGenerator[tuple[Broker, Client]]:
    async with open_broker(f"{url}?schema={schema}") as broker, Client(broker, timeout=60) as client:
        await broker.heartbeat(WORKER, [], 600)
        await jobq_client.fill(client, noop, count)
        yield broker, client


async def claim(broker: Broker, client: Client) -> float:
    """Seconds of a turn that claims; then what it took is replaced."""
    start = time.perf_counter()
    turn = await broker.turn([], Claim(WORKER.id, ("default",), BATCH))
    seconds = time.perf_counter() - start
    assert len(turn.deliveries) == BATCH
    await broker.turn([Done(delivery.job.id, delivery.epoch) for delivery in turn.deliveries], Claim(WORKER.id))
    await jobq_client.fill(client, noop, BATCH)
    return seconds


async def main() -> None:
    mode, url, amount = load.arguments()
    match mode:
        case "dead_rows":
            load.report(rows=await dead_rows(url) / amount)
        case "claims":
            load.report(**await claims(url, int(amount)))
        case _:
            async with app.client(url, timeout=60) as client:
                await jobq_client.act(client, mode, amount)


if __name__ == "__main__":
    load.run(main())
