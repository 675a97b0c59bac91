"""oban: its jobs, its enqueuer, and (mode `work`, AMOUNT is the concurrency) its worker."""
# pyright: basic, reportMissingImports=false

import asyncio
from collections.abc import Sequence

import orjson
from oban import Oban, job, schema
from psycopg.types.json import set_json_dumps, set_json_loads

from benchmarks import gauge
from benchmarks.programs import load


@job()
async def noop(number: int) -> None:
    del number
    gauge.ended()


@job()
async def nap(number: int) -> None:
    del number
    start = gauge.started()
    await asyncio.sleep(0.05)
    gauge.ended(start)


@job()
async def stamp(number: int) -> None:
    gauge.late(number)


TASKS = {"noop": noop, "nap": nap, "stamp": stamp}


async def main() -> None:
    mode, url, amount = load.arguments()
    set_json_dumps(orjson.dumps)  # as its own command does
    set_json_loads(orjson.loads)
    pool = await Oban.create_pool(url, min_size=4, max_size=20)
    client = Oban(pool=pool)

    async def send(task: str, number: int) -> None:
        await client.enqueue(TASKS[task].new(number))

    async def send_many(task: str, numbers: Sequence[int]) -> None:
        await client.enqueue_many(TASKS[task].new(number) for number in numbers)

    match mode:
        case "prepare":
            await schema.install(pool)
            load.report()
        case "work":
            async with Oban(pool=pool, queues={"default": int(amount)}):
                gauge.gate()
                await asyncio.Event().wait()
        case _:
            await load.act(send, send_many, mode, amount)
    await pool.close()


if __name__ == "__main__":
    load.run(main())
