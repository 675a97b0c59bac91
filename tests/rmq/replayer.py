"""Replays the dead jobs of a broker's default queue, and stops dead when the first are confirmed and not yet forgotten."""

import asyncio
import sys
import threading
from collections.abc import Sequence

from jobq_rmq import RmqBroker, _graves


def stop(_grave: object, letters: Sequence[object]) -> None:
    print(len(letters), flush=True)
    threading.Event().wait()


async def main() -> None:
    _graves._Grave.forget = stop  # type: ignore[method-assign] # pyright: ignore[reportPrivateUsage]
    async with RmqBroker(sys.argv[1]) as broker:
        await broker.dead_letters.replay("default")


if __name__ == "__main__":
    asyncio.run(main())
