"""`perform_*`: stored when it returns, and refused at the call when it cannot be right."""

import asyncio
import math
import re
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from jobq import App, Client, Handler, Job, SyncClient, errors
from jobq.clock import SYSTEM_CLOCK
from jobq.model import Fate
from jobq.testing import ManualClock
from jobq.worker import Worker
from jobq_memory import MemoryBroker
from tests.core.bench import Faulty, state_of, until

app = App()


@app.task(name="add")
async def add(a: int, b: int = 0) -> int:
    return a + b


@app.task(name="show", queue="other", priority=3)
def show(text: str) -> str:
    return text


@pytest.fixture
async def faulty(memory: MemoryBroker) -> Faulty:
    return Faulty(memory)


@pytest.fixture
async def client(faulty: Faulty) -> AsyncIterator[Client]:
    async with Client(faulty) as client:
        yield client


async def test_a_job_is_stored_when_perform_async_returns(client: Client, memory: MemoryBroker) -> None:
    handle = await client.perform_async(add, 1, b=2)
    job = state_of(memory).jobs[handle.id].job
    assert (job.id, job.task, job.queue, job.priority) == (handle.id, "add", "default", 2)
    assert bytes(job.body) == b'{"args":[1],"kwargs":{"b":2}}'
    assert (handle.task, handle.fate) == ("add", Fate.STORED)
    assert repr(handle) == f"<job {handle.id} of add, stored>"


async def test_a_broker_is_told_which_ids_nobody_can_know_yet(memory: MemoryBroker) -> None:
    told = list[tuple[int, bool]]()

    class Told(Faulty):
        async def enqueue(self, jobs: Any, stamp: Any) -> Any:
            told.append((len(jobs), stamp.fresh))
            return await super().enqueue(jobs, stamp)

    named = add.options(id="named")
    async with Client(Told(memory)) as client:
        await client.perform_async(add, 1)
        await client.perform_in(5, add, 1)
        await client.perform_async(named, 1)
        await client.perform_many([add.call(1), add.call(2)])
        await client.perform_many([add.call(1), named.call(1)])
        await asyncio.gather(*(client.perform_async(task, 1) for task in (add, named, add)))
        await asyncio.gather(*(client.perform_async(add, 1) for _ in range(3)))
    assert told == [(1, True), (1, True), (1, False), (2, True), (2, False), (3, False), (3, True)]


async def test_a_job_that_a_middleware_stores_again_or_renames_is_not_told_to_be_new(memory: MemoryBroker) -> None:
    told, app = list[bool](), App()

    class Told(Faulty):
        async def enqueue(self, jobs: Any, stamp: Any) -> Any:
            told.append(stamp.fresh)
            return await super().enqueue(jobs, stamp)

    @app.enqueue_middleware
    async def twice(job: Job, call_next: Handler) -> object:
        await call_next(job)
        await call_next(job)
        return await call_next(msgspec.structs.replace(job, id="another"))

    @app.task
    async def work() -> None: ...

    async with Client(Told(memory)) as client:
        await client.perform_async(work)
        await client.perform_many([work.call()])
        await client.perform_async(work.options(id="named"))
    assert told == [True, False, False, True, False, False, False, False, False]


async def test_created_is_the_clients_time(memory: MemoryBroker, clock: ManualClock) -> None:
    async with Client(memory, clock=clock) as client:
        handle = await client.perform_async(add, 1)
    assert state_of(memory).jobs[handle.id].job.created == clock.time()


@pytest.mark.parametrize("delay", [90, 90.0, timedelta(seconds=90), timedelta(minutes=1, seconds=30)])
async def test_a_delay_is_relative_to_the_brokers_clock(
    client: Client, memory: MemoryBroker, clock: ManualClock, delay: float | timedelta
) -> None:
    handle = await client.perform_in(delay, add, 1)
    assert state_of(memory).jobs[handle.id].due == clock.time() + 90


@pytest.mark.parametrize("delay", [0, -5, timedelta(0), timedelta(days=-1), -0.0])
async def test_no_delay_and_a_negative_one_mean_now(
    client: Client, memory: MemoryBroker, delay: float | timedelta
) -> None:
    handle = await client.perform_in(delay, add, 1)
    assert state_of(memory).jobs[handle.id].due is None
    assert state_of(memory).has_work(["default"], memory._clock.time())


async def test_perform_at_takes_any_aware_datetime(client: Client, memory: MemoryBroker, clock: ManualClock) -> None:
    from zoneinfo import ZoneInfo  # noqa: PLC0415 - needs the system's zones

    at = datetime.fromtimestamp(clock.time() + 60, tz=UTC)
    for moment in (at, at.astimezone(ZoneInfo("Europe/Berlin"))):
        handle = await client.perform_at(moment, add, 1)
        assert state_of(memory).jobs[handle.id].due == clock.time() + 60
    past = await client.perform_at(datetime(2001, 1, 1, tzinfo=UTC), add, 1)
    assert state_of(memory).jobs[past.id].due is None


