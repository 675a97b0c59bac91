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
ASK_WITHOUT_FILES = """
import os, resource, sys
from jobq.worker.identity import dead_peers, new_worker_id
_, host, worker = sys.argv
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
try:
    while True:
        os.open("/dev/null", os.O_RDONLY)
except OSError as exc:
    print(exc)
print(dead_peers(host, [worker]), new_worker_id(host).split("-")[2])
"""

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


def test_a_worker_without_a_free_file_descriptor_calls_no_living_neighbour_dead(
    child: "subprocess.Popen[bytes]",
) -> None:
    worker = new_worker_id(HOST, child.pid)
    done = subprocess.run(
        [sys.executable, "-c", ASK_WITHOUT_FILES, HOST, worker], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.stdout, done.stderr) == ("[Errno 24] Too many open files: '/dev/null'\n[] 0\n", "")


@pytest.mark.parametrize("hidden", ["missing", "unreadable"])
def test_a_process_that_proc_hides_is_dead_only_when_its_pid_is_free(
    child: "subprocess.Popen[bytes]", hidden: str, elsewhere: Path
) -> None:
    """As with hidepid=2 (missing) and hidepid=1, or ProtectProc= of systemd."""
    (elsewhere / "proc" / "self" / "stat").mkdir(parents=True)
    if hidden == "unreadable":
        (elsewhere / "proc" / str(child.pid) / "stat").mkdir(parents=True)  # reading a directory fails, too
    worker = f"{HOST}-{child.pid}-5-aa"
    assert dead_peers(HOST, [worker]) == []
    child.kill()
    child.wait()
    assert dead_peers(HOST, [worker]) == ([worker] if hidden == "missing" else [])


def test_a_process_of_somebody_else_that_may_not_be_asked_is_not_dead(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(pid: int, number: int) -> None:
        raise PermissionError(1, f"Operation not permitted: {pid} {number}")

    monkeypatch.setattr(os, "kill", kill)
    (elsewhere / "proc" / "self" / "stat").mkdir(parents=True)
    assert dead_peers(HOST, [f"{HOST}-4711-5-aa"]) == []


def test_a_process_whose_start_cannot_be_read_has_an_id_that_proves_nothing(elsewhere: Path) -> None:
    (elsewhere / "proc" / "77" / "stat").mkdir(parents=True)
    assert new_worker_id(HOST, 77, "t") == f"{HOST}-77-0-t"


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
