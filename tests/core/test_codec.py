"""Envelopes: what was written is read, and nothing else is."""

import json
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobq.codec import (
    MAX_DEPTH,
    MAX_ENVELOPE,
    check_limits,
    decode_crashes,
    decode_delivery,
    decode_job,
    decode_trail,
    encode_crashes,
    encode_job,
    encode_trail,
)
from jobq.errors import DecodeError
from jobq.model import NO_TRAIL, Crash, Event, Failure, Happening, Job, Trail

JOB = Job(id="j1", task="work", body=msgspec.Raw(b'{"args":[1, 2]}'))
TRAIL = Trail(2, 5.5, Failure("ValueError", "no", "Traceback"), (Event(1.5, Happening.RETRIED, "w", "no"),))
CRASHES = (Crash(7, 1.5, "w1"), Crash(9, 2.5, "w2"))


def envelope(**fields: Any) -> bytes:
    return json.dumps({"id": "j1", "task": "work"} | fields).encode()


def test_a_job_is_read_as_it_was_written_and_its_body_is_not_touched() -> None:
    job = msgspec.structs.replace(
        JOB, queue="mail", priority=4, created=1.5, delay=2.5, headers={"trace": "ü"}, unique_key="u", group="g"
    )
    assert decode_job(encode_job(job)) == job
    assert bytes(decode_job(encode_job(job)).body) == b'{"args":[1, 2]}'


def test_what_is_as_usual_is_left_out() -> None:
    assert json.loads(encode_job(Job(id="j1", task="work"))) == {"id": "j1", "task": "work"}


def test_fields_from_the_future_are_no_error() -> None:
    assert decode_job(envelope(colour="red")) == Job(id="j1", task="work")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"\xff\xfe",
        b'{"id":"j1"}',
        b'{"task":"work"}',
        envelope(id=5),
        envelope(priority="high"),
        envelope(due="tomorrow"),
        envelope(headers={"x": 5}),
        envelope(body={})[:-1],
        envelope() + b"{}",
        b'{"id":"j1","task":"work","created":NaN}',
        b'{"id":"j1","task":"work","priority":' + b"9" * 10_000 + b"}",
        b"[" * 100_000,
    ],
    ids=lambda data: repr(data)[:40],
)
def test_what_is_no_envelope_is_a_decode_error(data: bytes) -> None:
    with pytest.raises(DecodeError, match=r"^not an envelope"):
        decode_job(data)


def test_another_version_is_named() -> None:
    with pytest.raises(DecodeError, match=r"version 2, this jobq reads version 1"):
        decode_job(envelope(v=2))


def test_an_envelope_over_the_limit_is_not_even_parsed() -> None:
    padding = MAX_ENVELOPE - len(envelope(pad=""))
    assert decode_job(envelope(pad="x" * padding)).id == "j1"
    with pytest.raises(DecodeError, match=r"the limit is 1048576"):
        decode_job(b"x" * (MAX_ENVELOPE + 1))


@given(st.binary())
def test_any_bytes_are_an_envelope_or_a_decode_error(data: bytes) -> None:
    with suppress(DecodeError):
        decode_job(data)


# --- deliveries


def test_a_delivery_has_the_job_the_trail_and_the_crashes_and_the_queue_it_came_from() -> None:
    delivery = decode_delivery(
        "j1",
        encode_job(JOB),
        epoch=7,
        queue="again",
        trail=encode_trail(TRAIL),
        crashes=encode_crashes(CRASHES),
    )
    assert delivery.job == msgspec.structs.replace(JOB, queue="again")
    assert (delivery.epoch, delivery.trail, delivery.crashes, delivery.malformed) == (7, TRAIL, CRASHES, None)


def test_a_first_delivery_has_neither_trail_nor_crashes() -> None:
    delivery = decode_delivery("j1", encode_job(JOB), epoch=7, queue="default")
    assert (delivery.job, delivery.trail, delivery.crashes) == (JOB, NO_TRAIL, ())