BAD_DELAYS: list[tuple[Any, type[Exception], str]] = [
    ("5", TypeError, "the delay is '5'"),
    (None, TypeError, "the delay is None"),
    (True, TypeError, "the delay is True"),
    (add, TypeError, "the delay is <task add>"),
    (math.nan, ValueError, "finite"),
    (math.inf, ValueError, "finite"),
    (-math.inf, ValueError, "finite"),
    (1e12, ValueError, "seconds"),
    (10**400, ValueError, "seconds"),
]


@pytest.mark.parametrize(("delay", "kind", "message"), BAD_DELAYS, ids=lambda v: repr(v)[:20])
async def test_a_delay_that_is_no_number_is_an_error_and_nothing_is_stored(
    client: Client, memory: MemoryBroker, delay: Any, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=re.escape(message)):
        await client.perform_in(delay, add, 1)
    assert state_of(memory).jobs == {}


@pytest.mark.parametrize(
    ("at", "kind"),
    [(datetime(2027, 1, 1), ValueError), (5, TypeError), ("2027-01-01", TypeError), (timedelta(1), TypeError)],  # noqa: DTZ001
)
async def test_a_time_that_names_no_moment_is_an_error_and_nothing_is_stored(
    client: Client, memory: MemoryBroker, at: Any, kind: type[Exception]
) -> None:
    with pytest.raises(kind, match=r"aware|time zone"):
        await client.perform_at(at, add, 1)
    assert state_of(memory).jobs == {}


async def test_wrong_arguments_are_a_type_error_at_the_call_and_nothing_is_stored(
    client: Client, memory: MemoryBroker, faulty: Faulty
) -> None:
    perform: Any = client.perform_async
    for args, kwargs, message in (
        ((), {}, "'a'"),
        ((1, 2, 3), {}, "too many"),
        ((1,), {"c": 3}, "'c'"),
        (("x",), {}, "'a'"),
        ((object(),), {}, "'a'.*object"),
        ((math.nan,), {}, "'a'"),
    ):
        with pytest.raises(TypeError, match=rf"add\(\): .*{message}"):
            await perform(add, *args, **kwargs)
    assert (state_of(memory).jobs, faulty.faults.calls["enqueue"]) == ({}, 0)


@pytest.mark.parametrize("what", [print, "add", None, add.function, lambda: 1])
async def test_what_is_no_task_is_refused_with_the_way_to_make_it_one(client: Client, what: Any) -> None:
    perform: Any = client.perform_async
    with pytest.raises(errors.NotATask, match=r"decorate the function with @app.task"):
        await perform(what, 1)
    with pytest.raises(errors.NotATask):
        await client.perform_in(5, what, 1)


@pytest.mark.parametrize("what", [add, (add, 1), 5, None, "x"])
async def test_perform_many_of_what_is_no_call_says_so(client: Client, memory: MemoryBroker, what: Any) -> None:
    with pytest.raises(TypeError, match=r"call"):
        await client.perform_many([add.call(1), what])
    assert state_of(memory).jobs == {}


async def test_a_payload_over_the_limit_is_refused_and_the_limit_can_be_moved(memory: MemoryBroker) -> None:
    async with Client(memory, max_payload=100) as client:
        with pytest.raises(errors.PayloadTooLarge, match=r"the limit is 100"):
            await client.perform_async(show, "x" * 100)
    async with Client(memory, max_payload=900_000) as client:
        await client.perform_async(show, "x" * 500_000)
        await client.perform_many([show.call("x" * 500_000)])
    assert len(state_of(memory).jobs) == 2


@pytest.mark.parametrize("limit", [0, -1, 1 << 20, 1.5, "5"])
@pytest.mark.parametrize("kind", [Client, SyncClient])
def test_a_limit_beyond_what_workers_read_is_an_error(kind: Any, limit: object) -> None:
    with pytest.raises(errors.ConfigError, match=r"max_payload is .*; (it is a whole number|workers read)"):
        kind("memory://", max_payload=limit)


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), "5", None, True])
@pytest.mark.parametrize("kind", [Client, SyncClient, App().client])
def test_a_timeout_that_is_no_time_is_an_error(kind: Any, timeout: object) -> None:
    with pytest.raises(errors.ConfigError, match=r"timeout is .*; it is a number of seconds, above 0"):
        kind("memory://", timeout=timeout)


async def test_perform_many_keeps_to_the_clients_limit_too(memory: MemoryBroker) -> None:
    async with Client(memory, max_payload=100) as client:
        with pytest.raises(errors.PayloadTooLarge, match=r"the limit is 100"):
            await client.perform_many([show.call("ok"), show.call("x" * 200)])
    assert state_of(memory).jobs == {}


async def test_the_same_id_again_is_a_duplicate_of_the_live_job(client: Client, memory: MemoryBroker) -> None:
    first = await client.perform_async(add.options(id="one"), 1)
    second = await client.perform_async(add.options(id="one"), 2)
    assert (first.fate, second.fate, second.id) == (Fate.STORED, Fate.DUPLICATE, "one")
    assert bytes(state_of(memory).jobs["one"].job.body) == b'{"args":[1]}'


