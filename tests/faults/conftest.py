"""A field on each broker."""

import itertools
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

import pytest

from tests.faults.field import Field
from tests.faults.stores import RedisStore, SqliteStore
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


@pytest.fixture(params=["sqlite", "redis"])
def field(request: pytest.FixtureRequest) -> Field:
    """A field on each broker in turn."""
    found: Field = request.getfixturevalue(f"on_{request.param}")
    return found


@pytest.fixture
def server() -> Iterator[Server]:
    """A Redis of one's own that loses nothing when it is killed."""
    with ExitStack() as stack:
        yield stack.enter_context(Server(arguments=("--appendonly", "yes", "--appendfsync", "always")))


@pytest.fixture(params=["sqlite", "redis"])
def forgetful(request: pytest.FixtureRequest) -> Field:
    """A field on each broker in turn that can lose its last moments."""
    if request.param == "sqlite":
        on_file: Field = request.getfixturevalue("on_sqlite")
        return on_file
    make, own = request.getfixturevalue("make"), request.getfixturevalue("server")
    on_server: Field = make(own.url, own=own)
    return on_server
