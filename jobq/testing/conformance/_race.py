"""Several broker objects at once."""

import asyncio
from collections.abc import Sequence

from jobq.broker import Capability
from jobq.model import MAX_CHUNK, Answer, Delivery, Done, Fate, Stamp, Token
from jobq.testing.conformance._bench import Bench, Hand, Promises, done, ids, job, token

RACERS = 4


class RacePromises(Promises):
    """Every verb is one atomic step."""

    async def test_racing_workers_claim_each_job_exactly_once(self, bench: Bench) -> None:
        names = [f"{number}" for number in range(400)]
        await bench.put(*names)
        racers = [await bench.worker(f"w{number}", broker=await bench.connect()) for number in range(RACERS)]

        async def race(worker: Hand) -> list[Token]:
            mine = list[Token]()
            last: Sequence[Delivery] = ()
            while True:
                turn = await worker.turn(*done(*last), limit=7)
                assert list(turn.refused) == []
                if not turn.deliveries:
                    return mine
                last = turn.deliveries
                mine += map(token, last)

        claimed = [each for mine in await asyncio.gather(*map(race, racers)) for each in mine]
        assert sorted(ids(claimed)) == sorted(names)
        if bench.has(Capability.FENCE):
            assert len({each.epoch for each in claimed}) == len(names)

    async def test_a_chunk_appears_as_a_whole(self, bench: Bench) -> None:
        bench.needs(Capability.ATOMIC | Capability.GREEDY)
        watcher = await bench.worker(broker=await bench.connect())
        names = [f"{number}" for number in range(MAX_CHUNK)]
        storing = asyncio.ensure_future(bench.put(*names))
        seen = list[Delivery]()
        while not seen:
            await asyncio.wait([storing], timeout=0)
            seen += await watcher.claim()
        assert ids(seen) == names
        await storing

    async def test_of_racing_outcomes_for_one_claim_exactly_one_wins(self, bench: Bench) -> None:
        worker = await bench.worker()
        hands = [worker, *[Hand(await bench.beside(worker), worker.info) for _ in range(RACERS - 1)]]
        for number in range(20):
            await bench.put(f"{number}")
            delivery = await hands[0].claim_one()
            for hand in hands:
                hand.received = delivery.epoch
            turns = await asyncio.gather(*(hand.settle(Done(f"{number}", delivery.epoch)) for hand in hands))
            assert turns.count([]) == 1

    async def test_of_racing_enqueues_of_one_id_exactly_one_is_stored(self, bench: Bench) -> None:
        bench.needs(Capability.IDS)
        brokers = [await bench.connect() for _ in range(RACERS)]
        for number in range(20):
            enqueues = [broker.enqueue([job(f"{number}")], bench.stamp(f"c{n}")) for n, broker in enumerate(brokers)]
            fates = [answer.fate for [answer] in await asyncio.gather(*enqueues)]
            assert sorted(fates) == [*[Fate.DUPLICATE] * (RACERS - 1), Fate.STORED]
        assert len(await (await bench.worker()).drain()) == 20

    async def test_of_racing_sweeps_exactly_one_reclaims_a_job(self, bench: Bench) -> None:
        bench.needs(Capability.LEASE)
        brokers = [await bench.connect() for _ in range(RACERS)]
        names = [f"{number}" for number in range(50)]
        await bench.put(*names)
        await (await bench.worker("w1", lease=1)).claim()
        bench.clock.advance(1)
        swept = await asyncio.gather(*(broker.sweep("here", 10) for broker in brokers * 3))
        assert sum(each.reclaimed for each in swept) == len(names)
        again = await (await bench.worker("w2")).claim()
        assert [len(delivery.crashes) for delivery in again] == [1] * len(names)

    async def test_concurrent_calls_on_one_broker_object_do_not_mix_up_their_answers(self, bench: Bench) -> None:
        async def enqueue(number: int) -> Sequence[Answer]:
            return await bench.broker.enqueue([job(f"{number}"), job(f"{number}+")], Stamp(f"c{number}", 1))

        answers = await asyncio.gather(*map(enqueue, range(50)))
        assert [ids(each) for each in answers] == [[f"{n}", f"{n}+"] for n in range(50)]
        workers = [await bench.worker(f"w{number}") for number in range(10)]
        deliveries = await asyncio.gather(*(worker.claim(10) for worker in workers))
        assert sorted(map(len, deliveries)) == [10] * 10
        refusals = await asyncio.gather(
            *(worker.settle(Done("nothing", n), *done(*deliveries[n])) for n, worker in enumerate(workers))
        )
        assert refusals == [[Token("nothing", n)] for n in range(10)]
