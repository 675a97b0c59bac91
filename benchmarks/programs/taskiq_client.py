"""taskiq's enqueuer. Its first argument is the module of the app."""
# pyright: basic, reportMissingImports=false

import os
import sys
from importlib import import_module

from benchmarks.programs import load


async def main() -> None:
    app = sys.argv.pop(1)
    mode, url, amount = load.arguments()
    os.environ["JOBQ_BENCH_URL"] = url
    module = import_module(f"benchmarks.programs.{app}")  # reads the URL
    broker, tasks = module.broker, module.tasks
    await broker.startup()
    match mode:
        case "one":
            load.report(rate=await load.one_by_one(tasks.noop.kiq, amount))
        case "together":
            load.report(rate=await load.together(tasks.noop.kiq, amount))
        case "noops" | "naps":
            await load.fill(tasks.noop.kiq if mode == "noops" else tasks.nap.kiq, int(amount))
            load.report()
        case _:
            await load.paced(tasks.stamp.kiq, int(amount))
            load.report()
    await broker.shutdown()


if __name__ == "__main__":
    load.run(main())
