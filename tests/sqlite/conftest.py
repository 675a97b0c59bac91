"""What blocks an event loop here, and may."""

from collections.abc import Iterator

import pytest
from blockbuster import blockbuster_ctx


@pytest.fixture(autouse=True)
def _no_blocked_loop() -> Iterator[None]:
    """Fail tests in which an event loop is blocked, but by what a job does on its own connection, as it is local."""
    own = {"execute", "executemany", "executescript", "fetchone", "fetchall"}
    with blockbuster_ctx(["jobq", "jobq_sqlite"], excluded_modules=["jobq.testing"]) as blocking:
        for function in blocking.functions.values():
            function.can_block_in("jobq_sqlite/_connection.py", own)
            function.can_block_in("jobq/plugins.py", "open_broker")
            function.can_block_in("jobq/worker/identity.py", {"host_id", "_start_time", "_is_dead"})
        yield
