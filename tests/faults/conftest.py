"""A field on each broker."""

import itertools
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path

import pytest

from jobq_rmq._topology import Kind
from tests.faults.field import Field
from tests.faults.rabbitmq import RabbitStore
from tests.faults.stores import PostgresStore, RedisStore, SqliteStore
from tests.rmq.tools import space_on
from tests.servers import Server

_numbers = itertools.count()
Make = Callable[..., Field]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Processes are slower than calls."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.timeout(150))


@pytest.fixture(autouse=True)
def _no_blocked_loop() -> None:
    """What must not block is in other processes here."""


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Make]:
    """Makes fields on a Redis server; `via` is the port of a proxy in front of it, `own` says that it may be killed."""
    async with AsyncExitStack() as stack:

        def made(server: str, via: int | None = None, own: Server | None = None) -> Field:
            namespace = f"faults-{os.getpid()}-{next(_numbers)}"
            store = RedisStore(server, namespace, own)
            stack.callback(store.close)
            url = server if via is None else f"redis://127.0.0.1:{via}/0"
            field = Field(f"{url}?namespace={namespace}&socket_timeout=1", store, tmp_path, stack)
            stack.callback(field.end)
            return field

        yield made


@pytest.fixture
def on_redis(make: Make, redis_url: str) -> Field:
    return make(redis_url)


@pytest.fixture
async def on_sqlite(tmp_path: Path) -> AsyncIterator[Field]:
    path = tmp_path / "jobs.db"
    async with AsyncExitStack() as stack:
        field = Field(f"sqlite:///{path}", SqliteStore(path), tmp_path, stack)
        stack.callback(field.end)
        yield field


def on_postgres_at(server: str, directory: Path, stack: AsyncExitStack) -> Field:
    """A field in a schema of its own on this server."""
    schema = f"faults_{os.getpid()}_{next(_numbers)}"
    store = PostgresStore(server, schema)
    stack.callback(store.close)
    field = Field(f"{server}?schema={schema}&timeout=1", store, directory, stack)
    stack.callback(field.end)
    return field


@pytest.fixture
async def on_postgres(postgres_url: str, tmp_path: Path) -> AsyncIterator[Field]:
    async with AsyncExitStack() as stack:
        yield on_postgres_at(postgres_url, tmp_path, stack)


@asynccontextmanager
async def rabbitmq_field(
    server: str, directory: Path, via: str = "", kind: Kind = "quorum", **options: object
) -> AsyncGenerator[Field]:
    """A field on a RabbitMQ server; `via` is the URL of a proxy in front of it."""
    async with space_on(server) as space, AsyncExitStack() as stack:
        store = RabbitStore(server, space.prefix, kind, directory)
        stack.callback(store.close)
        field = Field(space.url(kind, via, **options), store, directory, stack)
        field.oracle = store.oracle
        stack.callback(field.end)
        yield field


@pytest.fixture
async def on_rabbitmq(rabbitmq_url: str, tmp_path: Path) -> AsyncIterator[Field]:
    async with rabbitmq_field(rabbitmq_url, tmp_path) as field:
        await field.client()
        assert isinstance(field.store, RabbitStore)
        field.store.tap()
        yield field


@pytest.fixture(params=["sqlite", "redis", "postgres"])
def field(request: pytest.FixtureRequest) -> Field:
    """A field on each broker that keeps leases, in turn."""
    found: Field = request.getfixturevalue(f"on_{request.param}")
    return found


everywhere = pytest.mark.parametrize("field", ["sqlite", "redis", "postgres", "rabbitmq"], indirect=True)
"""On RabbitMQ, too, where the connection is the lease."""


@pytest.fixture
def server() -> Iterator[Server]:
    """A Redis of one's own that loses nothing when it is killed."""
    with ExitStack() as stack:
        yield stack.enter_context(Server(arguments=("--appendonly", "yes", "--appendfsync", "always")))


@pytest.fixture(params=["sqlite", "redis", "postgres"])
def forgetful(request: pytest.FixtureRequest) -> Field:
    """A field on each broker in turn that can lose its last moments."""
    if request.param != "redis":
        found: Field = request.getfixturevalue(f"on_{request.param}")
        return found
    make, own = request.getfixturevalue("make"), request.getfixturevalue("server")
    on_server: Field = make(own.url, own=own)
    return on_server
