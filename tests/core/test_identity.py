"""Who a worker is, and when a neighbour may call it dead: never on suspicion."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jobq.worker import identity
from jobq.worker.identity import dead_peers, host_id, new_worker_id

HOST = "0123456789ab"
ASLEEP = "import time; time.sleep(60)"
ASK = "from jobq.worker.identity import host_id, new_worker_id; print(host_id(), new_worker_id('h', token='t'))"

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs the proc file system of Linux")


@pytest.fixture
def child() -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen([sys.executable, "-c", ASLEEP])
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root directory without anything in it."""
    at_root: Callable[[str], Path] = lambda path: tmp_path / path.removeprefix("/")  # noqa: E731
    monkeypatch.setattr(identity, "Path", at_root)
    return tmp_path


def test_processes_of_one_machine_have_the_same_host_and_each_is_named_by_itself() -> None:
    process = subprocess.Popen([sys.executable, "-c", ASK], stdout=subprocess.PIPE, text=True)
    host, worker = process.communicate(timeout=30)[0].split()
    assert host == host_id() == host_id()
    assert worker.split("-")[:2] == ["h", str(process.pid)]


def test_without_proc_every_process_is_alone(elsewhere: Path) -> None:
    assert host_id() != host_id()
    assert new_worker_id(HOST).split("-")[2] == "0"
    assert dead_peers(HOST, [f"{HOST}-999999999-5-aa"]) == []


def test_an_id_names_host_process_and_start_and_is_never_used_twice() -> None:
    ids = {new_worker_id(HOST) for _ in range(1000)}
    assert len(ids) == 1000
    assert {tuple(worker.split("-")[:2]) for worker in ids} == {(HOST, str(os.getpid()))}
    assert dead_peers(HOST, ids) == []


def test_a_parent_makes_its_child_s_id_from_their_token(child: "subprocess.Popen[bytes]") -> None:
    assert new_worker_id(HOST, child.pid, "seat") == new_worker_id(HOST, child.pid, "seat")
    assert new_worker_id(HOST, child.pid, "seat").endswith("-seat")
    assert new_worker_id(HOST, child.pid) != new_worker_id(HOST, child.pid)


def test_a_process_that_was_killed_is_dead_before_and_after_somebody_reaps_it(
    child: "subprocess.Popen[bytes]",
) -> None:
    worker = new_worker_id(HOST, child.pid)
    assert dead_peers(HOST, [worker]) == []
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it is a zombie now
    assert dead_peers(HOST, [worker]) == [worker]
    child.wait()
    assert dead_peers(HOST, [worker]) == [worker]


def test_a_process_that_is_stopped_is_not_dead(child: "subprocess.Popen[bytes]") -> None:
    worker = new_worker_id(HOST, child.pid)
    child.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WNOWAIT)
    assert dead_peers(HOST, [worker]) == []


def test_a_pid_that_now_belongs_to_another_process_is_dead() -> None:
    host, pid, start, token = new_worker_id(HOST).split("-")
    reused = f"{host}-{pid}-{int(start) - 1}-{token}"
    assert dead_peers(HOST, [reused]) == [reused]


@pytest.mark.parametrize(
    "peer",
    [
        "ba9876543210-999999999-5-aa",  # another machine's
        f"{HOST}-999999999-0-aa",  # it did not know when it was started
        f"{HOST}-999999999-5",
        f"{HOST}-999999999-5-aa-bb",
        f"{HOST}-x-5-aa",
        f"{HOST}-999999999--aa",
        "named by hand",
        "",
    ],
)
def test_a_name_that_proves_nothing_is_not_called_dead(peer: str) -> None:
    assert dead_peers(HOST, [peer]) == []


@pytest.mark.parametrize("name", ["python3", "a b", "a) S 1 (b", ") Z ("])
def test_whatever_a_process_is_called_its_start_is_read(elsewhere: Path, name: str) -> None:
    for pid in ("77", "self"):
        (elsewhere / "proc" / pid).mkdir(parents=True)
        after = ["S", *map(str, range(4, 22)), "4711", "23"]
        (elsewhere / "proc" / pid / "stat").write_text(f"77 ({name}) {' '.join(after)}\n")
    assert new_worker_id(HOST, 77, "t") == f"{HOST}-77-4711-t"
    assert dead_peers(HOST, [f"{HOST}-77-4711-t", f"{HOST}-77-4712-t"]) == [f"{HOST}-77-4712-t"]
