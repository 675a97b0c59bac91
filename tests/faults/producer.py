"""A program that enqueues: `python -m tests.faults.producer URL JOURNAL FIRST COUNT`.

It writes `try id` before and `acked id` after each enqueue into a journal, and may be killed at any time.
"""

import asyncio
import os
import sys

from tests.faults.app import app, nap

AT_ONCE = 8


async def main(url: str, journal: str, first: int, count: int) -> None:
    file = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    numbers = iter(range(first, first + count))

    async def produce() -> None:
        for number in numbers:
            os.write(file, f"try p{number}\n".encode())
            await client.perform_async(nap.options(id=f"p{number}"), 0.001)
            os.write(file, f"acked p{number}\n".encode())

    async with app.client(url, timeout=30) as client:
        await asyncio.gather(*(produce() for _ in range(AT_ONCE)))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