async def test_concurrent_calls_share_round_trips(client: Client, faulty: Faulty, memory: MemoryBroker) -> None:
    faulty.faults.slow["enqueue"] = 0.005
    handles = await asyncio.gather(*(client.perform_async(add, n) for n in range(100)))
    assert len(state_of(memory).jobs) == 100
    assert faulty.faults.calls["enqueue"] <= 3
    for n, handle in enumerate(handles):
        assert bytes(state_of(memory).jobs[handle.id].job.body) == b'{"args":[%d]}' % n
    assert list(state_of(memory).jobs) == [handle.id for handle in handles]


async def test_an_idle_client_sends_at_once_without_a_timer(client: Client, clock: ManualClock) -> None:
    await client.perform_async(add, 1)
    assert clock.sleeping == 0


async def test_a_call_that_the_broker_refuses_does_not_fail_strangers(memory: MemoryBroker) -> None:
    class Picky(Faulty):
        async def enqueue(self, jobs: Any, stamp: Any) -> Any:
            if any(b"13" in bytes(job.body) for job in jobs):
                raise errors.BrokerRefused("no thirteens")
            return await super().enqueue(jobs, stamp)

    picky = Picky(memory)
    async with Client(picky) as client:
        results = await asyncio.gather(*(client.perform_async(add, n) for n in range(20)), return_exceptions=True)
    failed = [n for n, result in enumerate(results) if isinstance(result, BaseException)]
    assert failed == [13]
    assert isinstance(results[13], errors.BrokerRefused)
    assert len(state_of(memory).jobs) == 19


async def test_a_broker_that_raises_anything_fails_its_callers_and_leaves_the_client_usable(
    client: Client, faulty: Faulty
) -> None:
    faulty.faults.fail("enqueue", error=ZeroDivisionError("a bug"))
    results = await asyncio.gather(*(client.perform_async(add, n) for n in range(3)), return_exceptions=True)
    assert all(isinstance(result, BaseException) for result in results)
    assert (await asyncio.wait_for(client.perform_async(add, 1), 5)).fate is Fate.STORED


async def test_a_lost_reply_is_repeated_with_the_same_stamp_and_stores_once(
    client: Client, faulty: Faulty, memory: MemoryBroker
) -> None:
    faulty.faults.lose_reply("enqueue", 2)
    handles = await asyncio.gather(*(client.perform_async(add, n) for n in range(5)))
    assert [handle.fate for handle in handles] == [Fate.STORED] * 5
    assert len(state_of(memory).jobs) == 5
    assert faulty.faults.calls["enqueue"] == 3
    assert len(set(faulty.faults.stamps)) == 1


async def test_each_enqueue_has_a_stamp_of_its_own(client: Client, faulty: Faulty) -> None:
    for n in range(3):
        await client.perform_async(add, n)
    stamps = faulty.faults.stamps
    assert [stamp.number for stamp in stamps] == sorted({stamp.number for stamp in stamps})
    assert len({stamp.client for stamp in stamps}) == 1


async def test_a_broker_that_comes_back_in_time_is_waited_for(faulty: Faulty, memory: MemoryBroker) -> None:
    faulty.faults.fail("enqueue", 3)
    async with Client(faulty, timeout=5) as client:
        assert (await client.perform_async(add, 1)).fate is Fate.STORED
    assert len(state_of(memory).jobs) == 1


async def test_an_unreachable_broker_is_an_error_after_the_timeout_and_nothing_is_stored(
    faulty: Faulty, memory: MemoryBroker
) -> None:
    faulty.faults.down = True
    started = SYSTEM_CLOCK.monotonic()
    async with Client(faulty, timeout=0.1) as client:
        with pytest.raises(errors.BrokerUnavailable) as caught:
            await client.perform_async(add, 1)
    assert not isinstance(caught.value, errors.OutcomeUnknown)
    assert SYSTEM_CLOCK.monotonic() - started < 1
    assert state_of(memory).jobs == {}


async def test_the_clients_own_clock_counts_the_timeout(faulty: Faulty, clock: ManualClock) -> None:
    faulty.faults.down = True
    async with Client(faulty, timeout=60, clock=clock) as client:
        call = asyncio.create_task(client.perform_async(add, 1))
        await clock.run(55)
        assert not call.done()
        await clock.run(10)
        with pytest.raises(errors.BrokerUnavailable):
            await call


async def test_if_one_reply_was_lost_the_error_says_that_the_outcome_is_unknown(faulty: Faulty) -> None:
    faulty.faults.lose_reply("enqueue")
    faulty.faults.fail("enqueue", 1000)
    async with Client(faulty, timeout=0.1) as client:
        with pytest.raises(errors.OutcomeUnknown):
            await client.perform_async(add, 1)


async def test_callers_who_wait_in_line_do_not_wait_longer_than_their_timeout(faulty: Faulty) -> None:
    faulty.faults.down = True
    started = SYSTEM_CLOCK.monotonic()
    async with Client(faulty, timeout=0.2) as client:
        first = asyncio.create_task(client.perform_async(add, 0))
        await until(lambda: faulty.faults.calls["enqueue"])
        second = asyncio.create_task(client.perform_async(add, 1))
        results = await asyncio.gather(first, second, return_exceptions=True)
    assert all(isinstance(result, errors.BrokerUnavailable) for result in results)
    assert SYSTEM_CLOCK.monotonic() - started < 1


