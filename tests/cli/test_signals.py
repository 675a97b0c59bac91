"""How a worker ends."""

import time
from signal import SIGINT, SIGTERM, SIGUSR1

import pytest

from tests.cli.program import Project
from tests.cli.sample import blocked, forever, gate, ping, stuck

ECHO = 0.3
"""Seconds after which a second signal is no echo of the first."""


@pytest.mark.parametrize("number", [SIGTERM, SIGINT])
def test_a_signal_lets_running_jobs_finish(project: Project, number: int) -> None:
    project.enqueue(gate.call("open"))
    worker = project.worker()
    project.noted("gate")
    worker.process.send_signal(number)
    worker.expect("stopping; running jobs have 25 s")
    project.enqueue(ping.call(1))
    project.write("open", "")
    assert worker.wait() == 0
    assert project.notes[1:] == ["through open"]


def test_what_does_not_finish_is_given_back_without_an_attempt(project: Project) -> None:
    project.enqueue(forever.call())
    for _ in range(2):
        count = len(project.notes) + 1
        worker = project.worker("--grace", 0)
        worker.expect("loop ")
        project.noted("forever", count)
        worker.send(SIGTERM)
        assert worker.wait() == 0
    assert [note.split()[2] for note in project.notes] == ["1", "1"]


def test_a_second_signal_cuts_the_grace_short(project: Project) -> None:
    project.enqueue(forever.call())
    worker = project.worker("--grace", 600)
    project.noted("forever")
    worker.send(SIGTERM)
    worker.expect("running jobs have 600 s")
    time.sleep(ECHO)
    started = time.monotonic()
    worker.send(SIGTERM)
    worker.expect("SIGTERM again: stopping the running jobs now")
    assert worker.wait() == 0
    assert time.monotonic() - started < 2.5


def test_a_second_signal_at_the_same_moment_is_an_echo(project: Project) -> None:
    project.enqueue(gate.call("open"))
    worker = project.worker()
    project.noted("gate")
    worker.send(SIGTERM)
    worker.send(SIGTERM)
    worker.expect("running jobs have 25 s")
    project.write("open", "")
    assert worker.wait() == 0
    assert "again" not in worker.err
    assert project.matching("through")


def test_a_third_signal_leaves_at_once(project: Project) -> None:
    project.enqueue(stuck.call())
    worker = project.worker("--grace", 600)
    project.noted("stuck")
    worker.send(SIGINT)
    worker.expect("running jobs have")
    time.sleep(ECHO)
    worker.send(SIGINT)
    worker.expect("again")
    time.sleep(ECHO)
    worker.send(SIGINT)
    assert worker.wait() == 130


@pytest.mark.parametrize("task", [stuck, blocked], ids=lambda task: task.name)
def test_nothing_keeps_the_process_longer_than_grace_and_two_seconds(project: Project, task: object) -> None:
    project.enqueue(project.task(task.name).call())  # type: ignore[attr-defined]
    worker = project.worker("--grace", 1)
    project.noted(task.name)  # type: ignore[attr-defined]
    started = time.monotonic()
    worker.send(SIGTERM)
    code = worker.wait()
    assert time.monotonic() - started < 3.4
    if task is stuck:
        assert code == 0
        assert "of stuck does not stop; it is given back" in worker.err
    else:
        assert code == 1
        assert "the worker did not end in time" in worker.err


def test_a_lifespan_that_hangs_does_not_keep_the_process(project: Project) -> None:
    project.write(
        "spanned.py",
        "import asyncio\nfrom contextlib import asynccontextmanager\nfrom jobq import App\nfrom sample import note\n"
        "app = App()\n@app.lifespan\n@asynccontextmanager\n"
        "async def life():\n    note('up')\n    yield {}\n    await asyncio.Event().wait()\n",
    )
    worker = project.worker("--grace", 0, app="spanned:app")
    project.noted("up")
    started = time.monotonic()
    worker.send(SIGTERM)
    assert worker.wait() != 0
    assert time.monotonic() - started < 2.4


def test_sigusr1_tells_what_runs_and_where(project: Project) -> None:
    project.enqueue(gate.call("open"), stuck.call())
    worker = project.worker("--grace", 0)
    project.noted("gate")
    project.noted("stuck")
    worker.send(SIGUSR1)
    worker.expect("holds 2 jobs")
    worker.expect("job .* of gate, running")
    worker.expect(r"sample.py:\d+ gate")
    worker.expect("thread .*:")
    worker.expect("time.sleep")
    worker.send(SIGTERM)
    assert worker.wait() == 0
