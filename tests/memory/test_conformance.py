"""The memory broker keeps every promise."""

import itertools

import pytest

from jobq.testing import BrokerConformance
from jobq.testing.conformance import OpenBroker
from jobq_memory import MemoryBroker

numbers = itertools.count()


class TestMemoryBroker(BrokerConformance):
    @pytest.fixture
    def open_broker(self) -> OpenBroker:
        url = f"memory://conformance-{next(numbers)}"
        return lambda clock: MemoryBroker(url, clock=clock)
