"""An enqueue whose answer was lost can be repeated."""

from jobq.broker import Capability
from jobq.model import Answer, Fate, Stamp
from jobq.testing.conformance._bench import Bench, Promises, job


class StampPromises(Promises):
    """`Stamp`."""

    async def test_a_repeated_enqueue_stores_nothing_twice(self, bench: Bench) -> None:
        stamp = Stamp("client", 1)
        first = await bench.broker.enqueue([job("a"), job("b")], stamp)
        assert list(await bench.broker.enqueue([job("a"), job("b")], stamp)) == list(first)
        assert await (await bench.worker()).drain() == ["a", "b"]

    async def test_a_repeated_enqueue_answers_the_same(self, bench: Bench) -> None:
        bench.needs(Capability.IDS)
        await bench.put("a")
        stamp = Stamp("client", 1)
        for _ in range(2):
            answers = await bench.broker.enqueue([job("a"), job("b")], stamp)
            assert list(answers) == [Answer("a", Fate.DUPLICATE), Answer("b")]

    async def test_a_repeated_enqueue_changes_nothing_after_its_jobs_have_ended(self, bench: Bench) -> None:
        stamp = Stamp("client", 1)
        await bench.broker.enqueue([job("a"), job("b", delay=60)], stamp)
        worker = await bench.worker()
        assert await worker.drain() == ["a"]
        assert list(await bench.broker.enqueue([job("a"), job("b", delay=60)], stamp)) == [Answer("a"), Answer("b")]
        assert await worker.drain() == []

    async def test_a_repeated_enqueue_of_new_ids_changes_nothing_whenever_it_comes(self, bench: Bench) -> None:
        calls = [(job(name), Stamp("client", number, fresh=True)) for number, name in enumerate("abc", 1)]
        for call, stamp in calls:
            for _ in range(2):
                assert list(await bench.broker.enqueue([call], stamp)) == [Answer(call.id)]
        worker = await bench.worker()
        assert await worker.drain() == ["a", "b", "c"]
        for call, stamp in reversed(calls):
            assert [answer.id for answer in await bench.broker.enqueue([call], stamp)] == [call.id]
        assert await worker.drain() == []

    async def test_a_repeated_enqueue_changes_nothing_through_another_broker_object(self, bench: Bench) -> None:
        bench.needs(Capability.IDS)
        await bench.broker.enqueue([job("a")], Stamp("client", 1))
        worker = await bench.worker()
        await worker.drain()
        assert list(await (await bench.connect()).enqueue([job("a")], Stamp("client", 1))) == [Answer("a")]
        assert await worker.drain() == []

    async def test_an_older_stamp_changes_nothing(self, bench: Bench) -> None:
        await bench.broker.enqueue([job("a")], Stamp("client", 1))
        await bench.broker.enqueue([job("b")], Stamp("client", 2))
        worker = await bench.worker()
        await worker.drain()
        assert [answer.id for answer in await bench.broker.enqueue([job("a")], Stamp("client", 1))] == ["a"]
        assert await worker.drain() == []

    async def test_an_older_stamp_does_not_make_newer_ones_forgotten(self, bench: Bench) -> None:
        await bench.broker.enqueue([job("b")], Stamp("client", 2))
        await bench.broker.enqueue([job("a")], Stamp("client", 1))
        worker = await bench.worker()
        assert await worker.drain() == ["b"]
        await bench.broker.enqueue([job("b")], Stamp("client", 2))
        assert await worker.drain() == []

    async def test_stamps_need_not_be_consecutive(self, bench: Bench) -> None:
        await bench.broker.enqueue([job("a")], Stamp("client", 7))
        await bench.broker.enqueue([job("b")], Stamp("client", 4_000_000_000))
        assert await (await bench.worker()).drain() == ["a", "b"]

    async def test_stamps_of_different_clients_have_nothing_to_do_with_each_other(self, bench: Bench) -> None:
        await bench.broker.enqueue([job("a")], Stamp("one", 5))
        assert list(await bench.broker.enqueue([job("b")], Stamp("two", 5))) == [Answer("b")]
        assert list(await bench.broker.enqueue([job("c")], Stamp("three", 1))) == [Answer("c")]
        assert await (await bench.worker()).drain() == ["a", "b", "c"]

    async def test_a_stamp_is_remembered_for_an_hour(self, bench: Bench) -> None:
        bench.needs(Capability.CLOCK)
        await bench.broker.enqueue([job("a")], Stamp("client", 1))
        worker = await bench.worker(lease=7200)
        await worker.drain()
        bench.clock.advance(3599)
        await bench.sweep()
        await bench.broker.enqueue([job("a")], Stamp("client", 1))
        assert await worker.drain() == []

    async def test_a_job_with_a_delay_is_due_by_its_first_enqueue(self, bench: Bench) -> None:
        bench.needs(Capability.CLOCK)
        stamp = Stamp("client", 1)
        await bench.broker.enqueue([job("a", delay=60)], stamp)
        bench.clock.advance(59)
        await bench.broker.enqueue([job("a", delay=60)], stamp)
        bench.clock.advance(1)
        assert await (await bench.worker()).drain() == ["a"]
