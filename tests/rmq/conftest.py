"""Private nodes of RabbitMQ, to be harmed."""

from collections.abc import Iterator

import pytest

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