async def test_each_error_is_the_callers_own(faulty: Faulty) -> None:
    faulty.faults.down = True
    async with Client(faulty, timeout=0.05) as client:
        results = await asyncio.gather(*(client.perform_async(add, n) for n in range(3)), return_exceptions=True)
    assert all(isinstance(result, errors.BrokerUnavailable) for result in results)


async def test_a_caller_that_is_cancelled_harms_no_other(client: Client, faulty: Faulty, memory: MemoryBroker) -> None:
    gate = faulty.faults.gates["enqueue"] = asyncio.Event()
    calls = [asyncio.create_task(client.perform_async(add, n)) for n in range(3)]
    await until(lambda: faulty.faults.calls["enqueue"])
    calls += [asyncio.create_task(client.perform_async(add, n)) for n in range(3, 6)]
    await asyncio.sleep(0)
    calls[1].cancel()  # it is under way: nobody can say whether it will be stored
    calls[4].cancel()  # it was not sent yet, and will not be
    await asyncio.sleep(0)
    gate.set()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [isinstance(result, asyncio.CancelledError) for result in results] == [
        False,
        True,
        False,
        False,
        True,
        False,
    ]
    bodies = {bytes(entry.job.body) for entry in state_of(memory).jobs.values()}
    assert bodies == {b'{"args":[%d]}' % n for n in (0, 1, 2, 3, 5)}


async def test_leaving_waits_for_what_is_under_way(faulty: Faulty, memory: MemoryBroker) -> None:
    gate = faulty.faults.gates["enqueue"] = asyncio.Event()
    async with Client(faulty) as client:
        call = asyncio.create_task(client.perform_async(add, 1))
        await until(lambda: faulty.faults.calls["enqueue"])
        asyncio.get_running_loop().call_later(0.02, gate.set)
    assert len(state_of(memory).jobs) == 1
    await call


async def test_a_closed_client_says_so() -> None:
    client = Client("memory://")
    async with client:
        await client.perform_async(add, 1)
    with pytest.raises(errors.JobqError):
        await client.perform_async(add, 1)


async def test_perform_many_is_one_acknowledgement_in_order(client: Client, faulty: Faulty) -> None:
    handles = await client.perform_many([add.call(1), *(add.call(n) for n in range(2, 50))])
    assert (faulty.faults.calls["enqueue"], len(handles)) == (1, 49)
    assert await client.perform_many([]) == []
    assert faulty.faults.calls["enqueue"] == 1


async def test_perform_many_takes_any_iterable_and_options(client: Client, memory: MemoryBroker) -> None:
    handles = await client.perform_many(add.options(queue="q", id=f"j{n}").call(n) for n in range(3))
    assert [handle.id for handle in handles] == ["j0", "j1", "j2"]
    assert {entry.queue for entry in state_of(memory).jobs.values()} == {"q"}


async def test_perform_many_goes_in_chunks_of_at_most_a_thousand(client: Client, faulty: Faulty) -> None:
    handles = await client.perform_many([add.call(n) for n in range(2500)])
    assert faulty.faults.jobs_per_call == [1000, 1000, 500]
    assert len({handle.id for handle in handles}) == 2500


async def test_perform_many_goes_in_chunks_of_bounded_bytes(faulty: Faulty) -> None:
    async with Client(faulty, max_payload=900_000) as client:
        await client.perform_many([show.call("x" * 800_000) for _ in range(25)])
    assert sum(faulty.faults.jobs_per_call) == 25
    assert max(faulty.faults.jobs_per_call) <= 10


async def test_concurrent_calls_are_chunked_too(client: Client, faulty: Faulty) -> None:
    faulty.faults.slow["enqueue"] = 0.005
    await asyncio.gather(*(client.perform_async(add, n) for n in range(2300)))
    assert max(faulty.faults.jobs_per_call) <= 1000
    assert sum(faulty.faults.jobs_per_call) == 2300


