"""A worker, as `python -m jobq.worker` would run it."""

import asyncio
import signal
import sys

from benchmarks.programs import load
from benchmarks.programs.jobq_app import app
from jobq.worker import Worker


async def main() -> None:
    worker = Worker(app, sys.argv[1], concurrency=int(sys.argv[2]))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.stop)
    await worker.run()


if __name__ == "__main__":
    load.run(main())
