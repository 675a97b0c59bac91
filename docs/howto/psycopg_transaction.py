"""Enqueue a job in a transaction of psycopg's `Connection`, from synchronous code.

A user is stored together with the job that welcomes them, or neither is. It makes the table `howto_users`, and for jobq
the schema `howto`; each run adds to them. It needs the extra `postgres`, and psycopg:

    python docs/howto/psycopg_transaction.py postgresql://user:password@localhost/app
"""

import asyncio
import sys
from contextlib import suppress
from typing import Any

from psycopg import Connection

from jobq import App, SyncClient
from jobq.worker import Worker

app = App()


@app.task
def send_welcome(user_id: int, name: str) -> None:
    print(f"welcome, {name} (user {user_id})")


def sign_up(connection: Connection[Any], client: SyncClient, name: str) -> None:
    with connection.transaction():
        sql = "INSERT INTO howto_users (name) VALUES (%s) RETURNING id"
        ((user_id,),) = connection.execute(sql, [name]).fetchall()
        client.within(connection).perform_async(send_welcome, user_id, name)
        if not name.isalpha():
            raise ValueError(f"{name} is no name")  # takes the user and the job along


def main(url: str) -> None:
    broker = f"{url}?schema=howto"
    with (
        SyncClient(broker) as client,
        Connection.connect(url, autocommit=True) as connection,  # so that only `transaction()` begins one
    ):
        connection.execute("CREATE TABLE IF NOT EXISTS howto_users (id serial PRIMARY KEY, name text NOT NULL)")
        sign_up(connection, client, "Ada")
        with suppress(ValueError):
            sign_up(connection, client, "R2-D2")

        asyncio.run(Worker(app, broker, burst=True).run())  # all jobs that are ready
        users = connection.execute("SELECT DISTINCT name FROM howto_users ORDER BY name")
        print("users:", *[name for (name,) in users.fetchall()])


if __name__ == "__main__":
    main(sys.argv[1])
