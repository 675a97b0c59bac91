"""What is stored, and that it comes back as it was."""

from collections.abc import Sequence

import pytest
from msgspec import Raw
from msgspec.structs import replace

from jobq.broker import Capability
from jobq.model import MAX_CHUNK, Again, Answer, Cancelled, Dead, Done, Fate, Job, Outcome, Trail
from jobq.testing.conformance._bench import Bench, Promises, ids, job

ODD_NAMES = [
    "a b",
    "a:b:c",
    "{a}",
    "a/b",
    "a.b*c?",
    "[a]%d",
    "naïve-Ünïcode-✓-日本",
    "quote'\"\\",
    "-1",
    "nil",
    "x" * 200,
]
FULL = Job(
    id="full",
    task="reports.render",
    queue="default",
    priority=4,
    created=1_700_000_000.125,
    headers={"traceparent": "00-ab-cd-01", "ключ": "значение"},
    expires=4_000_000_000.5,
    unique_key="u",
    unique_until=4_000_000_001.5,
    limit_key="l",
    group="g",
    batch="b",
    result_ttl=60.0,
    cron="nightly",
    cron_slot=1_700_000_100.0,
    body=Raw(b'{"args":[1,"two",null],"kwargs":{"three":3.5}}'),
)
BODIES = {
    "empty": b"{}",
    "unicode": '{"a":"ünï ✓ 日本 \U0001f600"}'.encode(),
    "escapes": rb'{"a":"\u0000\n\t\"\\ \ud83d\ude00"}',
    "spaces and order": b'{ "b" : 1,\t"a" : [ 1.0, 1e3, -0 ] }',
    "large": b'["' + b"x" * 262_144 + b'"]',
    "many": b"[" + b"0," * 50_000 + b"1]",
    "markup": b'{"a":"%s {0} $1 :id ? \' ; -- */"}',
}


def ends() -> list[Outcome]:
    """The outcomes after which a job is no longer live; the bench gives the epoch."""
    trail = Trail(attempt=1)
    return [Done("a", 0), Cancelled("a", 0), Dead("a", 0, trail), Dead("a", 0, trail, keep=False)]


