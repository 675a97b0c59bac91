"""The Postgres broker keeps every promise."""

import pytest

from jobq.testing import BrokerConformance
from jobq.testing.conformance import OpenBroker
from jobq_postgres import PostgresBroker


class TestPostgresBroker(BrokerConformance):
    @pytest.fixture
    def open_broker(self, url: str) -> OpenBroker:
        return lambda clock: PostgresBroker(url, clock=clock)
