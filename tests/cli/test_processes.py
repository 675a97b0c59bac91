"""`--processes` and `--reload`: a parent and its children."""

import asyncio
import os
import signal
import sys
import time
from asyncio.subprocess import Process
from pathlib import Path
from typing import Any

import pytest

from jobq import Client
from jobq.model import Claim, WorkerInfo
from jobq.worker import processes
from jobq.worker.children import start
from jobq.worker.settings import Settings
from jobq.worker.sweep import LIMIT
from jobq_memory import MemoryBroker
from tests.cli.program import Program, Project, alive, until
from tests.cli.sample import die_once, environment, forever, gate, ping, stuck

ECHO = 0.3
"""Seconds after which a second signal is no echo of the first."""


def children(program: Program) -> list[int]:
    """The workers of a parent."""
    return [int(pid) for pid in Path(f"/proc/{program.pid}/task/{program.pid}/children").read_text().split()]


def test_a_burst_of_several_processes_ends(project: Project) -> None:
    project.enqueue(*(ping.call(n) for n in range(100)))
    parent = project.worker("--processes", 2, "--burst")
    assert parent.wait() == 0
    assert len(set(project.notes)) == len(project.notes) == 100
    assert len([line for line in parent.seen if "worker" in line and "started" in line]) == 2


def test_a_burst_survives_a_worker_that_is_killed(project: Project) -> None:
    project.enqueue(die_once.call("died"))
    parent = project.worker("--processes", 2, "--burst")
    parent.expect("was killed by SIGKILL; starting another")
    assert parent.wait() == 0
    assert len(project.matching("die_once")) == 2


def test_a_killed_child_is_replaced_and_its_jobs_run(project: Project) -> None:
    project.enqueue(forever.call())
    parent = project.worker("--processes", 2, "--grace", 0)
    (first,) = project.noted("forever")
    victim = int(first.split()[1])
    before = children(parent)
    assert len(before) == 2
    assert victim in before
    os.kill(victim, signal.SIGKILL)
    second = project.noted("forever", 2)[1]
    assert int(second.split()[1]) != victim
    parent.expect(f"-{victim}-.* was killed by SIGKILL; starting another")
    until(lambda: len(children(parent)) == 2 and set(children(parent)) != set(before))
    parent.send(signal.SIGTERM)
    assert parent.wait() == 0


async def bury_and_inherit(supervisor: processes._Supervisor, url: str, count: int) -> tuple[list[str], list[str]]:
    """What one worker holds, and what another finds after the first one's burial."""
    async with MemoryBroker(url) as broker:
        async with Client(broker) as client:
            await client.perform_many(ping.call(n) for n in range(count))
        taken = list[list[str]]()
        for name in ("dead", "heir"):
            await broker.heartbeat(WorkerInfo(name, "elsewhere"), (), 600)
            turn = await broker.turn((), Claim(name, ["default"], count))
            taken.append([delivery.job.id for delivery in turn.deliveries])
            await supervisor._sweep("dead")
    return taken[0], taken[1]


def test_all_that_a_dead_child_held_is_given_back_however_much_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    url, count = "memory://buried", 2 * LIMIT + 1
    monkeypatch.setattr(processes, "open_broker", MemoryBroker)  # looking for the plug-in blocks
    held, inherited = asyncio.run(bury_and_inherit(processes._Supervisor(Settings(app=None, broker=url)), url, count))
    assert len(held) == count
    assert inherited == held


