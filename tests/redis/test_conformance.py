"""The Redis broker keeps every promise, on one server and on a cluster."""

from collections.abc import Iterator
from itertools import count

import pytest

from jobq.testing import BrokerConformance
from jobq.testing.conformance import OpenBroker
from jobq_redis import RedisBroker
from tests.redis.cluster import Cluster, started

_numbers = count()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with started() as cluster:
        yield cluster


class TestRedisBroker(BrokerConformance):
    @pytest.fixture
    def open_broker(self, url: str) -> OpenBroker:
        return lambda clock: RedisBroker(url, clock=clock)


class TestRedisBrokerOnACluster(BrokerConformance):
    @pytest.fixture
    def open_broker(self, cluster: Cluster) -> OpenBroker:
        url = f"{cluster.url}?namespace={cluster.namespace_on(next(_numbers) % 3)}"
        return lambda clock: RedisBroker(url, clock=clock)
