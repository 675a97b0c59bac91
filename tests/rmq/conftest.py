"""Private nodes of RabbitMQ, to be harmed."""

from collections.abc import Iterator

import pytest
from blockbuster import blockbuster_ctx

from tests.rmq.node import Cluster, Node, one, three


@pytest.fixture
def node() -> Iterator[Node]:
    """A node of the test's own."""
    with one() as node:
        yield node


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Three nodes of the test's own. They take twenty seconds: give the test a longer timeout."""
    with three() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def patient() -> Iterator[Node]:
    """A node for tests that harm it and then leave it as it was.

    When a node starts, what has waited long enough in a quorum queue may be due before the queue is there where it
    goes next. The node tries again, by default after three minutes.
    """
    with one("-rabbit", "dead_letter_worker_publisher_confirm_timeout", "1000") as node:
        yield node


@pytest.fixture(autouse=True)
def _no_blocked_loop() -> Iterator[None]:
    """Fail tests in which our code blocks an event loop, but for what a worker reads once, when it starts."""
    with blockbuster_ctx(["jobq", "jobq_rmq"], excluded_modules=["jobq.testing"]) as blocking:
        for function in blocking.functions.values():
            function.can_block_in("jobq/plugins.py", "open_broker")
            function.can_block_in("jobq/worker/identity.py", {"host_id", "_start_time", "_is_dead"})
        yield
