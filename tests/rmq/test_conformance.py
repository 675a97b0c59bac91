"""The RabbitMQ broker keeps the promises that it declares, on both types of queues."""

import itertools
import os
from collections.abc import AsyncIterator

import pytest

from jobq.testing import BrokerConformance
from jobq.testing.conformance import OpenBroker
from jobq_rmq._topology import Kind
from tests.rmq.tidy import namespace

_numbers = itertools.count()


class _OnRabbitmq(BrokerConformance):
    kind: Kind

    @pytest.fixture
    async def open_broker(self, rabbitmq_url: str) -> AsyncIterator[OpenBroker]:
        async with namespace(rabbitmq_url, f"conformance-{os.getpid()}-{next(_numbers)}", self.kind) as names:
            yield lambda _: names.broker()


class TestRmqBrokerQuorum(_OnRabbitmq):
    kind: Kind = "quorum"


class TestRmqBrokerClassic(_OnRabbitmq):
    kind: Kind = "classic"
