"""Fixtures for all tests: servers, brokers, and no blocked event loops."""

import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from importlib import import_module

import pytest
from blockbuster import blockbuster_ctx

from jobq.testing import ManualClock
from jobq_memory import MemoryBroker
from tests.rmq.node import IMPATIENT, Node, one
from tests.servers import Found, begin, go_without
from tests.services import PGBOUNCER, POSTGRES, RABBITMQ, REDIS, SERVICES, Service


def importable(package: str) -> bool:
    """A broker may miss the library it needs."""
    try:
        import_module(package)
    except ImportError:
        return False
    return True


OURS = [
    "jobq",
    *(name for name in ("jobq_memory", "jobq_sqlite", "jobq_redis", "jobq_rmq", "jobq_postgres") if importable(name)),
]

pytest.register_assert_rewrite("tests.machine", "tests.model")

stack = pytest.StashKey[ExitStack]()
header = pytest.StashKey[list[str]]()


def pytest_configure(config: pytest.Config) -> None:
    """Start the servers, once: the workers of pytest-xdist find them in their environment."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell leaves it to what it starts in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)  # or all that we start would ignore Ctrl-C, too
    if hasattr(config, "workerinput") or config.option.collectonly:
        return
    config.stash[stack], config.stash[header] = ExitStack(), []
    finishing = [config.stash[stack].enter_context(begin(service)) for service in SERVICES]
    for service, finish in zip(SERVICES, finishing, strict=True):
        found = finish()
        if isinstance(found, Found):
            os.environ[service.variable] = found.url
        else:
            os.environ[f"{service.variable}_MISSING"] = found.why
            os.environ[f"{service.variable}_WANTED"] = "1" if found.wanted else ""
        config.stash[header].append(f"{service.name}: {found.why}")


def pytest_report_header(config: pytest.Config) -> list[str]:
    return config.stash.get(header, list[str]())


def pytest_unconfigure(config: pytest.Config) -> None:
    if stack in config.stash:
        config.stash[stack].close()


def server_url(service: Service) -> str:
    """The URL of the session's server; skips the test if there is none, or fails it if there has to be."""
    missing = os.environ.get(f"{service.variable}_MISSING")
    if missing is not None:
        go_without(missing, wanted=bool(os.environ[f"{service.variable}_WANTED"]))
    return os.environ[service.variable]


@pytest.fixture(scope="session")
def redis_url() -> str:
    """A Redis that all tests share: each must use a namespace of its own."""
    return server_url(REDIS)


@pytest.fixture(scope="session")
def rabbitmq_url() -> str:
    """A RabbitMQ that all tests share: each must use names of its own."""
    return server_url(RABBITMQ)


@pytest.fixture(scope="session")
def postgres_url() -> str:
    """A database that all tests share: each must use a schema of its own."""
    return server_url(POSTGRES)


@pytest.fixture(scope="session")
def pgbouncer_url() -> str:
    """A pooler before a Postgres of its own; each test must use a schema of its own."""
    return server_url(PGBOUNCER)


@pytest.fixture(scope="session")
def shared_node() -> Iterator[Node]:
    """A node that tests share which look into it or harm it."""
    with one(*IMPATIENT) as node:
        yield node


@pytest.fixture
def patient(shared_node: Node) -> Node:
    """That node, for tests that harm it and then leave it as it was. If one could not, it is started again."""
    if not shared_node.server.answers():
        shared_node.server.start()
    return shared_node


@pytest.fixture(autouse=True)
def _no_blocked_loop() -> Iterator[None]:
    """Fail tests in which our code blocks an event loop."""
    with blockbuster_ctx(OURS, excluded_modules=["jobq.testing"]) as watched:
        for function in watched.functions.values():
            function.can_block_in("asyncpg/connect_utils.py", "_parse_connect_dsn_and_args")  # looks for files at home
        yield


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def memory(clock: ManualClock) -> AsyncIterator[MemoryBroker]:
    """A memory broker on a clock that stands still."""
    async with MemoryBroker(clock=clock) as broker:
        yield broker
