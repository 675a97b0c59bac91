"""The Postgres broker keeps every promise, also behind a pooler that shares connections between transactions."""

import pytest

from jobq.testing import BrokerConformance
from jobq.testing.conformance import OpenBroker
from jobq_postgres import PostgresBroker


class TestPostgresBroker(BrokerConformance):
    @pytest.fixture
    def open_broker(self, url: str) -> OpenBroker:
        return lambda clock: PostgresBroker(url, clock=clock)


class TestPostgresBrokerBehindAPooler(BrokerConformance):
    @pytest.fixture
    def open_broker(self, pgbouncer_url: str, schema: str) -> OpenBroker:
        return lambda clock: PostgresBroker(f"{pgbouncer_url}?schema={schema}&pooler=transaction", clock=clock)
