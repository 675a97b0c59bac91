"""procrastinate: its jobs, its enqueuer, and (mode `work`, AMOUNT is the concurrency) its worker."""
# pyright: basic, reportMissingImports=false

import asyncio
from collections.abc import Sequence

from procrastinate import App, PsycopgConnector

from benchmarks import gauge
from benchmarks.programs import load


def made(url: str) -> App:
    app = App(connector=PsycopgConnector(conninfo=url, min_size=4, max_size=20))

    @app.task(name="noop")
    async def noop(number: int) -> None:
        del number
        gauge.ended()

    @app.task(name="nap")
    async def nap(number: int) -> None:
        del number
        start = gauge.started()
        await asyncio.sleep(0.05)
        gauge.ended(start)

    @app.task(name="stamp")
    async def stamp(number: int) -> None:
        gauge.late(number)

    return app


async def main() -> None:
    mode, url, amount = load.arguments()
    app = made(url)

    async def send(task: str, number: int) -> None:
        await app.tasks[task].defer_async(number=number)

    async def send_many(task: str, numbers: Sequence[int]) -> None:
        await app.tasks[task].batch_defer_async(*({"number": number} for number in numbers))

    async with app.open_async():
        match mode:
            case "prepare":
                await app.schema_manager.apply_schema_async()
                load.report()
            case "work":
                gauge.gate()
                await app.run_worker_async(concurrency=int(amount), delete_jobs="always", listen_notify=True)
            case _:
                await load.act(send, send_many, mode, amount)


if __name__ == "__main__":
    load.run(main())
