"""The pytest plugin; pytest loads it by itself where jobq is installed."""

import pytest

pytest.register_assert_rewrite("jobq.testing.conformance")
