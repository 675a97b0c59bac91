"""Tools for tests: a clock that stands still, and the suite that a broker has to pass.

`BrokerConformance` needs pytest and pytest-asyncio, so it is imported only when it is asked for.
"""

from typing import TYPE_CHECKING

from jobq.testing._clock import ManualClock

if TYPE_CHECKING:
    from jobq.testing.conformance import BrokerConformance

__all__ = ["BrokerConformance", "ManualClock"]


def __getattr__(name: str) -> object:
    if name == "BrokerConformance":
        from jobq.testing.conformance import BrokerConformance  # noqa: PLC0415 - pytest may be missing

        return BrokerConformance
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
