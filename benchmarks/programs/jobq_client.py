"""jobq's enqueuer."""

import time

from benchmarks.programs import load
from benchmarks.programs.jobq_app import app, nap, noop, stamp
from jobq import AsyncTask, Client

CHUNK = 10_000


async def fill(client: Client, task: AsyncTask[[int], None], count: int) -> None:
    for start in range(0, count, CHUNK):
        await client.perform_many([task.call(number) for number in range(start, min(start + CHUNK, count))])


async def bulk(client: Client, count: int, repeats: int = 3) -> float:
    """Jobs a second; the calls are made within the time, as a user has to make them too."""
    await fill(client, noop, 1000)
    start = time.perf_counter()
    for _ in range(repeats):
        await client.perform_many([noop.call(number) for number in range(count)])
    return repeats * count / (time.perf_counter() - start)


async def act(client: Client, mode: str, amount: float) -> None:
    match mode:
        case "one":
            load.report(rate=await load.one_by_one(lambda n: client.perform_async(noop, n), amount))
        case "together":
            load.report(rate=await load.together(lambda n: client.perform_async(noop, n), amount))
        case "bulk":
            load.report(rate=await bulk(client, int(amount)))
        case "noops" | "naps":
            await fill(client, noop if mode == "noops" else nap, int(amount))
            load.report()
        case _:
            await load.paced(lambda since: client.perform_async(stamp, since), int(amount))
            load.report()


async def main() -> None:
    mode, url, amount = load.arguments()
    async with app.client(url, timeout=60) as client:
        await act(client, mode, amount)


if __name__ == "__main__":
    load.run(main())