@pytest.fixture
def _named_without_looking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking into /proc blocks."""

    def new_worker_id(*parts: object) -> str:
        return "-".join(map(str, parts))

    monkeypatch.setattr(processes, "host_id", lambda: "host")
    monkeypatch.setattr(processes, "new_worker_id", new_worker_id)


@pytest.mark.usefixtures("_named_without_looking")
@pytest.mark.parametrize("error", [BlockingIOError(11, "no more processes"), OSError(12, "no memory")])
def test_a_child_that_cannot_be_started_is_tried_again_later(
    error: OSError, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    create, failures = asyncio.create_subprocess_exec, [error] * 2

    async def scarce(*_: str, **options: Any) -> Process:
        if failures:
            raise failures.pop()
        return await create(sys.executable, "-c", "", **options)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", scarce)
    supervisor = processes._Supervisor(Settings(app="nowhere:app", broker="memory://", processes=1, burst=True))
    assert asyncio.run(supervisor._seat()) == 0
    assert [record.getMessage().split(";")[-1] for record in caplog.records] == [
        " trying again in 0.1 s",
        " trying again in 0.2 s",
    ]


@pytest.mark.usefixtures("_named_without_looking")
async def test_a_stop_does_not_wait_for_a_child_that_cannot_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_FIRST", 3600.0)
    monkeypatch.setattr(processes, "_CAP", 3600.0)
    tried = asyncio.Event()

    async def scarce(*_: str, **__: Any) -> Process:
        tried.set()
        raise BlockingIOError(11, "no more processes")

    monkeypatch.setattr(asyncio, "create_subprocess_exec", scarce)
    supervisor = processes._Supervisor(Settings(app="nowhere:app", broker="memory://", processes=1))
    seat = asyncio.create_task(supervisor._seat())
    await tried.wait()
    supervisor._children.stopping.set()
    assert await asyncio.wait_for(seat, 5) == 0


@pytest.mark.parametrize(("deaths", "seconds"), [(1, 0.1), (2, 0.2), (5, 1.6), (8, 10.0), (100_000, 10.0)])
def test_pauses_between_children_that_die_grow_up_to_ten_seconds(deaths: int, seconds: float) -> None:
    assert processes._pause(deaths) == pytest.approx(seconds)


def test_a_signal_to_the_parent_stops_all_gracefully(project: Project) -> None:
    project.enqueue(gate.call("open"))
    parent = project.worker("--processes", 2)
    project.noted("gate")
    os.killpg(parent.pid, signal.SIGINT)  # as a terminal does at Ctrl-C: to parent and children
    parent.expect("SIGINT: stopping 2 worker processes")
    project.write("open", "")
    assert parent.wait() == 0
    assert project.matching("through")


async def test_ctrl_c_while_a_child_is_started_reaches_the_parent_and_not_the_child(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    received = list[int]()
    create = asyncio.create_subprocess_exec

    async def interrupted(*command: str, **options: Any) -> Process:
        os.kill(os.getpid(), signal.SIGINT)
        return await create(*command, **options)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", interrupted)
    before = signal.signal(signal.SIGINT, lambda number, _: received.append(number))
    try:
        child = await start([sys.executable, "-c", "import time; time.sleep(60)"], dict(os.environ))
        child.send_signal(signal.SIGINT)
        child.send_signal(signal.SIGTERM)
        assert await child.wait() == -signal.SIGTERM
    finally:
        signal.signal(signal.SIGINT, before)
    assert received == [signal.SIGINT]


def test_signals_to_everybody_count_once(project: Project) -> None:
    project.enqueue(gate.call("open"))
    parent = project.worker("--processes", 2)
    project.noted("gate")
    parent.send(signal.SIGTERM)  # as timeout(1) does
    os.killpg(parent.pid, signal.SIGTERM)  # as systemd does
    parent.expect("stopping 2 worker processes")
    project.write("open", "")
    assert parent.wait() == 0
    assert parent.err.count("stopping 2 worker processes") == 1
    assert "again" not in parent.err
    assert project.matching("through")


def test_the_second_signal_hurries_all_and_the_third_ends_it(project: Project) -> None:
    project.enqueue(stuck.call())
    parent = project.worker("--processes", 2, "--grace", 600)
    project.noted("stuck")
    pids = children(parent)
    for _ in range(3):
        parent.send(signal.SIGINT)
        time.sleep(ECHO)
    assert parent.wait() == 130
    assert parent.err.count("SIGTERM again: stopping the running jobs now") >= 1
    until(lambda: not any(map(alive, pids)), "the children's end")


def test_children_end_with_a_parent_that_is_killed(project: Project) -> None:
    project.enqueue(forever.call())
    parent = project.worker("--processes", 2, "--grace", 0)
    project.noted("forever")
    pids = children(parent)
    assert len(pids) == 2
    parent.send(signal.SIGKILL)
    until(lambda: not any(map(alive, pids)), "the children's end")


def test_an_app_that_cannot_be_loaded_is_one_error(project: Project) -> None:
    parent = project.worker("--processes", 3, app="nowhere:app")
    assert parent.wait() == 2
    assert parent.err.count("there is no module 'nowhere'") == 1


def test_reload_starts_the_changed_code(project: Project) -> None:
    source = "from jobq import App\nfrom sample import note\napp = App()\n@app.task\nasync def f(): note('{}')\n"
    file = project.write("code.py".replace("code", "changing"), source.format("old"))
    worker = project.worker("--reload", "--grace", 1, app="changing:app")
    worker.expect("watching the Python files")
    worker.expect("loop ")
    file.write_text("this is no Python\n")
    worker.expect("changing.py changed: starting again")
    worker.expect("SyntaxError: invalid syntax")
    worker.expect("the worker ended with code 2; waiting for a change")
    file.write_text(source.format("new"))
    worker.expect("changing.py changed: starting again")
    worker.expect("loop ")
    worker.send(signal.SIGINT)
    worker.expect("SIGINT: stopping 1 worker process")
    assert worker.wait() == 0


def test_reload_of_several_processes(project: Project) -> None:
    project.enqueue(forever.call())
    worker = project.worker("--reload", "--processes", 2, "--grace", 0)
    (first,) = project.noted("forever")
    (project.directory / "sample.py").touch()
    project.noted("forever", 2)
    assert not alive(int(first.split()[1]))
    os.killpg(worker.pid, signal.SIGINT)
    assert worker.wait() == 0


def test_what_jobs_start_are_no_children_of_ours(project: Project) -> None:
    project.enqueue(environment.call())
    assert project.worker("--processes", 2, "--burst").wait() == 0
    assert project.notes[0].startswith("environment ")
    assert "PARENT" not in project.notes[0]
    assert "SEAT" not in project.notes[0]


def test_children_do_not_show_the_broker_to_everybody(project: Project) -> None:
    parent = project.worker("--processes", 2)
    parent.expect("worker .* started")
    for child in children(parent):
        command = Path(f"/proc/{child}/cmdline").read_text().split("\0")
        assert command[1:-1] == ["-m", "jobq.worker", "sample:app"]
    parent.send(signal.SIGTERM)
    assert parent.wait() == 0


def test_reload_replaces_a_busy_worker(project: Project) -> None:
    project.enqueue(forever.call())
    worker = project.worker("--reload", "--grace", 0)
    (first,) = project.noted("forever")
    with (project.directory / "sample.py").open("a") as file:
        file.write("\n# changed\n")
    second = project.noted("forever", 2)[1]
    assert first.split()[1] != second.split()[1]
    assert not alive(int(first.split()[1]))
    worker.send(signal.SIGTERM)
    assert worker.wait() == 0


@pytest.mark.parametrize("arguments", [["--reload"], ["--reload", "--processes", "2"]])
def test_reload_without_watchfiles_says_what_to_install(project: Project, arguments: list[str]) -> None:
    project.write("watchfiles.py", "raise ModuleNotFoundError('no watchfiles', name='watchfiles')\n")
    worker = project.worker(*arguments)
    assert worker.wait() == 2
    assert worker.seen == ['Error: --reload needs watchfiles, which is not installed: pip install "jobq[reload]"']
