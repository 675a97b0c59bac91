"""The Redis broker keeps every promise."""

import pytest

from jobq.testing import BrokerConformance
from jobq.testing.conformance import OpenBroker
from jobq_redis import RedisBroker


class TestRedisBroker(BrokerConformance):
    @pytest.fixture
    def open_broker(self, url: str) -> OpenBroker:
        return lambda clock: RedisBroker(url, clock=clock)
