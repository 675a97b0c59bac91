"""Enqueue a job in a transaction of psycopg's `AsyncConnection`.

A user is stored together with the job that welcomes them, or neither is. It makes the table `howto_users`, and for jobq
the schema `howto`; each run adds to them. It needs the extra `postgres`, and psycopg:

    python docs/howto/psycopg_async_transaction.py postgresql://user:password@localhost/app
"""

import asyncio
import sys
from contextlib import suppress
from typing import Any

from psycopg import AsyncConnection

from jobq import App, Client
from jobq.worker import Worker

app = App()


@app.task
async def send_welcome(user_id: int, name: str) -> None:
    print(f"welcome, {name} (user {user_id})")


async def sign_up(connection: AsyncConnection[Any], client: Client, name: str) -> None:
    async with connection.transaction():
        sql = "INSERT INTO howto_users (name) VALUES (%s) RETURNING id"
        ((user_id,),) = await (await connection.execute(sql, [name])).fetchall()
        await client.within(connection).perform_async(send_welcome, user_id, name)
        if not name.isalpha():
            raise ValueError(f"{name} is no name")  # takes the user and the job along


async def main(url: str) -> None:
    broker = f"{url}?schema=howto"
    async with (
        app.client(broker) as client,
        await AsyncConnection.connect(url, autocommit=True) as connection,  # so that only `transaction()` begins one
    ):
        await connection.execute("CREATE TABLE IF NOT EXISTS howto_users (id serial PRIMARY KEY, name text NOT NULL)")
        await sign_up(connection, client, "Ada")
        with suppress(ValueError):
            await sign_up(connection, client, "R2-D2")

        await Worker(app, broker, burst=True).run()  # all jobs that are ready
        users = await connection.execute("SELECT DISTINCT name FROM howto_users ORDER BY name")
        print("users:", *[name for (name,) in await users.fetchall()])


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
