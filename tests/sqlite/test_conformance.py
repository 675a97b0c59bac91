"""The SQLite broker keeps every promise."""

from pathlib import Path

import pytest

from jobq.testing import BrokerConformance
from jobq.testing.conformance import OpenBroker
from jobq_sqlite import SqliteBroker


class TestSqliteBroker(BrokerConformance):
    @pytest.fixture
    def open_broker(self, tmp_path: Path) -> OpenBroker:
        url = f"sqlite:///{tmp_path}/jobs.db"
        return lambda clock: SqliteBroker(url, clock=clock)
