"""Private nodes of RabbitMQ, to be harmed."""

from collections.abc import AsyncIterator, Iterator

import pytest
from blockbuster import blockbuster_ctx

from tests.rmq.node import IMPATIENT, Cluster, Node, one, three
from tests.rmq.tools import Space, space_on


@pytest.fixture
def node() -> Iterator[Node]:
    """A node of the test's own."""
    with one() as node:
        yield node


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Three nodes of the test's own. They take twenty seconds: give the test a longer timeout."""
    with three(*IMPATIENT) as cluster:
        yield cluster


@pytest.fixture
async def space(rabbitmq_url: str) -> AsyncIterator[Space]:
    """A prefix of the test's own on the shared server."""
    async with space_on(rabbitmq_url) as space:
        yield space


@pytest.fixture(autouse=True)
def _no_blocked_loop() -> Iterator[None]:
    """Fail tests in which our code blocks an event loop, but for what a worker reads once, when it starts."""
    with blockbuster_ctx(["jobq", "jobq_rmq"], excluded_modules=["jobq.testing"]) as blocking:
        for function in blocking.functions.values():
            function.can_block_in("jobq/plugins.py", "open_broker")
            function.can_block_in("jobq/worker/identity.py", {"host_id", "_start_time", "_is_dead"})
        yield