async def test_not_all_stored_lists_every_job_once(
    faulty: Faulty, memory: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = [add.options(id=f"j{n}").call(n) for n in range(2500)]
    async with Client(faulty, timeout=0.05) as client:
        await client.perform_async(add, 1)  # the first call passes
        faulty.faults.jobs_per_call.clear()

        original = faulty.faults.around

        async def around(verb: str, call: Any) -> Any:
            if verb == "enqueue" and len(faulty.faults.jobs_per_call) >= 2:
                raise errors.BrokerFull("no room")
            return await original(verb, call)

        monkeypatch.setattr(faulty.faults, "around", around)
        with pytest.raises(errors.NotAllStored) as caught:
            await client.perform_many(calls)
    exc = caught.value
    assert exc.stored == tuple(f"j{n}" for n in range(1000))
    assert exc.not_stored == tuple(f"j{n}" for n in range(1000, 2500))
    assert exc.unknown == ()
    assert isinstance(exc.__cause__, errors.BrokerFull)
    assert set(exc.stored) < set(state_of(memory).jobs)


async def test_not_all_stored_says_what_is_unknown(faulty: Faulty) -> None:
    faulty.faults.lose_reply("enqueue", 1000)
    async with Client(faulty, timeout=0.05) as client:
        with pytest.raises(errors.NotAllStored) as caught:
            await client.perform_many([add.options(id=f"j{n}").call(n) for n in range(1500)])
    assert caught.value.stored == ()
    assert caught.value.unknown == tuple(f"j{n}" for n in range(1000))
    assert caught.value.not_stored == tuple(f"j{n}" for n in range(1000, 1500))
    assert isinstance(caught.value.__cause__, errors.OutcomeUnknown)


@pytest.mark.parametrize(
    ("url", "kind", "message"),
    [
        ("nosuch://x", errors.UnknownBroker, "'nosuch://'; installed are: .*memory"),
        ("nosuch", errors.UnknownBroker, "'nosuch' is no broker.*sqlite"),
        ("", errors.UnknownBroker, "is no broker"),
        ("memory://a/b", errors.ConfigError, "memory://name"),
        ("memory://?x=1", errors.ConfigError, "memory://name"),
    ],
)
async def test_a_bad_url_is_an_error_when_the_client_is_made(url: str, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        app.client(url)


@pytest.mark.parametrize("broker", [None, 5, b"sqlite:///jobs.db", Path("jobs.db"), MemoryBroker])
def test_what_is_no_broker_is_an_error_when_the_client_is_made(broker: Any) -> None:
    with pytest.raises(errors.ConfigError, match=r"the broker is .*; it is a URL"):
        Client(broker)


def test_a_url_as_bytes_is_not_shown() -> None:
    url: Any = b"redis://me:hunter2@h"
    with pytest.raises(errors.ConfigError) as caught:
        Client(url)
    assert "hunter2" not in str(caught.value)


async def test_a_client_that_is_not_open_says_at_once_how_to_use_it() -> None:
    client = Client("memory://not-open")
    for _ in range(2):
        with pytest.raises(errors.ConfigError, match=r"not open; use it as .async with"):
            await client.perform_async(add, 1)
        with pytest.raises(errors.ConfigError, match=r"not open"):
            await client.perform_many([add.call(1)])
        async with client:
            await client.perform_async(add, 1)


@pytest.mark.parametrize(
    "call",
    [
        lambda: Client("memory://", timeot=5),  # type: ignore[call-arg]
        lambda: app.client("memory://", timeot=5),  # type: ignore[call-arg]
        lambda: app.task(timeot=5),  # type: ignore[call-overload]
        lambda: add.options(timeot=5),  # type: ignore[call-arg]
        lambda: Worker(app, "memory://", timeot=5),
    ],
)
def test_an_unknown_option_is_named(call: Callable[[], object]) -> None:
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'timeot'"):
        call()


# --- enqueue middleware


def middlewared() -> tuple[App, list[str], Any]:
    app, log = App(), list[str]()

    @app.task(name="work")
    async def work(x: int) -> None: ...

    return app, log, work


async def test_enqueue_middleware_wraps_from_the_first_to_the_last(memory: MemoryBroker) -> None:
    app, log, work = middlewared()

    @app.enqueue_middleware
    async def outer(job: Job, call_next: Handler) -> object:
        log.append(f"outer {job.task}")
        answer = await call_next(job)
        log.append("outer end")
        return answer

    @app.enqueue_middleware
    async def inner(job: Job, call_next: Handler) -> object:
        log.append("inner")
        return await call_next(job)

    async with Client(memory) as client:
        await client.perform_async(work, 1)
        assert log == ["outer work", "inner", "outer end"]
        await client.perform_in(5, work, 1)
        await client.perform_many([work.call(1), work.call(2)])
    assert log.count("inner") == 4
    assert len(state_of(memory).jobs) == 4


async def test_what_middleware_passes_on_is_what_is_stored(memory: MemoryBroker) -> None:
    import msgspec  # noqa: PLC0415

    app, _, work = middlewared()

    @app.enqueue_middleware
    async def tag(job: Job, call_next: Handler) -> object:
        return await call_next(msgspec.structs.replace(job, queue="tagged", headers={"trace": "7"}))

    async with Client(memory) as client:
        handle = await client.perform_async(work, 1)
    entry = state_of(memory).jobs[handle.id]
    assert (entry.queue, entry.job.headers) == ("tagged", {"trace": "7"})


async def test_middleware_may_keep_a_job_from_being_stored(memory: MemoryBroker) -> None:
    app, _, work = middlewared()

    @app.enqueue_middleware
    async def drop(job: Job, call_next: Handler) -> object:
        return None

    async with Client(memory) as client:
        handle = await client.perform_async(work, 1)
        assert handle.fate is None
        assert repr(handle) == f"<job {handle.id} of work>"
        assert [h.fate for h in await client.perform_many([work.call(1)])] == [None]
    assert state_of(memory).jobs == {}


async def test_an_error_of_middleware_reaches_the_caller_and_nothing_is_stored(memory: MemoryBroker) -> None:
    app, _, work = middlewared()

    @app.enqueue_middleware
    async def refuse(job: Job, call_next: Handler) -> object:
        raise PermissionError("not you")

    async with Client(memory) as client:
        with pytest.raises(PermissionError, match=r"not you"):
            await client.perform_async(work, 1)
        with pytest.raises(PermissionError, match=r"not you"):
            await client.perform_many([work.call(1), work.call(2)])
    assert state_of(memory).jobs == {}


async def test_if_middleware_refuses_some_of_many_the_error_lists_them(memory: MemoryBroker) -> None:
    app, _, work = middlewared()

    @app.enqueue_middleware
    async def refuse(job: Job, call_next: Handler) -> object:
        if job.id == "j1":
            raise PermissionError("not you")
        return await call_next(job)

    async with Client(memory) as client:
        with pytest.raises(errors.NotAllStored) as caught:
            await client.perform_many([work.options(id=f"j{n}").call(n) for n in range(3)])
    assert (caught.value.stored, caught.value.not_stored) == (("j0", "j2"), ("j1",))
    assert isinstance(caught.value.__cause__, PermissionError)
    assert set(state_of(memory).jobs) == {"j0", "j2"}


async def test_of_many_jobs_those_that_middleware_kept_back_are_not_stored(memory: MemoryBroker) -> None:
    app, _, work = middlewared()

    @app.enqueue_middleware
    async def choose(job: Job, call_next: Handler) -> object:
        if job.id == "j1":
            raise PermissionError("not you")
        return await call_next(job) if job.id == "j2" else None

    async with Client(memory) as client:
        with pytest.raises(errors.NotAllStored) as caught:
            await client.perform_many([work.options(id=f"j{n}").call(n) for n in range(3)])
    exc = caught.value
    assert (exc.stored, exc.not_stored, exc.unknown) == (("j2",), ("j0", "j1"), ())
    assert set(state_of(memory).jobs) == {"j2"}


@pytest.mark.parametrize("all_of_them", [False, True])
async def test_of_many_jobs_those_that_were_stored_before_middleware_raised_are_stored(
    memory: MemoryBroker, *, all_of_them: bool
) -> None:
    app, _, work = middlewared()

    @app.enqueue_middleware
    async def stumble(job: Job, call_next: Handler) -> object:
        await call_next(job)
        if all_of_them or job.id == "j1":
            raise LookupError("too late")
        return None

    async with Client(memory) as client:
        with pytest.raises(errors.NotAllStored) as caught:
            await client.perform_many([work.options(id=f"j{n}").call(n) for n in range(3)])
    assert (caught.value.stored, caught.value.not_stored) == (("j0", "j1", "j2"), ())
    assert isinstance(caught.value.__cause__, LookupError)
    assert set(state_of(memory).jobs) == {"j0", "j1", "j2"}


async def test_whatever_middleware_makes_of_a_lost_reply_the_outcome_is_unknown(faulty: Faulty) -> None:
    app, _, work = middlewared()

    @app.enqueue_middleware
    async def hide(job: Job, call_next: Handler) -> object:
        try:
            return await call_next(job)
        except errors.OutcomeUnknown:
            raise LookupError("something else") from None

    faulty.faults.lose_reply("enqueue", 1000)
    async with Client(faulty, timeout=0.05) as client:
        with pytest.raises(errors.NotAllStored) as caught:
            await client.perform_many([work.options(id=f"j{n}").call(n) for n in range(3)])
    assert (caught.value.unknown, caught.value.not_stored) == (("j0", "j1", "j2"), ())


async def test_if_middleware_does_not_wait_for_the_answer_the_outcome_is_unknown(faulty: Faulty) -> None:
    app, _, work = middlewared()
    gate = faulty.faults.gates["enqueue"] = asyncio.Event()

    @app.enqueue_middleware
    async def impatient(job: Job, call_next: Handler) -> object:
        call = asyncio.ensure_future(call_next(job))
        await until(lambda: faulty.faults.calls["enqueue"])
        call.cancel()
        raise LookupError("no time")

    async with Client(faulty) as client:
        with pytest.raises(errors.NotAllStored) as caught:
            await client.perform_many([work.options(id=f"j{n}").call(n) for n in range(2)])
        gate.set()
    assert caught.value.unknown == ("j0", "j1")


@pytest.mark.parametrize(("away", "found"), [(False, "stored"), (True, "unknown")])
async def test_after_a_lost_reply_middleware_that_tries_again_makes_the_outcome_known_only_if_it_is_stored(
    faulty: Faulty, clock: ManualClock, found: str, *, away: bool
) -> None:
    app, _, work = middlewared()

    @app.enqueue_middleware
    async def stubborn(job: Job, call_next: Handler) -> object:
        with pytest.raises(errors.OutcomeUnknown):
            await call_next(job)
        faulty.faults.forget()
        faulty.faults.down = away
        await call_next(job)
        raise LookupError("whatever it was")

    faulty.faults.lose_reply("enqueue", 1000)
    async with Client(faulty, timeout=10, clock=clock) as client:
        call = asyncio.create_task(client.perform_many([work.options(id="j").call(1)]))
        await clock.run(25)
        with pytest.raises(errors.NotAllStored) as caught:
            await call
    assert getattr(caught.value, found) == ("j",)


async def test_many_jobs_through_middleware_have_a_timeout_for_each_thousand(
    memory: MemoryBroker, clock: ManualClock
) -> None:
    class Slow(Faulty):
        async def enqueue(self, jobs: Any, stamp: Any) -> Any:
            await clock.sleep(6)
            return await super().enqueue(jobs, stamp)

    app, _, work = middlewared()

    @app.enqueue_middleware
    async def note(job: Job, call_next: Handler) -> object:
        return await call_next(job)

    client = Client(Slow(memory), timeout=10, clock=clock)
    call = asyncio.create_task(client.perform_many([work.call(n) for n in range(2500)]))
    await clock.run(20)
    assert [handle.fate for handle in await call] == [Fate.STORED] * 2500
    await client.__aexit__(None, None, None)


async def test_after_a_thousand_that_the_broker_did_not_store_middleware_sees_no_more(
    faulty: Faulty, clock: ManualClock
) -> None:
    app, log, work = middlewared()

    @app.enqueue_middleware
    async def note(job: Job, call_next: Handler) -> object:
        log.append(job.id)
        return await call_next(job)

    faulty.faults.down = True
    client = Client(faulty, timeout=10, clock=clock)
    call = asyncio.create_task(client.perform_many([work.options(id=f"j{n}").call(n) for n in range(2500)]))
    await clock.run(11)
    with pytest.raises(errors.NotAllStored) as caught:
        await call
    assert caught.value.not_stored == tuple(f"j{n}" for n in range(2500))
    assert len(log) == 1000
    await client.__aexit__(None, None, None)


async def test_middleware_belongs_to_the_tasks_app(memory: MemoryBroker) -> None:
    one, log, work = middlewared()
    _, _, other = middlewared()

    @one.enqueue_middleware
    async def note(job: Job, call_next: Handler) -> object:
        log.append("seen")
        return await call_next(job)

    async with Client(memory) as client:
        await client.perform_async(other, 1)
        assert log == []
        await client.perform_many([other.call(1), work.call(1)])
    assert log == ["seen"]


async def test_many_jobs_through_middleware_share_round_trips(faulty: Faulty) -> None:
    app, _, work = middlewared()

    @app.enqueue_middleware
    async def note(job: Job, call_next: Handler) -> object:
        return await call_next(job)

    faulty.faults.slow["enqueue"] = 0.002
    async with Client(faulty) as client:
        await client.perform_many([work.call(n) for n in range(500)])
    assert faulty.faults.calls["enqueue"] <= 3


async def test_headers_that_would_not_fit_are_refused_and_nothing_is_stored() -> None:
    app = App()

    @app.task
    async def work() -> None: ...

    @app.enqueue_middleware
    async def stuff(job: Job, call_next: Handler) -> object:
        return await call_next(msgspec.structs.replace(job, headers={"x": "y" * 10_000}))

    for headers in ({"x": "y" * 10_000}, {"x": "\ud800"}):
        with pytest.raises(errors.ConfigError, match="headers"):
            work.options(headers=headers)
    async with MemoryBroker() as broker, Client(broker) as client:
        with pytest.raises(errors.ConfigError, match="headers"):
            await client.perform_async(work)
        assert not state_of(broker).jobs


SPOILED: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"id": ""}, errors.ConfigError, "'' cannot be a job id"),
    ({"id": 5}, errors.ConfigError, "5 cannot be a job id"),
    ({"queue": "a b"}, errors.ConfigError, "'a b' cannot name a queue"),
    ({"priority": 9}, errors.ConfigError, "priority is 9"),
    ({"priority": True}, errors.ConfigError, "priority is True"),
    ({"headers": {"x": "y" * 10_000}}, errors.ConfigError, "headers have 10,001 characters"),
    ({"headers": {"x": 5}}, errors.ConfigError, "headers is {'x': 5}"),
    ({"headers": {"x": "\ud800"}}, errors.ConfigError, "strings that UTF-8 can hold"),
    ({"delay": math.nan}, ValueError, "finite"),
    ({"delay": math.inf}, ValueError, "finite"),
    ({"delay": "5"}, TypeError, "the delay is '5'"),
    ({"delay": timedelta(seconds=5)}, errors.ConfigError, "delay"),
    ({"due": math.nan}, errors.ConfigError, "made due nan"),
    ({"due": "tomorrow"}, errors.ConfigError, "due"),
    ({"due": 5.0, "delay": 5.0}, errors.ConfigError, "both a delay (5.0) and a due time (5.0)"),
    ({"created": math.nan}, errors.ConfigError, "created"),
    ({"expires": math.inf}, errors.ConfigError, "made expires inf"),
    ({"unique_key": 5}, errors.ConfigError, "unique_key"),
    ({"group": object()}, errors.ConfigError, "object"),
    ({"v": 2}, errors.ConfigError, "version 2"),
    ({"task": "wrok"}, errors.NotATask, "'wrok', which its app does not have"),
    ({"body": b'{"args":[1]}'}, TypeError, "made the body a bytes"),
    ({"body": msgspec.Raw(b'{"args":["x"]}')}, errors.EncodeError, "Expected `int`, got `str` - at argument 'x'"),
    ({"body": msgspec.Raw(b'{"args":[]}')}, errors.EncodeError, "missing a required argument: 'x'"),
    ({"body": msgspec.Raw(b'{"args":[1]},"queue":"a b"')}, errors.ConfigError, "made body"),
    ({"body": msgspec.Raw(b"not JSON")}, errors.ConfigError, "no worker could read"),
    ({"body": msgspec.Raw(b'{"args":[%d]}' % 10**100)}, errors.PayloadTooLarge, "work(): the arguments take 112 bytes"),
]


