"""A namespace for each test on the shared server, and private servers to be harmed."""

import itertools
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack

import pytest

from jobq_redis import RedisBroker
from tests.redis.tools import Client, Tools
from tests.servers import Server

_numbers = itertools.count()


@pytest.fixture
def url(redis_url: str) -> str:
    return f"{redis_url}?namespace=test-{os.getpid()}-{next(_numbers)}"


@pytest.fixture
def base(url: str) -> str:
    """What the names of the namespace's keys begin with."""
    return f"jobq:{{{url.split('=')[1]}}}:"


@pytest.fixture
def start() -> Iterator[Callable[..., Server]]:
    """Start private servers with these arguments."""
    with ExitStack() as stack:

        def started(*arguments: str) -> Server:
            return stack.enter_context(Server(arguments=("--appendonly", "no", *arguments)))

        yield started


@pytest.fixture
async def broker(url: str) -> AsyncIterator[RedisBroker]:
    async with RedisBroker(url) as broker:
        yield broker


@pytest.fixture
async def tools() -> AsyncIterator[Tools]:
    async with AsyncExitStack() as stack:
        yield Tools(stack)


@pytest.fixture
async def redis(redis_url: str, tools: Tools) -> Client:
    return await tools.client(redis_url)
