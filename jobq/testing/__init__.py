"""Tools for tests: an app's jobs run inside a test, a clock that stands still, and the suite a broker has to pass.

`running(app)` is what an application needs::

    async with jobq.testing.running(app) as jobs:
        await jobs.client.perform_async(send_welcome, 42)
        await jobs.run_until_idle()

`BrokerConformance` needs pytest and pytest-asyncio, so it is imported only when it is asked for.
"""

from typing import TYPE_CHECKING

from jobq.model import DeadJob
from jobq.testing._clock import ManualClock
from jobq.testing._kit import Enqueued, Jobs, JobState, running

if TYPE_CHECKING:
    from jobq.testing.conformance import BrokerConformance

__all__ = ["BrokerConformance", "DeadJob", "Enqueued", "JobState", "Jobs", "ManualClock", "running"]


def __getattr__(name: str) -> object:
    if name == "BrokerConformance":
        from jobq.testing.conformance import BrokerConformance  # noqa: PLC0415 - pytest may be missing

        return BrokerConformance
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