@pytest.mark.parametrize(
    ("change", "kind", "message"), SPOILED, ids=[f"{n} {'+'.join(s[0])}" for n, s in enumerate(SPOILED)]
)
async def test_what_middleware_spoils_is_refused_as_at_the_call_and_nothing_is_stored(
    memory: MemoryBroker, change: dict[str, Any], kind: type[Exception], message: str
) -> None:
    app, _, work = middlewared()

    @app.enqueue_middleware
    async def spoil(job: Job, call_next: Handler) -> object:
        return await call_next(msgspec.structs.replace(job, **change))

    async with Client(memory, max_payload=100) as client:
        with pytest.raises(kind, match=re.escape(message)):
            await client.perform_async(work, 1)
        with pytest.raises(errors.NotAllStored if issubclass(kind, errors.JobqError) else kind):
            await client.perform_many([work.call(1)])
    assert state_of(memory).jobs == {}


@pytest.mark.parametrize("passed", [None, "job", 5])
async def test_middleware_that_passes_on_no_job_is_told_so(memory: MemoryBroker, passed: Any) -> None:
    app, _, work = middlewared()

    @app.enqueue_middleware
    async def forget(job: Job, call_next: Handler) -> object:
        return await call_next(passed)

    async with Client(memory) as client:
        with pytest.raises(TypeError, match=r"call_next takes the job"):
            await client.perform_async(work, 1)
    assert state_of(memory).jobs == {}


