"""The promises of `jobq.broker.Broker`, as tests. It needs pytest and pytest-asyncio.

A broker proves itself with a few lines in its own tests::

    class TestMyBroker(BrokerConformance):
        @pytest.fixture
        def open_broker(self, tmp_path: Path) -> OpenBroker:
            return lambda clock: MyBroker(f"my://{tmp_path}", clock=clock)

The fixture is made anew for each test. Whatever it opens within one test is on the same data, empty at first, which no
other test sees; the brokers are not yet entered. What a broker does not declare in `capabilities` is named and skipped,
and so is `dead_letters` if it has none; some promises are then tried in another way, in real time for instance, which
takes seconds.
"""

from jobq.testing.conformance._bench import Bench, Hand, OpenBroker
from jobq.testing.conformance._dead import DeadLetterPromises
from jobq.testing.conformance._enqueue import EnqueuePromises
from jobq.testing.conformance._fence import FencePromises
from jobq.testing.conformance._lease import LeasePromises
from jobq.testing.conformance._life import LifePromises
from jobq.testing.conformance._order import OrderPromises
from jobq.testing.conformance._outcome import OutcomePromises
from jobq.testing.conformance._race import RacePromises
from jobq.testing.conformance._reconcile import ReconcilePromises
from jobq.testing.conformance._resume import ResumePromises
from jobq.testing.conformance._stamp import StampPromises
from jobq.testing.conformance._suspect import SuspectPromises
from jobq.testing.conformance._sweep import SweepPromises
from jobq.testing.conformance._time import TimePromises
from jobq.testing.conformance._turn import TurnPromises
from jobq.testing.conformance._wait import WaitPromises

__all__ = ["Bench", "BrokerConformance", "Hand", "OpenBroker"]


class BrokerConformance(
    EnqueuePromises,
    StampPromises,
    TimePromises,
    OrderPromises,
    TurnPromises,
    OutcomePromises,
    DeadLetterPromises,
    FencePromises,
    ResumePromises,
    LeasePromises,
    ReconcilePromises,
    SuspectPromises,
    SweepPromises,
    WaitPromises,
    RacePromises,
    LifePromises,
):
    """Every promise. A subclass overrides the fixture `open_broker`."""
