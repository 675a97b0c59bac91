"""Whatever happens in whatever order, every broker answers like the model."""

import itertools
import os
from importlib import import_module
from pathlib import Path
from typing import Final

import pytest

from jobq.broker import BrokerFactory
from jobq_memory import MemoryBroker
from tests.conftest import server_url
from tests.machine import check
from tests.services import POSTGRES, REDIS

SHRINKING: Final = 360
"""Seconds for a test that fails: Hypothesis takes up to five minutes to make its example small."""

numbers = itertools.count()
pytestmark = pytest.mark.timeout(SHRINKING)


def factory(package: str, name: str) -> BrokerFactory:
    """A broker's class; skips the test where it cannot be imported, unless it has to be."""
    try:
        found: BrokerFactory = getattr(import_module(package), name)
    except ImportError as exc:
        if os.environ.get("JOBQ_REQUIRE_ALL_BROKERS"):
            raise
        pytest.skip(f"{package} cannot be imported: {exc}")
    return found


def test_the_memory_broker_is_the_model() -> None:
    check(lambda clock: MemoryBroker(clock=clock))


def test_the_sqlite_broker_answers_like_the_model(tmp_path: Path) -> None:
    sqlite = factory("jobq_sqlite", "SqliteBroker")
    check(lambda clock: sqlite(f"sqlite:///{tmp_path}/{next(numbers)}.db?synchronous=off", clock=clock))


def test_the_redis_broker_answers_like_the_model() -> None:
    redis, url = factory("jobq_redis", "RedisBroker"), server_url(REDIS)
    run = f"model-{os.getpid()}"
    check(lambda clock: redis(f"{url}?namespace={run}-{next(numbers)}", clock=clock))


def test_the_postgres_broker_answers_like_the_model() -> None:
    postgres, url = factory("jobq_postgres", "PostgresBroker"), server_url(POSTGRES)
    run = f"model_{os.getpid()}"
    check(lambda clock: postgres(f"{url}?schema={run}_{next(numbers)}", clock=clock))
