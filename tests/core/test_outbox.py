"""How long an enqueue may take: as long as the client's `timeout` says, neither less nor more."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

import jobq
from jobq import App, Client, JobHandle, errors
from jobq.model import Fate
from jobq.testing import ManualClock
from jobq.worker import Worker
from jobq_memory import MemoryBroker
from tests.core.bench import Faulty, pump, state_of, until

TIMEOUT = 10.0

app = App()


@app.task(name="note")
async def note(text: str) -> None: ...


@pytest.fixture
async def faulty(memory: MemoryBroker) -> Faulty:
    return Faulty(memory)


@pytest.fixture
async def client(faulty: Faulty, clock: ManualClock) -> AsyncIterator[Client]:
    """On a clock that stands still. Whatever a failed test leaves under way may end."""
    client = Client(faulty, timeout=TIMEOUT, clock=clock)
    yield client
    for gate in faulty.faults.gates.values():
        gate.set()
    flight = asyncio.create_task(pump(clock))
    await client.__aexit__(None, None, None)
    flight.cancel()


def stored(memory: MemoryBroker) -> set[str]:
    return {entry.job.id for entry in state_of(memory).jobs.values()}


def call(client: Client, name: str) -> "asyncio.Task[JobHandle[None]]":
    return asyncio.create_task(client.perform_async(note.options(id=name), ""))


async def sent(faulty: Faulty, times: int = 1) -> None:
    await until(lambda: faulty.faults.calls["enqueue"] >= times)  # a call that failed may have been repeated


def is_not_stored(call: "asyncio.Task[Any]") -> bool:
    """It has failed, and it says that nothing was stored."""
    error = call.exception()
    return isinstance(error, errors.BrokerUnavailable) and not isinstance(error, errors.OutcomeUnknown)


def is_unknown(call: "asyncio.Task[Any]") -> bool:
    return isinstance(call.exception(), errors.OutcomeUnknown)


# --- a broker that is away


async def test_whoever_joins_late_has_all_of_its_time(
    client: Client, faulty: Faulty, memory: MemoryBroker, clock: ManualClock
) -> None:
    faulty.faults.down = True
    first = call(client, "first")
    await clock.run(1)
    second = call(client, "second")
    await clock.run(8)
    late = call(client, "late")
    await clock.run(0.99)
    assert not first.done()
    await clock.run(0.02)
    assert is_not_stored(first)
    assert not second.done()
    await clock.run(1)
    assert is_not_stored(second)
    await clock.run(6)
    assert not late.done()
    faulty.faults.down = False
    await clock.run(1)
    assert (await late).fate is Fate.STORED
    assert stored(memory) == {"late"}


async def test_what_is_known_not_to_be_stored_goes_with_the_next_attempt(
    client: Client, faulty: Faulty, memory: MemoryBroker, clock: ManualClock
) -> None:
    faulty.faults.down = True
    calls = [call(client, "a")]
    await clock.run(3)
    calls += [call(client, "b"), call(client, "c")]
    faulty.faults.down = False
    faulty.faults.jobs_per_call.clear()
    await clock.run(1)
    assert [(await each).fate for each in calls] == [Fate.STORED] * 3
    assert (faulty.faults.jobs_per_call, stored(memory)) == ([3], {"a", "b", "c"})


async def test_each_call_is_tried_several_times_however_short_its_time_is(faulty: Faulty, clock: ManualClock) -> None:
    faulty.faults.down = True
    client = Client(faulty, timeout=0.1, clock=clock)
    calls = list["asyncio.Task[JobHandle[None]]"]()
    for n in range(200):  # so that there is always one for which it goes on
        calls.append(call(client, f"j{n}"))
        before = faulty.faults.calls["enqueue"]
        await clock.run(0.099)
        assert faulty.faults.calls["enqueue"] >= before + 3
    await clock.run(0.1)
    assert all(is_not_stored(each) for each in calls)
    await client.__aexit__(None, None, None)


async def test_the_error_of_a_call_that_was_not_sent_says_why(
    client: Client, faulty: Faulty, clock: ManualClock
) -> None:
    faulty.faults.down = True
    calls = [call(client, "a"), call(client, "b")]
    await clock.run(TIMEOUT)
    for each in calls:
        with pytest.raises(errors.BrokerUnavailable, match="injected: down"):
            await each


# --- a broker that is silent


async def test_each_call_fails_at_its_own_deadline(
    client: Client, faulty: Faulty, memory: MemoryBroker, clock: ManualClock
) -> None:
    gate = faulty.faults.gates["enqueue"] = asyncio.Event()
    under_way = call(client, "under-way")
    await sent(faulty)
    await clock.run(3)
    in_line = call(client, "in-line")
    await clock.run(6.99)
    assert not under_way.done()
    await clock.run(0.02)
    assert is_unknown(under_way)
    assert not in_line.done()
    await clock.run(2.98)
    assert not in_line.done()
    await clock.run(0.02)
    assert is_not_stored(in_line)
    gate.set()
    await until(lambda: stored(memory))
    assert (await client.perform_async(note, "")).fate is Fate.STORED
    assert "in-line" not in stored(memory)


async def test_an_answer_that_comes_too_late_for_some_serves_the_others(
    client: Client, faulty: Faulty, memory: MemoryBroker, clock: ManualClock
) -> None:
    gate = faulty.faults.gates["enqueue"] = asyncio.Event()
    first = call(client, "first")
    await sent(faulty)
    second = call(client, "second")
    await clock.run(5)
    third = call(client, "third")
    await clock.run(4)
    slow = faulty.faults.gates["enqueue"] = asyncio.Event()
    gate.set()
    await first
    await sent(faulty, 2)  # the second and the third together, whose reply takes longer than the second waits
    await clock.run(1)
    assert is_unknown(second)
    slow.set()
    assert (await third).fate is Fate.STORED
    assert stored(memory) == {"first", "second", "third"}


async def test_a_lost_reply_is_asked_for_again_under_its_stamp_until_the_last_deadline(
    client: Client, faulty: Faulty, memory: MemoryBroker, clock: ManualClock
) -> None:
    faulty.faults.lose_reply("enqueue", 1000)
    first = call(client, "first")
    await clock.run(5)
    second = call(client, "second")
    await clock.run(3)
    third = call(client, "third")
    await clock.run(2.01)
    assert is_unknown(first)
    faulty.faults.stamps.clear()
    await clock.run(4.98)
    assert not second.done()
    await clock.run(0.02)
    assert is_unknown(second)
    await clock.run(2.98)
    assert not third.done()
    assert len(faulty.faults.stamps) > 1
    assert len(set(faulty.faults.stamps)) == 1
    await clock.run(0.02)
    assert is_unknown(third)
    assert stored(memory) == {"first", "second", "third"}


async def test_after_a_lost_reply_nothing_makes_the_outcome_known_but_an_answer(
    client: Client, faulty: Faulty, clock: ManualClock
) -> None:
    faulty.faults.lose_reply("enqueue")
    faulty.faults.fail("enqueue", 1000)
    under_way = call(client, "under-way")
    await sent(faulty)
    in_line = call(client, "in-line")
    await clock.run(TIMEOUT + 0.01)
    assert is_unknown(under_way)
    assert is_not_stored(in_line)
    assert len(set(faulty.faults.stamps)) == 1


async def test_a_refusal_after_a_lost_reply_leaves_the_outcome_unknown_and_nobody_is_sent_anew(
    memory: MemoryBroker, clock: ManualClock
) -> None:
    class Barred(Faulty):
        async def enqueue(self, jobs: Any, stamp: Any) -> Any:
            if self.faults.calls["enqueue"]:
                self.faults.stamps.append(stamp)
                raise errors.BrokerRefused("the password was changed")
            return await super().enqueue(jobs, stamp)

    barred = Barred(memory)
    barred.faults.lose_reply("enqueue")
    client = Client(barred, timeout=TIMEOUT, clock=clock)
    calls = [call(client, "a"), call(client, "b")]
    await clock.run(1)
    assert [is_unknown(each) for each in calls] == [True, True]
    assert stored(memory) == {"a", "b"}
    assert len(set(barred.faults.stamps)) == 1
    await client.__aexit__(None, None, None)


async def test_a_call_that_is_to_be_tried_alone_fails_in_time_and_is_not_stored(
    memory: MemoryBroker, clock: ManualClock
) -> None:
    class Picky(Faulty):
        async def enqueue(self, jobs: Any, stamp: Any) -> Any:
            if len(jobs) > 1:
                raise errors.BrokerRefused("one of them is bad")
            return await super().enqueue(jobs, stamp)

    picky = Picky(memory)
    gate = picky.faults.gates["enqueue"] = asyncio.Event()
    client = Client(picky, timeout=TIMEOUT, clock=clock)
    first = call(client, "first")
    await sent(picky)
    one, other = call(client, "one"), call(client, "other")
    await asyncio.sleep(0)
    picky.faults.gates["enqueue"] = asyncio.Event()
    gate.set()
    await first
    await sent(picky, 2)
    await clock.run(TIMEOUT)
    assert is_unknown(one)
    assert is_not_stored(other)
    picky.faults.gates["enqueue"].set()
    await client.__aexit__(None, None, None)
    assert "other" not in stored(memory)


async def test_a_busy_client_has_one_timer_and_an_idle_one_none(client: Client, clock: ManualClock) -> None:
    for _ in range(50):
        await client.perform_async(note, "")
    await asyncio.gather(*(client.perform_async(note, "") for _ in range(50)))
    assert clock.sleeping == 1
    await clock.run(TIMEOUT)
    assert clock.sleeping == 0


# --- the size of a call


async def test_concurrent_calls_share_calls_of_bounded_bytes(faulty: Faulty) -> None:
    async with Client(faulty, max_payload=900_000) as client:
        await asyncio.gather(*(client.perform_async(note, "x" * 800_000) for _ in range(25)))
    assert sum(faulty.faults.jobs_per_call) == 25
    assert 1 < max(faulty.faults.jobs_per_call) <= 10


# --- leaving


async def test_leaving_a_client_waits_for_what_may_still_be_stored(
    faulty: Faulty, memory: MemoryBroker, clock: ManualClock
) -> None:
    faulty.faults.down = True
    client = Client(faulty, timeout=TIMEOUT, clock=clock)
    first = call(client, "first")
    await clock.run(8)
    end = asyncio.create_task(client.__aexit__(None, None, None))
    second = call(client, "second")  # a borrowed broker is still open
    await clock.run(7)
    assert is_not_stored(first)
    assert not end.done()
    faulty.faults.down = False
    await clock.run(2)
    await end
    assert (await second).fate is Fate.STORED
    assert stored(memory) == {"second"}


async def test_leaving_a_client_stores_what_was_under_way_when_its_caller_was_cancelled(
    faulty: Faulty, memory: MemoryBroker, clock: ManualClock
) -> None:
    gate = faulty.faults.gates["enqueue"] = asyncio.Event()
    client = Client(faulty, timeout=TIMEOUT, clock=clock)
    under_way = call(client, "under-way")
    await sent(faulty)
    under_way.cancel()
    end = asyncio.create_task(client.__aexit__(None, None, None))
    await clock.run(5)
    assert not end.done()
    gate.set()
    await end
    assert stored(memory) == {"under-way"}


@pytest.mark.parametrize("silent", [False, True], ids=["away", "silent"])
async def test_leaving_a_client_takes_no_longer_than_its_timeout(
    faulty: Faulty, clock: ManualClock, *, silent: bool
) -> None:
    before = asyncio.all_tasks()
    gate = asyncio.Event()
    if silent:
        faulty.faults.gates["enqueue"] = gate
    else:
        faulty.faults.down = True
    client = Client(faulty, timeout=TIMEOUT, clock=clock)
    calls = [call(client, "under-way")]
    await sent(faulty)
    calls.append(call(client, "in-line"))
    end = asyncio.create_task(client.__aexit__(None, None, None))
    await clock.run(TIMEOUT - 0.01)
    assert not end.done()
    await clock.run(0.02)
    assert end.done()
    assert [is_unknown(each) for each in calls] == [silent, False]
    assert is_not_stored(calls[1])
    gate.set()  # nobody may cancel a verb midway; when it is over, nothing is left
    await until(lambda: asyncio.all_tasks() == before)
    assert clock.sleeping == 0


@pytest.mark.parametrize("silent", [False, True], ids=["away", "silent"])
async def test_an_enqueue_under_way_does_not_keep_a_worker_from_ending(*, silent: bool) -> None:
    app, started = App(), asyncio.Event()
    strays = list["asyncio.Task[JobHandle[None]]"]()

    @app.task
    async def work() -> None:
        if silent:
            broker.faults.gates["enqueue"] = asyncio.Event()
        else:
            broker.faults.fail("enqueue", 1000)
        client = jobq.current().client
        strays.append(asyncio.create_task(client.perform_async(note, "a")))
        await sent(broker, 1)
        strays.append(asyncio.create_task(client.perform_async(note, "b")))
        started.set()
        await client.perform_async(note, "c")

    async with MemoryBroker() as memory, Client(memory) as client:
        broker = Faulty(memory)
        async with Worker(app, broker, grace=0):
            await client.perform_async(work)
            await started.wait()
            begun = time.monotonic()
        assert time.monotonic() - begun < 2
        assert all(stray.done() for stray in strays)
        assert isinstance(strays[0].exception(), errors.OutcomeUnknown) is silent
        assert is_not_stored(strays[1])
