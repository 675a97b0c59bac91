"""`client.dead`: the dead jobs of whatever broker it is, by jobs that died in a worker."""

import asyncio
import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from jobq import App, Client, Retry, SyncClient, current, errors
from jobq.codec import decode_dead, encode_crashes, encode_job, encode_trail
from jobq.model import HISTORY_LIMIT, Crash, DeadJob, Event, Failure, Happening, Job, Trail, replayed
from jobq.testing import JobState, running
from jobq.worker import Worker
from jobq_memory import MemoryBroker

app = App()
names = itertools.count()
broken = False


@pytest.fixture(autouse=True)
def _repaired_later() -> Iterator[None]:
    global broken  # noqa: PLW0603 - what the task depends on
    broken = True
    yield
    broken = False


@app.task(name="fragile", retry=Retry(max_retries=1, backoff=lambda _: 0.0))
async def fragile(number: int) -> None:
    if broken:
        raise ConnectionError(f"down for {number} at attempt {current().attempt}")


class _Deaf(MemoryBroker):
    @property
    def transactions(self) -> None:
        return None

    @property
    def schema(self) -> None:
        return None

    @property
    def dead_letters(self) -> Any:
        return None


async def test_a_job_that_has_died_runs_again_with_all_its_attempts() -> None:
    global broken  # noqa: PLW0603
    async with running(app) as jobs:
        job = await jobs.client.perform_async(fragile, 1)
        await jobs.drain()
        [dead] = await jobs.client.dead.peek()
        assert (dead.id, dead.task, dead.queue) == (job.id, "fragile", "default")
        assert dead.error == "ConnectionError: down for 1 at attempt 2"
        assert await jobs.client.dead.replay() == 1
        assert jobs.state(job) is JobState.READY
        await jobs.drain()
        [dead] = await jobs.client.dead.peek()
        assert (dead.error, dead.trail.attempt) == ("ConnectionError: down for 1 at attempt 2", 2)
        what = [event.what for event in dead.trail.history]
        assert what == [Happening.RETRIED, Happening.DEAD, Happening.REPLAYED, Happening.RETRIED, Happening.DEAD]
        broken = False
        assert await jobs.client.dead.replay(ids=[job.id]) == 1
        await jobs.drain()
        assert jobs.state(job) is JobState.DONE
        assert await jobs.client.dead.count() == 0


def test_code_that_is_not_async_can_do_the_same() -> None:
    url = f"memory://dead-{next(names)}"
    with SyncClient(url) as client:
        handles = [client.perform_async(fragile, number) for number in range(3)]
        asyncio.run(Worker(app, url, burst=True).run())
        assert client.dead.count() == 3
        assert {dead.id for dead in client.dead.peek(limit=5)} == {handle.id for handle in handles}
        assert client.dead.replay(limit=1) == 1
        assert len(client.dead.pop()) == client.dead.purge("default") == 1
    with pytest.raises(errors.ConfigError, match="with SyncClient"):
        client.dead.count()


async def test_where_jobq_cannot_reach_them_it_says_what_to_do() -> None:
    async with _Deaf() as broker, Client(broker) as client:
        for call in (client.dead.count, client.dead.peek, client.dead.replay, client.dead.pop, client.dead.purge):
            with pytest.raises(errors.Unsupported, match=r"memory://.*own tools"):
                await call()


async def test_mistakes_are_the_callers_and_nothing_is_asked(memory: MemoryBroker) -> None:
    async with Client(memory) as client:
        wrong: list[Any] = [
            lambda: client.dead.count("no/queue"),
            lambda: client.dead.peek(limit=0),
            lambda: client.dead.peek(limit=101),
            lambda: client.dead.pop(limit=101),
            lambda: client.dead.replay(limit=-1),
            lambda: client.dead.replay(ids="abc"),
            lambda: client.dead.replay(ids=["no id"]),
        ]
        for call in wrong:
            with pytest.raises(errors.ConfigError):
                await call()
    closed = Client("memory://")
    with pytest.raises(errors.ConfigError, match="not open"):
        _ = closed.dead


def a_dead_job(trail: Trail, *crashes: Crash) -> DeadJob:
    job = Job(id="j", task="t")
    return DeadJob(job, encode_job(job), trail, crashes, 5.0)


def test_a_replayed_trail_begins_anew_and_goes_on() -> None:
    failure = Failure("ValueError", "no")
    history = (Event(1.0, Happening.CRASHED, "v"), Event(2.0, Happening.DEAD, "w", "no"))
    dead = a_dead_job(Trail(7, 3.5, failure, history), Crash(1, 1.0, "v"), Crash(2, 3.0, "w"))
    trail = replayed(dead, 9.87654321)
    assert (trail.attempt, trail.parked, trail.failure) == (0, None, failure)
    assert trail.history == (*history, Event(3.0, Happening.CRASHED, "w"), Event(9.877, Happening.REPLAYED))


def test_a_replayed_history_is_no_longer_than_any_other() -> None:
    full = tuple(Event(float(number), Happening.SNOOZED) for number in range(HISTORY_LIMIT))
    history = replayed(a_dead_job(Trail(history=full)), 50.0).history
    assert (len(history), history[:-1]) == (HISTORY_LIMIT, full[1:])


def test_of_a_dead_job_that_cannot_be_read_the_rest_is_there() -> None:
    crashes = (Crash(1, 1.0, "w"),)
    trail = Trail(2, failure=Failure("ValueError"))
    dead = decode_dead("j", b"\xff", queue="q", trail=encode_trail(trail), crashes=encode_crashes(crashes), died=1.0)
    assert (dead.id, dead.task, dead.queue, dead.envelope) == ("j", "", "q", b"\xff")
    assert (dead.trail, dead.crashes, dead.error) == (trail, crashes, "ValueError")
    assert dead.malformed
    envelope = encode_job(Job(id="j", task="t"))
    for notes in ((b"{", None), (None, b"{")):
        dead = decode_dead("j", envelope, queue="q", trail=notes[0], crashes=notes[1])
        assert (dead.task, dead.queue, dead.trail, dead.crashes) == ("t", "q", Trail(), ())
        assert dead.malformed
        assert dead.malformed in dead.error


def test_the_words_of_the_server_come_first() -> None:
    dead = decode_dead("j", encode_job(Job(id="j", task="t")), queue="q", reason="maxlen")
    assert dead.error == "given up by the server: maxlen"
