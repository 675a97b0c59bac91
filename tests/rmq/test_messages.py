"""Jobs as messages, and messages of others as jobs."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp import frame as frames
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from jobq.codec import decode_job, encode_job
from jobq.model import Crash, DeadJob, Event, Happening, Job, Trail
from jobq_rmq import _frames, _messages, _properties
from jobq_rmq._delay import LONGEST
from jobq_rmq._messages import Message, Stored
from jobq_rmq._topology import Topology

TOPOLOGY = Topology("p", "quorum")
JOB = Job(id="j", task="t", queue="mail", priority=4)
OURS = {"jobq-trail", "jobq-crashes", "jobq-eta"}
DEATHS = [{"count": 3, "queue": "p.delay.quorum.v1.03", "reason": "expired", "exchange": "x", "routing-keys": ["k"]}]


def received(body: bytes = encode_job(JOB), **properties: Any) -> Stored:
    """A message as it comes out of the queue of urgent mail; by default it is our job."""
    given: dict[str, Any] = {"correlation_id": "j"} | properties
    frame = frames.marshal(ContentHeader(properties=Basic.Properties(**given), body_size=len(body)), 1)
    return arrived(body, frame[19:-1])


def arrived(body: bytes, properties: bytes) -> Stored:
    """The same, as the server sends it."""
    return _messages.stored(_properties.read(properties), body, "mail", 3)


def buried(body: bytes = encode_job(JOB), **properties: Any) -> DeadJob:
    """The same among the dead."""
    given: dict[str, Any] = {"correlation_id": "j"} | properties
    frame = frames.marshal(ContentHeader(properties=Basic.Properties(**given), body_size=len(body)), 1)
    return _messages.dead_job(_properties.read(frame[19:-1]), body, "mail")


def published(old: Stored) -> list[Message]:
    """Everything that may take a message's place."""
    note = Crash(7, 1.0, "w")
    return [
        _messages.again(TOPOLOGY, old, queue="mail", trail=None, delay=0),
        _messages.again(TOPOLOGY, old, queue="other", trail=Trail(attempt=1), delay=5),
        _messages.after_crash(TOPOLOGY, old, note),
        _messages.copy(TOPOLOGY, old),
        _messages.dead(TOPOLOGY, old, Trail(attempt=2)),
    ]


def test_no_header_of_the_servers_is_ever_copied() -> None:
    hostile = {"x-death": DEATHS, "x-first-death-queue": "q", "x-delivery-count": 3, "x-delay": 5, "CC": ["elsewhere"]}
    for message in published(received(headers=hostile)):
        assert message.headers.keys() <= OURS
        assert _properties.read(_frames.properties(message)).headers.keys() <= OURS
        assert encode_job(JOB) == message.body


def test_where_a_message_goes_comes_from_the_job_and_not_from_its_delivery() -> None:
    old = received(headers={"jobq-queue": "elsewhere"}, reply_to="elsewhere")
    again, moved, *_ = published(old)
    assert (again.exchange, again.key) == ("p.jobs", "high.mail")
    assert moved.exchange.startswith("p.delay.")
    assert moved.key.endswith(".high.other")
    assert _messages.dead(TOPOLOGY, old, Trail()).key == TOPOLOGY.grave("mail")


def test_keys_do_not_grow_from_retry_to_retry() -> None:
    old = received()
    keys = set[str]()
    for _ in range(50):
        message = _messages.again(TOPOLOGY, old, queue="mail", trail=Trail(attempt=1), delay=5)
        keys.add(message.key)
        old = arrived(message.body, _frames.properties(message))
    assert len(keys) == 1


def test_two_publishes_of_one_job_have_different_ids() -> None:
    messages = [_messages.new(TOPOLOGY, JOB, 0), _messages.new(TOPOLOGY, JOB, 0), *published(received())]
    assert len({message.id for message in messages}) == len(messages)


