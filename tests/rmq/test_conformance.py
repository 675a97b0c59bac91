"""The RabbitMQ broker keeps the promises that it declares, on both types of queues."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator

import pytest

from jobq.testing import BrokerConformance
from jobq.testing.conformance import OpenBroker
from jobq_rmq._topology import Kind
from tests.rmq.tidy import Namespace


class _OnRabbitmq(BrokerConformance):
    kind: Kind

    @pytest.fixture(scope="class")
    @classmethod
    def namespace(cls, rabbitmq_url: str) -> Iterator[Namespace]:
        namespace = Namespace(rabbitmq_url, f"conformance-{cls.kind}-{os.getpid()}", cls.kind)
        yield namespace
        asyncio.run(namespace.delete())

    @pytest.fixture
    async def open_broker(self, namespace: Namespace) -> AsyncIterator[OpenBroker]:
        yield lambda _: namespace.broker()
        await namespace.clear()


class TestRmqBrokerQuorum(_OnRabbitmq):
    kind: Kind = "quorum"


class TestRmqBrokerClassic(_OnRabbitmq):
    kind: Kind = "classic"