async def test_middleware_may_change_all_that_a_caller_may(memory: MemoryBroker) -> None:
    app, _, work = middlewared()
    change = {"id": "mine", "queue": "tagged", "priority": 4, "delay": 5, "body": msgspec.Raw(b'{"args":[2]}')}

    @app.enqueue_middleware
    async def rewrite(job: Job, call_next: Handler) -> object:
        return await call_next(msgspec.structs.replace(job, **change))

    async with Client(memory) as client:
        handle = await client.perform_async(work, 1)
    job = state_of(memory).jobs["mine"].job
    assert handle.id == "mine"
    assert (job.queue, job.priority, bytes(job.body)) == ("tagged", 4, b'{"args":[2]}')


async def test_headers_that_middleware_writes_into_are_the_jobs_own(memory: MemoryBroker) -> None:
    app, _, work = middlewared()

    @app.enqueue_middleware
    async def count(job: Job, call_next: Handler) -> object:
        assert job.headers is not None
        job.headers["n"] = job.headers.get("n", "") + "1"
        return await call_next(job)

    given = {"of": "caller"}
    marked = work.options(headers=given)
    given["later"] = "no"
    async with Client(memory) as client:
        for _ in range(2):
            handle = await client.perform_async(marked, 1)
            assert state_of(memory).jobs[handle.id].job.headers == {"of": "caller", "n": "1"}