def test_what_is_published_comes_back_as_it_was() -> None:
    crashes = (Crash(1, 2.0, "w"), Crash(2, 3.0, "v"))
    trail = Trail(attempt=3)
    old = Stored("j", "mail", 3, encode_job(JOB), None, crashes, 0.0)
    message = _messages.again(TOPOLOGY, old, queue="mail", trail=trail, delay=0)
    delivery = arrived(message.body, _frames.properties(message)).delivery(9)
    assert delivery.job == JOB
    assert (delivery.epoch, delivery.trail, delivery.crashes, delivery.malformed) == (9, trail, crashes, None)


def test_a_job_that_is_given_back_stays_as_it_was() -> None:
    crashes = (Crash(1, 2.0, "w"), Crash(2, 3.0, "v"))
    message = _messages.copy(TOPOLOGY, Stored("j", "mail", 3, encode_job(JOB), None, crashes, 0.0))
    assert arrived(message.body, _frames.properties(message)).crashes == crashes


@pytest.mark.parametrize("delay", [0.0, -1.0, -1e300])
def test_what_is_due_goes_straight_to_its_queue(delay: float) -> None:
    message = _messages.new(TOPOLOGY, JOB, delay)
    assert (message.exchange, message.levels) == ("p.jobs", False)
    assert "jobq-eta" not in message.headers


@pytest.mark.parametrize("delay", [0.001, 59.99, 1e6, LONGEST, 1e11])
def test_what_is_not_due_goes_through_the_ladder_and_says_until_when(delay: float) -> None:
    message = _messages.new(TOPOLOGY, JOB, delay)
    assert message.exchange.startswith("p.delay.quorum.v1.")
    assert message.levels
    assert arrived(message.body, _frames.properties(message)).eta > 1e9


TEXTS = st.text(max_size=8) | st.sampled_from(
    ["nan", "inf", "-inf", "1e999", "[[1,2,3]]", "null", "[]", "{}", "x" * 300]
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(-1e30, 1e30)
    | TEXTS
    | st.binary(max_size=8).map(bytearray),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(max_size=8), values, max_size=3),
    max_leaves=5,
)
BODIES = st.binary(max_size=30) | st.sampled_from(
    [b"", b"{", b"null", b"[" * 100_000, b'{"id":"j","task":"t","v":9}', b'{"id":1}', b"\xff\xfe", encode_job(JOB)]
)


@given(
    body=BODIES,
    headers=st.none() | st.dictionaries(st.sampled_from(sorted(OURS)) | st.text(max_size=8), VALUES, max_size=6),
    job_id=st.none() | st.text(max_size=5),
    message_id=st.none() | st.text(max_size=5),
)
def test_no_message_of_others_raises_and_all_that_is_no_job_is_malformed(
    body: bytes, headers: dict[str, Any] | None, job_id: str | None, message_id: str | None
) -> None:
    old = received(body, headers=headers, correlation_id=job_id, message_id=message_id)
    delivery = old.delivery(1)
    assert delivery.job.queue == "mail"
    assert delivery.job.id
    if delivery.malformed is None:
        assert decode_job(body).id == delivery.job.id
    else:
        assert bytes(memoryview(delivery.job.body)) == body
    dead = buried(body, headers=headers, correlation_id=job_id, message_id=message_id)
    assert (dead.queue, dead.envelope) == ("mail", body)
    for message in [*published(old), _messages.back(TOPOLOGY, dead)]:
        assert message.headers.keys() <= OURS
        json.dumps(message.headers)
        arrived(message.body, _frames.properties(message)).delivery(2)


@pytest.mark.parametrize("body", [b"", b"garbage", b"\xff\x00", b"[]", encode_job(Job(id="other", task="t"))])
def test_a_body_that_is_not_this_job_is_malformed_and_kept(body: bytes) -> None:
    delivery = received(body).delivery(1)
    assert delivery.malformed
    assert (delivery.job.id, bytes(memoryview(delivery.job.body))) == ("j", body)


