"""Give a job effects that are in the database exactly once, however often its body runs.

Both tasks fail in their first run, after they have written. What was done on the job's connection is undone, what was
printed is not. It makes the table `howto_bookings`, and for jobq the schema `howto`; each run adds to them. It needs
the extra `postgres`:

    python docs/howto/exactly_once.py postgresql://user:password@localhost/app
"""

import asyncio
import sys

import asyncpg

from jobq import App, Retry, current
from jobq.worker import Worker

app = App()
at_once = Retry(max_retries=3, backoff=lambda _: 0)


@app.task
async def send_receipt(amount: int) -> None:
    print(f"receipt: {amount}")


@app.task(retry=at_once)
async def deposit(amount: int) -> None:
    async with current().transaction() as connection:
        await connection.execute("INSERT INTO howto_bookings VALUES ($1, $2)", current().id, amount)
        await current().client.within(connection).perform_async(send_receipt, amount)
        print(f"deposit, run {current().attempt}: a mail that is sent here is sent in each run")
        if current().attempt == 1:
            raise ConnectionError("the booking and the receipt are undone")


@app.task(transaction=True, retry=at_once)
async def withdraw(amount: int) -> None:
    await current().connection.execute("INSERT INTO howto_bookings VALUES ($1, $2)", current().id, -amount)
    if current().attempt == 1:
        raise ConnectionError("the booking is undone")


async def main(url: str) -> None:
    broker = f"{url}?schema=howto"
    connection = await asyncpg.connect(url)
    await connection.execute("CREATE TABLE IF NOT EXISTS howto_bookings (job text, amount integer)")
    async with app.client(broker) as client:
        jobs = await client.perform_many([deposit.call(50), withdraw.call(20)])
    await Worker(app, broker, burst=True, concurrency=1).run()  # all jobs that are ready, one after the other
    for job in jobs:
        bookings = await connection.fetch("SELECT amount FROM howto_bookings WHERE job = $1", job.id)
        print("booked:", *[booking["amount"] for booking in bookings])
    await connection.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
