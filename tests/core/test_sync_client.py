"""`SyncClient`: the same promises for code that is not async, from any number of threads."""

import asyncio
import gc
import itertools
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from jobq import App, Call, SyncClient, errors
from jobq.model import Fate
from jobq.worker import Worker
from jobq_memory import MemoryBroker
from tests.core.bench import state_of, until

app = App()
numbers = itertools.count()


@app.task(name="sync-add")
def add(a: int, b: int = 0) -> int:
    return a + b


@pytest.fixture
def url() -> str:
    return f"memory://sync-{next(numbers)}"


@pytest.fixture
def client(url: str) -> Iterator[SyncClient]:
    with SyncClient(url) as client:
        yield client


def jobs_at(url: str) -> Any:
    return state_of(MemoryBroker(url)).jobs


def test_every_perform_blocks_until_it_is_stored(client: SyncClient, url: str) -> None:
    handles = [
        client.perform_async(add, 1, b=2),
        client.perform_in(timedelta(seconds=60), add, 1),
        client.perform_at(datetime(2127, 1, 1, tzinfo=UTC), add, 1),
        *client.perform_many([add.call(1), add.options(id=f"id-{url[9:]}").call(2)]),
    ]
    assert [handle.fate for handle in handles] == [Fate.STORED] * 5
    assert set(jobs_at(url)) == {handle.id for handle in handles}


def test_perform_many_goes_through_its_calls_in_the_callers_thread(client: SyncClient, url: str) -> None:
    threads = set[threading.Thread]()

    def calls() -> Iterator[Call[int]]:
        for n in range(3):
            threads.add(threading.current_thread())
            yield add.call(n)

    client.perform_many(calls())
    assert threads == {threading.current_thread()}
    assert len(jobs_at(url)) == 3


def test_mistakes_are_the_callers_and_nothing_is_stored(client: SyncClient, url: str) -> None:
    perform: Any = client.perform_async
    with pytest.raises(TypeError, match=r"'b'|too many|'z'"):
        perform(add, 1, 2, z=3)
    with pytest.raises(errors.NotATask):
        perform(print, 1)
    with pytest.raises(ValueError, match=r"time zone"):
        client.perform_at(datetime(2127, 1, 1), add, 1)  # noqa: DTZ001
    assert jobs_at(url) == {}


FORKS = """
import os, signal, sys
from jobq import App, SyncClient, errors
signal.alarm(20)
app = App()
@app.task(name="t")
def t() -> None: ...
with SyncClient(sys.argv[1]) as client:
    client.perform_async(t)
    if pid := os.fork():
        _, status = os.waitpid(pid, 0)
        client.perform_async(t)
        sys.exit(status)
    try:
        client.perform_async(t)
    except errors.ConfigError as exc:
        print(exc)
os._exit(0)
"""


@pytest.mark.parametrize("broker", ["memory://", "sqlite:///jobs.db"])
def test_after_a_fork_the_child_gets_a_clear_error_and_the_parent_goes_on(tmp_path: Path, broker: str) -> None:
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKS, broker]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (
        0,
        "this SyncClient was made before this process was forked; make a new one after forking\n",
        "",
    )


def test_many_threads_share_one_client(client: SyncClient, url: str) -> None:
    with ThreadPoolExecutor(16) as pool:
        calls = [pool.submit(client.perform_async, add, n) for n in range(400)]
        handles = [call.result() for call in calls]
    assert len({handle.id for handle in handles}) == 400
    assert set(jobs_at(url)) == {handle.id for handle in handles}


def test_leaving_stops_its_thread_and_it_can_be_opened_again(url: str) -> None:
    client = SyncClient(url)
    for _ in range(2):
        with client:
            client.perform_async(add, 1)
        assert not [thread for thread in threading.enumerate() if thread.name == "jobq sync client"]
    client.close()


def test_one_that_is_not_open_or_open_already_says_so(url: str) -> None:
    client = SyncClient(url)
    with pytest.raises(errors.ConfigError, match=r"not open"):
        client.perform_async(add, 1)
    with client, pytest.raises(errors.ConfigError, match=r"open already"):
        client.open()


def test_a_bad_url_is_an_error_when_it_is_made() -> None:
    with pytest.raises(errors.UnknownBroker):
        SyncClient("nosuch://x")


def test_closing_while_threads_enqueue_leaves_nobody_hanging(url: str) -> None:
    client = SyncClient(url).open()
    ends = list[object]()

    def enqueue() -> None:
        try:
            while True:
                client.perform_async(add, 1)
        except BaseException as exc:
            ends.append(exc)

    threads = [threading.Thread(target=enqueue, daemon=True) for _ in range(8)]
    for thread in threads:
        thread.start()
    while len(jobs_at(url)) < 50:
        pass
    client.close()
    for thread in threads:
        thread.join(timeout=5)
    assert not any(thread.is_alive() for thread in threads)
    assert all(isinstance(end, errors.JobqError) for end in ends), ends


def test_closing_ends_what_a_silent_broker_has_not_answered(
    url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def silent(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(MemoryBroker, "enqueue", silent)
    gc.collect()  # what others have left behind
    caplog.clear()
    before = set(threading.enumerate())
    with SyncClient(url, timeout=0.5) as client, pytest.raises(errors.OutcomeUnknown):
        client.perform_async(add, 1)
    del client
    gc.collect()
    assert caplog.messages == []  # of a task that was not ended, asyncio would speak here
    assert set(threading.enumerate()) <= before


async def test_it_works_beside_a_running_loop_and_a_worker_runs_its_jobs(url: str) -> None:
    ran = list[int]()
    mine = App()

    @mine.task(name="note")
    async def note(x: int) -> None:
        ran.append(x)

    def enqueue() -> None:
        with SyncClient(url) as client:
            client.perform_many([note.call(n) for n in range(20)])

    async with Worker(mine, url):
        await asyncio.to_thread(enqueue)
        await until(lambda: sorted(ran) == list(range(20)))
