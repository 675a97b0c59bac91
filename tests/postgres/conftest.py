"""A schema for each test on the shared server."""

import itertools
import os
from collections.abc import Iterator

import pytest
from blockbuster import blockbuster_ctx

_numbers = itertools.count()


@pytest.fixture(autouse=True)
def _no_blocked_loop() -> Iterator[None]:
    """Fail tests in which an event loop is blocked, but for what is read once, when a worker or a connection begins."""
    with blockbuster_ctx(["jobq", "jobq_postgres"], excluded_modules=["jobq.testing"]) as blocking:
        for function in blocking.functions.values():
            function.can_block_in("asyncpg/connect_utils.py", "_parse_connect_dsn_and_args")
            function.can_block_in("jobq/worker/identity.py", {"host_id", "_start_time", "_is_dead"})
        yield


@pytest.fixture
def schema() -> str:
    return f"test_{os.getpid()}_{next(_numbers)}"


@pytest.fixture
def url(postgres_url: str, schema: str) -> str:
    return f"{postgres_url}?schema={schema}"
