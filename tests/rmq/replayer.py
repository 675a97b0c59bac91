"""Replays the dead jobs of the queue `default`, and stops when the first are confirmed and not yet forgotten."""

import asyncio
import sys
import threading
from collections.abc import Sequence
from typing import Any, cast

from jobq_rmq import RmqBroker, _graves


def stop(_grave: object, letters: Sequence[object]) -> None:
    print(len(letters), flush=True)
    threading.Event().wait()


async def main() -> None:
    cast("Any", _graves._Grave).forget = stop
    async with RmqBroker(sys.argv[1]) as broker:
        await broker.dead_letters.replay("default")


if __name__ == "__main__":
    asyncio.run(main())