def test_of_what_the_server_says_of_a_dead_job_the_last_death_counts() -> None:
    at = datetime(2027, 1, 1, tzinfo=UTC)
    dead = buried(headers={"x-death": [{"reason": "maxlen", "time": at}, *DEATHS], "x-first-death-reason": "expired"})
    assert (dead.reason, dead.died, dead.error) == ("maxlen", at.timestamp(), "given up by the server: maxlen")


def test_a_job_that_died_by_decision_died_when_its_history_says() -> None:
    trail = Trail(history=(Event(1.5, Happening.DEAD, "w"), Event(2.5, Happening.REPLAYED), Event(3.5, Happening.DEAD)))
    message = _messages.dead(TOPOLOGY, received(), trail)
    dead = buried(message.body, headers=message.headers)
    assert (dead.reason, dead.died, dead.trail) == ("", 3.5, trail)


def test_a_dead_message_without_an_id_is_called_by_its_content() -> None:
    one, other, again = (buried(body, correlation_id=None) for body in (b"a", b"b", b"a"))
    assert one.id == again.id != other.id


def test_a_dead_job_goes_back_to_its_queue_by_its_priority_with_a_new_trail() -> None:
    headers = {
        "jobq-trail": '{"attempt":3,"parked":1.5}',
        "jobq-crashes": '[[1,2.0,"w"]]',
        "jobq-eta": "5",
        "CC": ["x"],
    }
    message = _messages.back(TOPOLOGY, buried(headers=headers))
    assert (message.exchange, message.key, message.queue, message.job) == ("p.jobs", "high.mail", "mail", "j")
    assert message.headers.keys() == {"jobq-trail"}
    trail = arrived(message.body, _frames.properties(message)).delivery(1).trail
    assert (trail.attempt, trail.parked) == (0, None)
    assert [event.what for event in trail.history] == [Happening.CRASHED, Happening.REPLAYED]


def test_a_trail_that_cannot_be_read_is_malformed_and_crash_notes_are_none() -> None:
    assert received(headers={"jobq-trail": "garbage"}).delivery(1).malformed
    clean = received(headers={"jobq-crashes": "garbage"}).delivery(1)
    assert (clean.malformed, clean.crashes) == (None, ())


@pytest.mark.parametrize("eta", ["nan", "inf", "-inf", "1e999", "soon", "", None, 5, True, bytearray(b"5"), {"a": 1}])
def test_an_eta_that_is_none_never_raises(eta: object) -> None:
    old = received(headers={"jobq-eta": eta})
    assert isinstance(old.eta, float)
    if old.eta > 0:
        _messages.again(TOPOLOGY, old, queue="mail", trail=None, delay=old.eta)


@given(st.binary(max_size=60))
def test_properties_that_make_no_sense_are_none(data: bytes) -> None:
    properties = _properties.read(data)
    assert isinstance(properties.message_id, str)
    assert isinstance(properties.correlation_id, str)
    assert isinstance(properties.headers, dict)


SHORT = st.none() | st.text(max_size=20)


@given(
    st.fixed_dictionaries(
        {
            "content_type": SHORT,
            "content_encoding": SHORT,
            "headers": st.none() | st.just({"jobq-eta": "5", "x": [1, {"y": None}]}),
            "delivery_mode": st.none() | st.just(2),
            "priority": st.none() | st.integers(0, 255),
            "correlation_id": SHORT,
            "reply_to": SHORT,
            "expiration": st.none() | st.just("60"),
            "message_id": SHORT,
            "message_type": SHORT,
            "app_id": SHORT,
        }
    )
)
def test_properties_are_read_whatever_else_is_there(properties: dict[str, Any]) -> None:
    frame = frames.marshal(ContentHeader(properties=Basic.Properties(**properties), body_size=1), 1)
    read = _properties.read(frame[19:-1])
    expected = [properties[name] or "" for name in ("correlation_id", "message_id")]
    assert [read.correlation_id, read.message_id] == expected
    assert read.headers == (properties["headers"] or {})
