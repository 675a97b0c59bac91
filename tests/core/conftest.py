from collections.abc import Iterator

import pytest
from blockbuster import blockbuster_ctx


@pytest.fixture(autouse=True)
def _no_blocked_loop() -> Iterator[None]:
    """Fail tests in which the framework blocks an event loop, but for what it reads once, when it starts."""
    with blockbuster_ctx(["jobq", "jobq_memory"], excluded_modules=["jobq.testing"]) as blocking:
        for function in blocking.functions.values():
            function.can_block_in("jobq/plugins.py", "open_broker")
            function.can_block_in("jobq/worker/identity.py", {"host_id", "_start_time", "_is_dead"})
        yield
