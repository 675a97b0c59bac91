"""A process that claims a job and holds it for ever: `python -m tests.rmq.holder URL`."""

import asyncio
import sys

from jobq_rmq import RmqBroker
from tests.rmq.tools import claim, lease


async def main(url: str) -> None:
    async with RmqBroker(url) as broker:
        await lease(broker)
        while not (await claim(broker, limit=1)).deliveries:
            await broker.wait(["default"], 1)
        print("held", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