@pytest.mark.parametrize(
    ("data", "extra", "why"),
    [
        (b"\x00", {}, "not an envelope"),
        (envelope(id="j2"), {}, "the envelope stored as 'j1' says it is 'j2'"),
        (envelope(v=9), {}, "version 9"),
        (envelope(), {"trail": b"no"}, "not a trail"),
        (envelope(), {"trail": b'{"attempt":"two"}'}, "not a trail"),
        (envelope(), {"crashes": b"{}"}, "not crash notes"),
    ],
)
def test_a_delivery_that_cannot_be_read_says_why_and_keeps_the_bytes(
    data: bytes, extra: dict[str, bytes], why: str
) -> None:
    delivery = decode_delivery("j1", data, epoch=7, queue="mail", **extra)
    assert delivery.malformed is not None
    assert why in delivery.malformed
    assert (delivery.job.id, delivery.job.task, delivery.job.queue, delivery.epoch) == ("j1", "", "mail", 7)
    assert bytes(delivery.job.body) == data


@given(st.binary(), st.none() | st.binary(), st.none() | st.binary())
def test_no_bytes_make_a_delivery_fail(data: bytes, trail: bytes | None, crashes: bytes | None) -> None:
    delivery = decode_delivery("j1", data, epoch=1, queue="q", trail=trail, crashes=crashes)
    assert delivery.job.id == "j1"


# --- trails and crash notes


def test_trails_and_crash_notes_are_read_as_they_were_written_and_none_means_none() -> None:
    assert decode_trail(encode_trail(TRAIL)) == TRAIL
    assert decode_crashes(encode_crashes(CRASHES)) == CRASHES
    assert encode_crashes(CRASHES) == b'[[7,1.5,"w1"],[9,2.5,"w2"]]'
    assert (decode_trail(None), decode_crashes(None)) == (NO_TRAIL, ())


@pytest.mark.parametrize("data", [b"", b"5", b"{", b"[[1]]", b'{"history":[{"at":1}]}', b"[" * 100_000])
def test_what_is_no_trail_and_no_crash_note_is_a_decode_error(data: bytes) -> None:
    with pytest.raises(DecodeError, match=r"not a trail"):
        decode_trail(data)
    with pytest.raises(DecodeError, match=r"not crash notes"):
        decode_crashes(data)


# --- depth


def nested(depth: int, inside: bytes = b"") -> bytes:
    return b"[" * depth + inside + b"]" * depth


@pytest.mark.parametrize(
    "data",
    [
        nested(MAX_DEPTH),
        b"[" + b",".join([nested(MAX_DEPTH - 1)] * 50) + b"]",
        b'{"a":' * MAX_DEPTH + b"1" + b"}" * MAX_DEPTH,
        json.dumps("[" * 1000).encode(),
        json.dumps('"[' * 1000).encode(),
        json.dumps("\\" * 1001 + "[" * 1000).encode(),
        b"[" + json.dumps({"[" * 100: "}" * 100}).encode() + b"]",
    ],
    ids=range(7),
)
def test_what_is_nested_as_deep_as_allowed_passes_and_brackets_in_strings_do_not_count(data: bytes) -> None:
    check_limits(data)
    check_limits(memoryview(data))


@pytest.mark.parametrize(
    "data",
    [
        nested(MAX_DEPTH + 1),
        nested(MAX_DEPTH + 1, b'"]"'),
        b'{"a":' * (MAX_DEPTH + 1),
        b"[" * 1_000_000,
        b'["\\"", ' + nested(MAX_DEPTH) + b"]",
        b'["' + b"\\\\" * 50 + b'",' + nested(MAX_DEPTH) + b"]",
        b"[{" * MAX_DEPTH,
    ],
    ids=range(7),
)
def test_what_is_nested_deeper_is_refused_before_it_is_parsed(data: bytes) -> None:
    with pytest.raises(DecodeError, match=r"nested deeper than 64"):
        check_limits(data)
