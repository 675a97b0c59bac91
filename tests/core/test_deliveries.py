"""Deliveries that are decoded when somebody looks."""

from jobq.codec import Deliveries
from jobq.model import Delivery, Job


def test_deliveries_are_counted_without_decoding_and_decoded_once() -> None:
    made: list[list[Delivery]] = []

    def decode() -> list[Delivery]:
        made.append([Delivery(Job(id=name, task="t"), epoch) for epoch, name in enumerate("abc", 1)])
        return made[-1]

    deliveries = Deliveries(3, decode)
    assert (len(deliveries), bool(deliveries), made) == (3, True, [])
    assert [delivery.job.id for delivery in deliveries] == ["a", "b", "c"]
    assert (deliveries[1].epoch, [delivery.epoch for delivery in deliveries[1:]]) == (2, [2, 3])
    assert len(made) == 1
