"""Envelopes that were written once can be read for ever: files are added to `golden`, and never changed."""

import hashlib
import json
from pathlib import Path
from typing import Final

import msgspec
import pytest

from jobq.codec import decode_crashes, decode_job, decode_trail, encode_crashes, encode_job, encode_trail
from jobq.model import Job
from tests.docs.pages import ROOT, blocks

GOLDEN: Final = sorted((Path(__file__).parent / "golden").glob("v*.json"))
HASHES: Final = {
    "v1-delayed.json": "23f14610b2388d88",
    "v1-everything.json": "18abe5f6507be47a",
    "v1-least.json": "e143031d04b1389e",
    "v1-with-a-field-from-the-future.json": "87b6c1126f4db418",
}
EXAMPLES: Final = [block.text.strip() for block in blocks(ROOT / "docs/wire-format.md") if block.language == "json"]


def test_no_file_was_changed_or_taken_away() -> None:
    assert {file.name: hashlib.sha256(file.read_bytes()).hexdigest()[:16] for file in GOLDEN} == HASHES


@pytest.mark.parametrize("file", GOLDEN, ids=lambda file: file.stem)
def test_every_golden_envelope_is_read_as_it_was_meant(file: Path) -> None:
    envelope = file.read_bytes()
    job, fields = decode_job(envelope), json.loads(envelope)
    for field in msgspec.structs.fields(Job):
        if field.name in fields:
            value = getattr(job, field.name)
            assert (json.loads(bytes(value)) if field.name == "body" else value) == fields[field.name]
    assert decode_job(encode_job(job)) == job


def test_a_golden_envelope_without_fields_from_the_future_is_written_the_same_today() -> None:
    for file in GOLDEN:
        if "future" not in file.name and "everything" not in file.name:
            written = json.loads(encode_job(decode_job(file.read_bytes())))
            assert {"body": {}, **json.loads(file.read_bytes())} == {"body": {}, **written}


def test_the_examples_on_the_page_are_what_is_stored() -> None:
    envelope, trail, crashes = (example.encode() for example in EXAMPLES)
    assert json.loads(encode_job(decode_job(envelope))) == json.loads(envelope)
    assert json.loads(encode_trail(decode_trail(trail))) == json.loads(trail)
    assert json.loads(encode_crashes(decode_crashes(crashes))) == json.loads(crashes)
