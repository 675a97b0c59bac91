"""taskiq's enqueuer."""
# pyright: basic, reportMissingImports=false

import os

from benchmarks.programs import load


async def main() -> None:
    mode, url, amount = load.arguments()
    os.environ["JOBQ_BENCH_URL"] = url
    from benchmarks.programs.taskiq_app import broker, nap, noop, stamp  # noqa: PLC0415 - reads the URL

    await broker.startup()
    match mode:
        case "one":
            load.report(rate=await load.one_by_one(noop.kiq, amount))
        case "together":
            load.report(rate=await load.together(noop.kiq, amount))
        case "noops" | "naps":
            await load.fill(noop.kiq if mode == "noops" else nap.kiq, int(amount))
            load.report()
        case _:
            await load.paced(stamp.kiq, int(amount))
            load.report()
    await broker.shutdown()


if __name__ == "__main__":
    load.run(main())
