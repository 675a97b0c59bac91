"""Job ids: unique, in the order of time, and growing within a process."""

import subprocess
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from jobq import _ids
from jobq._ids import new_id

COUNT = 5_000
MILLISECOND = 1_000_000

MANY = f"""
from jobq._ids import new_id
print(*(new_id() for _ in range({COUNT})), sep="\\n")
"""
FORKED = f"""
import os
from jobq._ids import new_id
new_id()
for child in range(3):
    if (pid := os.fork()) == 0:
        os.write(1, "".join(new_id() + "\\n" for _ in range({COUNT} // 3)).encode())
        os._exit(0)
    os.waitpid(pid, 0)
"""


@pytest.fixture
def frozen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Nanoseconds since the epoch; what is written there is the time."""
    now = [time.time_ns()]
    monkeypatch.setattr(_ids, "_last", 0)
    monkeypatch.setattr("time.time_ns", lambda: now[0])
    return now


def milliseconds(job_id: str) -> int:
    return uuid.UUID(job_id).int >> 80


def test_they_are_uuids_of_version_7() -> None:
    for job_id in (new_id() for _ in range(COUNT)):
        parsed = uuid.UUID(job_id)
        assert (parsed.version, parsed.variant, str(parsed)) == (7, uuid.RFC_4122, job_id)


def test_the_time_is_in_them(frozen: list[int]) -> None:
    assert milliseconds(new_id()) == frozen[0] // MILLISECOND


def test_each_is_greater_than_the_one_before() -> None:
    ids = [new_id() for _ in range(COUNT)]
    assert sorted(set(ids)) == ids


def test_they_grow_while_the_clock_stands_still_and_when_it_steps_back(frozen: list[int]) -> None:
    ids = [new_id() for _ in range(COUNT)]
    frozen[0] -= 3_600_000 * MILLISECOND
    ids += [new_id() for _ in range(COUNT)]
    assert sorted(set(ids)) == ids
    assert milliseconds(ids[-1]) - milliseconds(ids[0]) <= 1


def test_a_later_millisecond_is_a_greater_id_also_of_another_process(
    frozen: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = list[str]()
    for _ in range(100):
        monkeypatch.setattr(_ids, "_last", 0)  # as in a process of its own
        ids.append(new_id())
        frozen[0] += MILLISECOND
    assert sorted(set(ids)) == ids


def test_threads_get_different_ones_each_in_its_order() -> None:
    threads = 8
    barrier = threading.Barrier(threads)

    def make() -> list[str]:
        barrier.wait(10)
        return [new_id() for _ in range(COUNT)]

    with ThreadPoolExecutor(threads) as pool:
        made = [future.result() for future in [pool.submit(make) for _ in range(threads)]]
    assert all(sorted(ids) == ids for ids in made)
    assert len({job_id for ids in made for job_id in ids}) == threads * COUNT


def test_processes_get_different_ones() -> None:
    started = [subprocess.Popen([sys.executable, "-c", MANY], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    ids = [line for process in started for line in process.communicate(timeout=30)[0].split()]
    assert len(set(ids)) == len(ids) == 3 * COUNT


def test_forks_of_one_process_get_different_ones() -> None:
    ids = subprocess.run([sys.executable, "-c", FORKED], stdout=subprocess.PIPE, text=True, check=True).stdout.split()
    assert len(set(ids)) == len(ids) == COUNT // 3 * 3