class EnqueuePromises(Promises):
    """`Broker.enqueue`."""

    async def test_an_enqueued_job_can_be_claimed(self, bench: Bench) -> None:
        await bench.put("a")
        assert ids(await (await bench.worker()).claim()) == ["a"]

    async def test_each_job_of_a_chunk_is_answered_in_order(self, bench: Bench) -> None:
        assert list(await bench.put("c", "a", "b")) == [Answer("c"), Answer("a"), Answer("b")]

    async def test_an_empty_chunk_is_answered_with_nothing(self, bench: Bench) -> None:
        assert list(await bench.enqueue()) == []
        assert list(await (await bench.worker()).claim()) == []

    async def test_a_chunk_may_have_a_thousand_jobs(self, bench: Bench) -> None:
        names = [f"job-{number:04}" for number in range(MAX_CHUNK)]
        assert ids(await bench.put(*names)) == names
        worker = await bench.worker()
        assert await worker.drain() == names

    async def test_what_one_broker_object_stores_another_claims(self, bench: Bench) -> None:
        await bench.put("a")
        worker = await bench.worker(broker=await bench.connect())
        assert ids(await worker.claim()) == ["a"]

    async def test_all_columns_come_back_as_they_were(self, bench: Bench) -> None:
        await bench.enqueue(FULL, job("plain"))
        worker = await bench.worker()
        assert [delivery.job for delivery in await worker.claim()] == [FULL, job("plain")]

    async def test_a_fresh_job_has_no_past(self, bench: Bench) -> None:
        await bench.put("a")
        delivery = await (await bench.worker()).claim_one()
        assert (delivery.trail, delivery.crashes, delivery.malformed) == (Trail(), (), None)

    @pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
    async def test_a_body_comes_back_byte_for_byte(self, bench: Bench, body: bytes) -> None:
        await bench.put("a", body=Raw(body))
        delivery = await (await bench.worker()).claim_one()
        assert bytes(delivery.job.body) == body

    async def test_a_retried_job_keeps_its_body_and_columns(self, bench: Bench) -> None:
        await bench.enqueue(FULL)
        worker = await bench.worker()
        delivery = await worker.claim_one()
        await worker.settle(Again(delivery.job.id, delivery.epoch, Trail(attempt=1)))
        assert (await worker.claim_one()).job == FULL

    @pytest.mark.parametrize("name", ODD_NAMES)
    async def test_any_text_will_do_as_id_and_queue_and_task(self, bench: Bench, name: str) -> None:
        odd = Job(id=name, task=name, queue=name, headers={name: name})
        await bench.enqueue(odd, job("other"))
        worker = await bench.worker(name)
        delivery = await worker.claim_one(name)
        assert delivery.job == odd
        assert await worker.settle(Done(name, delivery.epoch)) == []
        assert await worker.drain(name, "default") == ["other"]

    async def test_the_id_of_a_ready_job_is_a_duplicate(self, bench: Bench) -> None:
        bench.needs(Capability.IDS)
        await bench.put("a")
        assert list(await bench.put("a")) == [Answer("a", Fate.DUPLICATE)]
        assert await (await bench.worker()).drain() == ["a"]

    async def test_the_id_of_a_scheduled_job_is_a_duplicate(self, bench: Bench) -> None:
        bench.needs(Capability.IDS)
        await bench.put("a", delay=60)
        assert list(await bench.put("a")) == [Answer("a", Fate.DUPLICATE)]
        assert await (await bench.worker()).drain() == []

    async def test_the_id_of_a_held_job_is_a_duplicate(self, bench: Bench) -> None:
        bench.needs(Capability.IDS)
        await bench.put("a")
        worker = await bench.worker()
        await worker.claim_one()
        assert list(await bench.put("a")) == [Answer("a", Fate.DUPLICATE)]
        assert await worker.drain() == []

    async def test_the_id_of_a_live_job_is_a_duplicate_in_another_queue_too(self, bench: Bench) -> None:
        bench.needs(Capability.IDS)
        await bench.put("a", queue="one")
        assert list(await bench.put("a", queue="two")) == [Answer("a", Fate.DUPLICATE)]
        assert await (await bench.worker()).drain("two") == []

    async def test_a_duplicate_leaves_the_live_job_as_it_was(self, bench: Bench) -> None:
        bench.needs(Capability.IDS)
        await bench.put("a", body=Raw(b"[1]"))
        await bench.put("a", body=Raw(b"[2]"), priority=4, delay=9)
        delivery = await (await bench.worker()).claim_one()
        assert delivery.job == job("a", body=Raw(b"[1]"))

    async def test_a_duplicate_does_not_keep_the_rest_of_its_chunk_out(self, bench: Bench) -> None:
        bench.needs(Capability.IDS)
        await bench.put("b")
        fates: Sequence[Answer] = await bench.put("a", "b", "c")
        assert list(fates) == [Answer("a"), Answer("b", Fate.DUPLICATE), Answer("c")]
        assert await (await bench.worker()).drain() == ["b", "a", "c"]

    async def test_an_id_twice_in_one_chunk_is_stored_once(self, bench: Bench) -> None:
        bench.needs(Capability.IDS)
        assert list(await bench.put("a", "a")) == [Answer("a"), Answer("a", Fate.DUPLICATE)]
        assert await (await bench.worker()).drain() == ["a"]

    @pytest.mark.parametrize("end", ends(), ids=["done", "cancelled", "dead", "dead and not kept"])
    async def test_the_id_of_an_ended_job_may_be_used_again(self, bench: Bench, end: Outcome) -> None:
        await bench.put("a", body=Raw(b"[1]"))
        worker = await bench.worker()
        first = await worker.claim_one()
        await worker.settle(replace(end, epoch=first.epoch))
        assert list(await bench.put("a", body=Raw(b"[2]"))) == [Answer("a")]
        second = await worker.claim_one()
        assert (second.job, second.trail) == (job("a", body=Raw(b"[2]")), Trail())
