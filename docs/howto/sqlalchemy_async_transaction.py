"""Enqueue a job in a transaction of SQLAlchemy's `AsyncSession`.

A user is stored together with the job that welcomes them, or neither is. It makes the table `howto_users`, and for jobq
the schema `howto`; each run adds to them. It needs the extra `postgres`, and `sqlalchemy[asyncio]`:

    python docs/howto/sqlalchemy_async_transaction.py postgresql://user:password@localhost/app
"""

import asyncio
import sys
from contextlib import suppress

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from jobq import App, Client
from jobq.worker import Worker

app = App()


class Base(DeclarativeBase): ...


class User(Base):
    __tablename__ = "howto_users"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


@app.task
async def send_welcome(user_id: int, name: str) -> None:
    print(f"welcome, {name} (user {user_id})")


async def sign_up(sessions: async_sessionmaker[AsyncSession], client: Client, name: str) -> None:
    async with sessions.begin() as session:
        session.add(user := User(name=name))
        await session.flush()  # gives the user an id
        await client.within(session).perform_async(send_welcome, user.id, name)
        if not name.isalpha():
            raise ValueError(f"{name} is no name")  # takes the user and the job along


async def main(url: str) -> None:
    broker = f"{url}?schema=howto"
    engine = create_async_engine(url.replace("postgresql:", "postgresql+asyncpg:"))  # or postgresql+psycopg:
    sessions = async_sessionmaker(engine)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with app.client(broker) as client:
        await sign_up(sessions, client, "Ada")
        with suppress(ValueError):
            await sign_up(sessions, client, "R2-D2")
    await Worker(app, broker, burst=True).run()  # all jobs that are ready
    async with sessions() as session:
        print("users:", *await session.scalars(select(User.name).distinct().order_by(User.name)))
    await engine.dispose()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
