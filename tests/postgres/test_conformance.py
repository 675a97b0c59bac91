"""The Postgres broker keeps every promise, also behind a pooler that shares connections between transactions,
and while rows cannot be cleared away.
"""

import pytest

from jobq.testing import BrokerConformance
from jobq.testing.conformance import OpenBroker
from jobq_postgres import PostgresBroker, _marks


class TestPostgresBroker(BrokerConformance):
    @pytest.fixture
    def open_broker(self, url: str) -> OpenBroker:
        return lambda clock: PostgresBroker(url, clock=clock)


class TestPostgresBrokerBehindAPooler(BrokerConformance):
    @pytest.fixture
    def open_broker(self, pgbouncer_url: str, schema: str) -> OpenBroker:
        return lambda clock: PostgresBroker(f"{pgbouncer_url}?schema={schema}&pooler=transaction", clock=clock)


class TestPostgresBrokerBehindASnapshot(BrokerConformance):
    """One that holds up all cleaning; claims use marks from their second turn on."""

    @pytest.fixture
    def open_broker(self, url: str, monkeypatch: pytest.MonkeyPatch) -> OpenBroker:
        monkeypatch.setattr(_marks, "_SLOW", -1.0)
        monkeypatch.setattr(_marks, "_STREAK", 1)
        return lambda clock: PostgresBroker(url, clock=clock)
