"""Enqueue a job in a transaction of asyncpg, on a connection of a pool or on one without a pool.

A user is stored together with the job that welcomes them, or neither is. It makes the table `howto_users`, and for jobq
the schema `howto`; each run adds to them. It needs the extra `postgres`:

    python docs/howto/asyncpg_transaction.py postgresql://user:password@localhost/app
"""

import asyncio
import sys
from contextlib import suppress

import asyncpg

from jobq import App, Client
from jobq.worker import Worker

app = App()


@app.task
async def send_welcome(user_id: int, name: str) -> None:
    print(f"welcome, {name} (user {user_id})")


async def sign_up(connection: asyncpg.Connection, client: Client, name: str) -> None:
    async with connection.transaction():
        sql = "INSERT INTO howto_users (name) VALUES ($1) RETURNING id"
        user_id = await connection.fetchval(sql, name)
        await client.within(connection).perform_async(send_welcome, user_id, name)
        if not name.isalpha():
            raise ValueError(f"{name} is no name")  # takes the user and the job along


async def main(url: str) -> None:
    broker = f"{url}?schema=howto"
    connection = await asyncpg.connect(url)
    await connection.execute("CREATE TABLE IF NOT EXISTS howto_users (id serial PRIMARY KEY, name text NOT NULL)")
    async with app.client(broker) as client:
        with suppress(ValueError):
            await sign_up(connection, client, "R2-D2")
        async with asyncpg.create_pool(url, min_size=1) as pool, pool.acquire() as pooled:
            await sign_up(pooled, client, "Ada")

    await Worker(app, broker, burst=True).run()  # all jobs that are ready
    print("users:", *await connection.fetchval("SELECT array_agg(DISTINCT name) FROM howto_users"))
    await connection.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