async def test_an_annotation_that_json_cannot_fill_is_told_at_the_call_and_at_a_worker_s_start() -> None:
    app = App()

    @app.task
    async def work(when: int | str | Path) -> None: ...

    async with MemoryBroker() as broker, Client(broker) as client:
        with pytest.raises(errors.ConfigError, match="'when'"):
            await client.perform_async(work, 1)
        with pytest.raises(errors.ConfigError, match="'when'"):
            async with Worker(app, broker):
                pass


async def test_a_broker_that_breaks_leaves_no_later_caller_waiting(
    client: Client, faulty: Faulty, memory: MemoryBroker
) -> None:
    gate = faulty.faults.gates["enqueue"] = asyncio.Event()
    faulty.faults.fail("enqueue", error=ZeroDivisionError("a bug"))
    first = asyncio.create_task(client.perform_async(add, 1))
    await until(lambda: faulty.faults.calls["enqueue"])
    second = asyncio.create_task(client.perform_async(add, 2))  # it waits for the next round trip
    await asyncio.sleep(0)
    gate.set()
    async with asyncio.timeout(5):
        results = await asyncio.gather(first, second, return_exceptions=True)
    assert isinstance(results[0], ZeroDivisionError)
    assert not isinstance(results[1], BaseException)
    assert len(state_of(memory).jobs) == 1


async def test_many_jobs_that_a_client_could_not_store_before_it_was_closed_are_all_named(faulty: Faulty) -> None:
    faulty.faults.down = True
    client = Client("memory://", timeout=0.1)
    async with client:
        client._commits._broker = faulty
        storing = asyncio.ensure_future(client.perform_many([add.call(number) for number in range(2500)]))
        await asyncio.sleep(0)
    with pytest.raises(errors.NotAllStored) as caught:
        await storing
    assert len(caught.value.not_stored) == 2500
