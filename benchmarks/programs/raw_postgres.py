"""The least that could be done with Postgres from asyncpg: the limit that jobq is compared with.

Enqueue is a bare awaited INSERT, which commits, of a payload as long as a job's; the bulk call is one COPY. The drain
is one prepared statement, again and again, that deletes the last 100 rows and claims the next 100. It decodes nothing
and runs nothing. For the pick-up, each INSERT also notifies a process (mode `work`, AMOUNT is of no use), which takes
all there is by the statement of the drain.
"""

import asyncio
import time
from importlib import import_module
from typing import Any, Final

from benchmarks import gauge
from benchmarks.programs import load

BATCH: Final = 100
BODY: Final = (
    b'{"id":"01a1fdbb-b3ed-78f4-9f73-233d3c336cf0","task":"noop","created":1795258299.37,"body":{"args":[123456789]}}'
)
TABLE: Final = """
CREATE TABLE raw (
    id bigserial PRIMARY KEY, queue text NOT NULL DEFAULT 'default', priority smallint NOT NULL DEFAULT 2,
    state smallint NOT NULL DEFAULT 0, body bytea NOT NULL
) WITH (fillfactor = 70);
CREATE INDEX raw_ready ON raw (queue, priority, id) WHERE state = 0;
"""
INSERT: Final = "INSERT INTO raw (body) VALUES ($1)"
TELL: Final = f"WITH stored AS ({INSERT}) SELECT pg_notify('raw', '')"
TURN: Final = """
WITH settled AS (DELETE FROM raw WHERE id = ANY ($1::bigint[]))
UPDATE raw SET state = 1 WHERE id = ANY (ARRAY(
    SELECT id FROM raw WHERE queue = 'default' AND state = 0 ORDER BY priority, id LIMIT $2 FOR UPDATE SKIP LOCKED
)) RETURNING id, body
"""


async def fill(connection: Any, count: int) -> None:
    await connection.copy_records_to_table("raw", records=[(BODY,)] * count, columns=["body"])


async def drain(connection: Any) -> load.Drained:
    turn = await connection.prepare(TURN)
    settled: list[int] = []
    count, meter = 0, load.Meter()
    while rows := await turn.fetch(settled, BATCH):
        settled = [row[0] for row in rows]
        count += len(settled)
    return meter.read(count)


async def work(connection: Any) -> None:
    """Settles what it has taken before it waits, so that it holds nothing meanwhile."""
    turn, told = await connection.prepare(TURN), asyncio.Event()

    def heard(*_: object) -> None:
        told.set()

    await connection.add_listener("raw", heard)
    gauge.gate()
    settled: list[int] = []
    while True:
        told.clear()
        rows = await turn.fetch(settled, BATCH)
        for _, since in rows:
            gauge.late(int(since))
        settled = [row[0] for row in rows]
        if not settled:
            await told.wait()


async def bulk(connection: Any, count: int, repeats: int = 3) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        await fill(connection, count)
    return repeats * count / (time.perf_counter() - start)


async def main() -> None:
    mode, url, amount = load.arguments()
    asyncpg: Any = import_module("asyncpg")
    connection = await asyncpg.connect(url)
    rate = cpu = 0.0
    match mode:
        case "prepare":
            await connection.execute(TABLE)
        case "one":
            insert = await connection.prepare(INSERT)
            rate = await load.one_by_one(lambda _: insert.fetch(BODY), amount)
        case "bulk":
            rate = await bulk(connection, int(amount))
        case "noops":
            await fill(connection, int(amount))
        case "paced":
            tell = await connection.prepare(TELL)
            await load.paced(lambda since: tell.fetch(b"%d" % since), int(amount))
        case "work":
            await work(connection)
        case _:
            rate, cpu = await drain(connection)
    load.report(rate=rate, cpu=cpu)
    await connection.close()


if __name__ == "__main__":
    load.run(main())
