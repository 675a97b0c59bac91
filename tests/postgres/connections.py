"""A transaction on a connection of each library that `within` takes, with a table of the application's in it.

Each way in is a context manager: it gives what is passed to `within` and what runs a statement, and commits at its end,
or rolls back if it is left by an exception.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from importlib import import_module
from typing import Any
from urllib.parse import urlsplit

import psycopg
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

asyncpg: Any = import_module("asyncpg")
Execute = Callable[[str], Awaitable[object]]
ExecuteNow = Callable[[str], object]


@asynccontextmanager
async def asyncpg_connection(url: str) -> AsyncGenerator[tuple[Any, Execute]]:
    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction():
            yield connection, connection.execute
    finally:
        await connection.close()


@asynccontextmanager
async def asyncpg_pool(url: str) -> AsyncGenerator[tuple[Any, Execute]]:
    async with (
        asyncpg.create_pool(url, min_size=1, max_size=1) as pool,
        pool.acquire() as connection,
        connection.transaction(),
    ):
        yield connection, connection.execute


@asynccontextmanager
async def psycopg_async(url: str) -> AsyncGenerator[tuple[Any, Execute]]:
    async with await psycopg.AsyncConnection.connect(url) as connection:
        yield connection, lambda sql: connection.execute(sql.encode())


@asynccontextmanager
async def psycopg_async_autocommit(url: str) -> AsyncGenerator[tuple[Any, Execute]]:
    async with (
        await psycopg.AsyncConnection.connect(url, autocommit=True) as connection,
        connection.transaction(),
    ):
        yield connection, lambda sql: connection.execute(sql.encode())


def session_of(driver: str) -> Callable[[str], Any]:
    @asynccontextmanager
    async def session(url: str) -> AsyncGenerator[tuple[Any, Execute]]:
        engine = create_async_engine(url.replace("postgresql", f"postgresql+{driver}"), poolclass=NullPool)
        try:
            async with AsyncSession(engine) as session, session.begin():
                yield session, lambda sql: session.execute(text(sql))
        finally:
            await engine.dispose()

    return session


def core_of(driver: str) -> Callable[[str], Any]:
    @asynccontextmanager
    async def core(url: str) -> AsyncGenerator[tuple[Any, Execute]]:
        engine = create_async_engine(url.replace("postgresql", f"postgresql+{driver}"), poolclass=NullPool)
        try:
            async with engine.begin() as connection:
                yield connection, lambda sql: connection.execute(text(sql))
        finally:
            await engine.dispose()

    return core


@contextmanager
def psycopg_sync(url: str) -> Generator[tuple[Any, ExecuteNow]]:
    with psycopg.connect(url) as connection:
        yield connection, lambda sql: connection.execute(sql.encode())


@contextmanager
def session_sync(url: str) -> Generator[tuple[Any, ExecuteNow]]:
    engine = create_engine(url.replace("postgresql", "postgresql+psycopg"), poolclass=NullPool)
    with Session(engine) as session, session.begin():
        yield session, lambda sql: session.execute(text(sql))
    engine.dispose()


@contextmanager
def core_sync(url: str) -> Generator[tuple[Any, ExecuteNow]]:
    engine = create_engine(url.replace("postgresql", "postgresql+psycopg"), poolclass=NullPool)
    with engine.begin() as connection:
        yield connection, lambda sql: connection.execute(text(sql))
    engine.dispose()


@contextmanager
def django_atomic(url: str) -> Generator[tuple[Any, ExecuteNow]]:
    connection = django_connection(url)
    transaction: Any = import_module("django.db.transaction")
    try:
        with transaction.atomic(using="default"):
            yield connection, lambda sql: connection.cursor().execute(sql)
    finally:
        connection.close()


def django_connection(url: str) -> Any:
    """What `django.db.connection` is, for this database."""
    parts = urlsplit(url)
    conf: Any = import_module("django.conf").settings
    engine = {"ENGINE": "django.db.backends.postgresql", "NAME": parts.path[1:], "USER": parts.username}
    database = {**engine, "HOST": parts.hostname, "PORT": parts.port}
    if not conf.configured:
        conf.configure(DATABASES={"default": database})
        import_module("django").setup()
    return import_module("django.db").connection


ASYNC = {
    "asyncpg": asyncpg_connection,
    "asyncpg pool": asyncpg_pool,
    "psycopg": psycopg_async,
    "psycopg in autocommit": psycopg_async_autocommit,
    "AsyncSession on asyncpg": session_of("asyncpg"),
    "AsyncSession on psycopg": session_of("psycopg"),
    "AsyncConnection on asyncpg": core_of("asyncpg"),
    "AsyncConnection on psycopg": core_of("psycopg"),
}
SYNC = {"psycopg": psycopg_sync, "Session": session_sync, "Connection": core_sync, "Django": django_atomic}
