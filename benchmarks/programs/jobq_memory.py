"""All of jobq on the memory broker, in one process as that broker wants it: what the framework alone costs.

Called `PROGRAM MODE URL AMOUNT`; modes are those of `load`, and `drain`.
"""

import asyncio

from benchmarks import gauge
from benchmarks.programs import load
from benchmarks.programs.jobq_app import app, nap, noop, stamp
from benchmarks.programs.jobq_client import act, fill
from jobq import Client
from jobq.plugins import open_broker
from jobq.worker import Worker


async def until(count: int) -> gauge.Reading:
    while (reading := gauge.read()).count < count:
        await asyncio.sleep(0.02)
    return reading


async def work(worker: Worker, client: Client, mode: str, count: int) -> None:
    if mode == "paced":
        async with worker:
            await load.paced(lambda since: client.perform_async(stamp, since), count)
            reading = await until(count)
        load.report(**{f"late_{i}": float(late) for i, late in enumerate(reading.late)})
        return
    await fill(client, nap if mode == "naps" else noop, count)
    async with worker:
        reading = await until(count)
    load.report(
        rate=reading.rate,
        cpu=reading.cpu_per_job,
        seconds_from_first_end=(reading.last_end - reading.first_end) / 1e9,
    )


async def main() -> None:
    mode, url, amount = load.arguments()
    async with open_broker(url) as broker, Client(broker, timeout=60) as client:
        if mode in {"one", "together", "bulk"}:
            await act(client, mode, amount)
        else:
            await work(Worker(app, broker, concurrency=100), client, mode, int(amount))


if __name__ == "__main__":
    load.run(main())
