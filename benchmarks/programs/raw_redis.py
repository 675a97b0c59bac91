"""The least that could be done with Redis from redis-py: the limit that jobq is compared with.

Enqueue is a bare awaited RPUSH of a payload as long as a job's. The drain has the recovery data in the server, as jobq
has: a list of ids, a hash of bodies and an in-flight hash of the worker, one script that settles the last 100 ids and
claims the next 100. It decodes nothing and runs nothing.
"""

import time
from collections.abc import Callable
from typing import Any, Final, cast

import redis.asyncio as aioredis

from benchmarks.programs import load

BATCH: Final = 100
BODY: Final = (
    b'{"id":"01a1fdbb-b3ed-78f4-9f73-233d3c336cf0","task":"noop","created":1795258299.37,"body":{"args":[123456789]}}'
)
TURN: Final = """
local jobs, held = KEYS[1] .. 'jobs', KEYS[1] .. 'held'
if #ARGV > 1 then
  redis.call('HDEL', held, unpack(ARGV, 2))
  redis.call('HDEL', jobs, unpack(ARGV, 2))
end
local ids = redis.call('LPOP', KEYS[1] .. 'ids', ARGV[1])
if not ids then return {} end
local marks = {}
for i, id in ipairs(ids) do marks[2 * i - 1] = id; marks[2 * i] = i end
redis.call('HSET', held, unpack(marks))
return { ids, redis.call('HMGET', jobs, unpack(ids)) }
"""


def job_id(number: int) -> str:
    return f"01a1fdbb-b3ed-78f4-9f73-{number:012x}"


async def fill(client: Any, count: int) -> None:
    for start in range(0, count, 1000):
        ids = [job_id(number) for number in range(start, min(start + 1000, count))]
        await client.rpush("raw:ids", *ids)
        await client.hset("raw:jobs", mapping=dict.fromkeys(ids, BODY))


async def drain(client: Any) -> load.Drained:
    turn = client.register_script(TURN)
    settled: list[bytes] = []
    count, meter = 0, load.Meter()
    while reply := cast("list[list[bytes]]", await turn(keys=["raw:"], args=[BATCH, *settled])):
        settled, _bodies = reply
        count += len(settled)
    return meter.read(count)


async def bulk(client: Any, count: int, repeats: int = 3) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        for first in range(0, count, 1000):
            await client.rpush("line", *[BODY] * min(1000, count - first))
    return repeats * count / (time.perf_counter() - start)


async def main() -> None:
    mode, url, amount = load.arguments()
    connect = cast("Callable[[str], Any]", getattr(aioredis, "from_url"))  # noqa: B009 - its types are incomplete
    client = connect(url)
    rate = cpu = 0.0
    match mode:
        case "one":
            rate = await load.one_by_one(lambda _: client.rpush("line", BODY), amount)
        case "together":
            rate = await load.together(lambda _: client.rpush("line", BODY), amount)
        case "bulk":
            rate = await bulk(client, int(amount))
        case "noops":
            await fill(client, int(amount))
        case _:
            rate, cpu = await drain(client)
    load.report(rate=rate, cpu=cpu)
    await client.aclose()


if __name__ == "__main__":
    load.run(main())
