"""What is written as bytes, and what the server answers: held against the client library's own codec."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp import frame as frames
from pamqp.body import ContentBody
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from jobq_rmq import _frames
from jobq_rmq._confirms import Confirms
from jobq_rmq._messages import Message

LARGEST = 100
NAME = st.text(max_size=60)
HEADERS = st.dictionaries(st.text(min_size=1, max_size=9), st.text(), max_size=3)


def message(body: bytes = b"{}", **headers: Any) -> Message:
    return Message("x", "k", "q", "j", body, headers)


def read(data: bytes) -> Iterator[Any]:
    """The frames in it, all of channel 7."""
    while data:
        size, channel, frame = frames.unmarshal(data)
        assert channel == 7
        data = data[size:]
        yield frame


@given(
    NAME, NAME, NAME, st.binary(max_size=350), st.dictionaries(st.text(min_size=1, max_size=9), st.text(), max_size=3)
)
def test_a_publish_says_what_the_message_says(
    exchange: str, key: str, job: str, body: bytes, headers: dict[str, Any]
) -> None:
    sent = Message(exchange, key, "q", job, body, headers)
    publish, header, *parts = read(_frames.publish(7, sent, LARGEST))
    assert isinstance(publish, Basic.Publish)
    assert (publish.exchange, publish.routing_key) == (exchange, key)
    assert isinstance(header, ContentHeader)
    assert header.body_size == len(body)
    properties = header.properties
    assert (properties.correlation_id or "", properties.message_id) == (job, sent.id)
    assert (properties.headers or {}) == headers
    assert all(isinstance(part, ContentBody) and len(part.value) <= LARGEST for part in parts)
    assert b"".join(part.value for part in parts) == body


def test_all_that_is_published_is_persistent_and_mandatory_and_does_not_expire() -> None:
    publish, header, _ = read(_frames.publish(7, message(), LARGEST))
    assert publish.mandatory
    assert not publish.immediate
    properties = header.properties
    assert (properties.delivery_mode, properties.expiration, properties.priority) == (2, None, None)


def test_a_name_that_is_too_long_is_an_error_and_no_broken_frame() -> None:
    with pytest.raises(Exception, match="255"):
        _frames.publish(7, Message("x", "k" * 256, "q", "j", b"", {}), LARGEST)


@pytest.mark.parametrize("flag", [True, False])
def test_what_is_said_of_deliveries_is_said_as_the_library_would(flag: bool) -> None:  # noqa: FBT001 - a parameter
    (ack,) = read(_frames.ack(7, 1 << 40, multiple=flag))
    assert isinstance(ack, Basic.Ack)
    assert (ack.delivery_tag, ack.multiple) == (1 << 40, flag)
    (nack,) = read(_frames.nack(7, 9, requeue=flag))
    assert isinstance(nack, Basic.Nack)
    assert (nack.delivery_tag, nack.multiple, nack.requeue) == (9, False, flag)


class Server:
    """What a server says to a channel's publishes."""

    def __init__(self) -> None:
        self.confirms = Confirms()

    def say(self, *said: Any) -> None:
        for one in said:
            data = frames.marshal(one, 7)
            assert self.confirms.take(data[0], data[7:-1])

    def give_back(self, returned: Message) -> None:
        self.say(
            Basic.Return(312, "NO_ROUTE", "x", "k"),
            ContentHeader(properties=Basic.Properties(message_id=returned.id), body_size=3),
            ContentBody(b"a"),
            ContentBody(b"bc"),
        )


async def test_confirmations_go_to_those_whose_messages_they_are() -> None:
    server = Server()
    first, second = server.confirms.expect([message(), message()]), server.confirms.expect([message()])
    server.say(Basic.Ack(delivery_tag=3))
    assert second.done.done()
    assert not first.done.done()
    server.say(Basic.Nack(delivery_tag=1), Basic.Ack(delivery_tag=2))
    assert first.done.done()
    assert (first.fates, second.fates) == (["refused", "stored"], ["stored"])


async def test_one_confirmation_can_be_for_all_up_to_a_message() -> None:
    server = Server()
    sending = server.confirms.expect([message() for _ in range(4)])
    server.say(Basic.Nack(delivery_tag=2), Basic.Ack(delivery_tag=3, multiple=True))
    assert sending.fates == ["stored", "refused", "stored", "unknown"]
    assert not sending.done.done()


async def test_what_was_returned_is_not_stored_though_it_is_confirmed() -> None:
    server = Server()
    messages = [message(), message(), message()]
    sending = server.confirms.expect(messages)
    server.give_back(messages[1])
    server.say(Basic.Ack(delivery_tag=3, multiple=True))
    assert sending.fates == ["stored", "returned", "stored"]


async def test_of_what_was_not_confirmed_when_the_channel_closed_nothing_is_known() -> None:
    server = Server()
    sending = server.confirms.expect([message(), message()])
    server.say(Basic.Ack(delivery_tag=1))
    server.confirms.end(ConnectionError("it is gone"))
    assert sending.done.done()
    assert sending.fates == ["stored", "unknown"]
    assert str(sending.reason) == "it is gone"


async def test_a_confirmation_that_nobody_waits_for_is_ignored() -> None:
    server = Server()
    server.say(Basic.Ack(delivery_tag=9), Basic.Nack(delivery_tag=9, multiple=True))
    server.give_back(message())
    sending = server.confirms.expect([message()])
    server.say(Basic.Ack(delivery_tag=1))
    assert sending.fates == ["stored"]


def test_a_question_for_a_message_names_the_queue_and_wants_to_acknowledge() -> None:
    (question,) = read(_frames.get(7, "p.dead.mail"))
    assert isinstance(question, Basic.Get)
    assert (question.queue, question.no_ack) == ("p.dead.mail", False)
