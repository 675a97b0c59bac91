"""Enqueue a job in a transaction of SQLAlchemy's `Session`, from synchronous code.

A user is stored together with the job that welcomes them, or neither is. It makes the table `howto_users`, and for jobq
the schema `howto`; each run adds to them. It needs the extra `postgres`, SQLAlchemy and psycopg:

    python docs/howto/sqlalchemy_transaction.py postgresql://user:password@localhost/app
"""

import asyncio
import sys
from contextlib import suppress

from sqlalchemy import create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from jobq import App, SyncClient
from jobq.worker import Worker

app = App()


class Base(DeclarativeBase): ...


class User(Base):
    __tablename__ = "howto_users"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


@app.task
def send_welcome(user_id: int, name: str) -> None:
    print(f"welcome, {name} (user {user_id})")


def sign_up(sessions: sessionmaker[Session], client: SyncClient, name: str) -> None:
    with sessions.begin() as session:
        session.add(user := User(name=name))
        session.flush()  # gives the user an id
        client.within(session).perform_async(send_welcome, user.id, name)
        if not name.isalpha():
            raise ValueError(f"{name} is no name")  # takes the user and the job along


def main(url: str) -> None:
    broker = f"{url}?schema=howto"
    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    sessions = sessionmaker(engine)
    Base.metadata.create_all(engine)
    with SyncClient(broker) as client:
        sign_up(sessions, client, "Ada")
        with suppress(ValueError):
            sign_up(sessions, client, "R2-D2")

    asyncio.run(Worker(app, broker, burst=True).run())  # all jobs that are ready
    with sessions() as session:
        print("users:", *session.scalars(select(User.name).distinct().order_by(User.name)))
    engine.dispose()


if __name__ == "__main__":
    main(sys.argv[1])
