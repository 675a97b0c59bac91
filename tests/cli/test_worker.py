"""`python -m jobq.worker`, as a user starts it."""

import json
import re
import subprocess
import sys
from signal import SIGTERM

import pytest

from jobq import __version__
from tests.cli.program import Project, until
from tests.cli.sample import evil, loop, mail, ping, say
from tests.servers import Server, free_port

GREETING = f"jobq {__version__}"


def test_a_burst_runs_everything_and_ends(project: Project) -> None:
    project.enqueue(*(ping.call(n) for n in range(50)))
    worker = project.worker("--burst")
    assert worker.wait() == 0
    assert sorted(project.notes) == sorted(f"ping {n}" for n in range(50))


def test_the_banner_says_what_runs_where(project: Project) -> None:
    worker = project.worker("--burst", "--queue", "a", "-q", "b:5", "-c", 7, "--grace", 1.5)
    assert worker.wait() == 0
    facts = dict(line.split(maxsplit=1) for line in worker.seen[1:11])
    assert worker.seen[0] == GREETING
    assert facts.pop("tasks").startswith("ping, mail, gate")
    assert facts.pop("loop").startswith(("uvloop ", "asyncio, Python 3."))
    assert facts == {
        "app": "sample:app",
        "broker": project.url,
        "queues": "a (weight 1), b (weight 5)",
        "concurrency": "7",
        "processes": "1",
        "grace": "1.5 s",
        "lease": "30 s",
        "pid": str(worker.pid),
    }


def test_without_queues_it_works_on_those_that_its_tasks_name(project: Project) -> None:
    project.enqueue(ping.call(1), mail.call(2))
    worker = project.worker("--burst")
    assert worker.wait() == 0
    assert "default (weight 1), mail (weight 1)" in worker.err
    assert sorted(project.notes) == ["mail 2", "ping 1"]


def test_with_queues_it_leaves_the_others_alone(project: Project) -> None:
    project.enqueue(ping.call(1), mail.call(2))
    assert project.worker("--burst", "--queue", "mail").wait() == 0
    assert project.notes == ["mail 2"]


def test_every_option_is_an_environment_variable(project: Project) -> None:
    project.enqueue(mail.call(1), say.options(queue="mail").call(10))
    worker = project.start(
        "-m",
        "jobq",
        "worker",
        JOBQ_APP="sample:app",
        JOBQ_BROKER=project.url,
        JOBQ_QUEUES="mail:3, other",
        JOBQ_CONCURRENCY="3",
        JOBQ_PROCESSES="2",
        JOBQ_GRACE="4",
        JOBQ_BURST="1",
        JOBQ_RELOAD="1",
        JOBQ_LOG_FORMAT="json",
        JOBQ_LOG_LEVEL="DEBUG",
    )
    worker.expect("watching the Python files")
    said = worker.expect("app: sample:app; ").string
    for part in ("queues: mail (weight 3), other (weight 1)", "concurrency: 3", "processes: 2", "grace: 4 s"):
        assert part in said
    worker.expect("said at 10")
    worker.expect("the worker ended with code 0; waiting for a change")
    worker.send(SIGTERM)
    assert worker.wait() == 0
    assert all(map(json.loads, worker.seen)), "parents and children log in the same format"
    assert project.notes == ["mail 1"]


@pytest.mark.parametrize(
    ("arguments", "variable", "shown"),
    [
        (["--log-level", "debug"], "critical", ["said at 10", "said at 20", "said at 40"]),
        ([], "", ["said at 20", "said at 40"]),
        ([], "Error", ["said at 40"]),
        (["--log-level", "critical"], "debug", []),
    ],
)
def test_nothing_below_the_level_is_logged(
    project: Project, arguments: list[str], variable: str, shown: list[str]
) -> None:
    project.enqueue(*(say.call(number) for number in (10, 20, 40)))
    worker = project.worker("--burst", "-c", 1, *arguments, JOBQ_LOG_LEVEL=variable)
    assert worker.wait() == 0
    assert re.findall(r"said at \d+", worker.err) == shown
    assert (GREETING in worker.seen) == ("said at 20" in shown), "the banner is news, too"


@pytest.mark.parametrize("processes", [1, 2])
def test_jobs_run_on_uvloop_where_it_is_installed(project: Project, processes: int) -> None:
    pytest.importorskip("uvloop")
    project.enqueue(loop.call())
    assert project.worker("--burst", "--processes", processes).wait() == 0
    assert project.notes == ["loop uvloop"]


def test_jobs_run_on_asyncios_loop_where_uvloop_is_missing(project: Project) -> None:
    project.write("uvloop.py", "raise ModuleNotFoundError('no uvloop', name='uvloop')\n")
    project.enqueue(loop.call())
    worker = project.worker("--burst")
    assert worker.wait() == 0
    assert project.notes == ["loop asyncio"]
    assert "  loop         asyncio, Python " in worker.err


def test_one_queue_by_environment(project: Project) -> None:
    worker = project.worker("--burst", JOBQ_QUEUE="mail")
    assert worker.wait() == 0
    assert "  queues       mail" in worker.seen


def test_an_option_beats_its_variable(project: Project) -> None:
    worker = project.worker("--burst", "-c", "2", "-q", "mail", JOBQ_CONCURRENCY="9", JOBQ_QUEUES="x,y")
    assert worker.wait() == 0
    assert {"  concurrency  2", "  queues       mail"} < set(worker.seen)


def test_the_broker_is_a_file_here_unless_named(project: Project) -> None:
    worker = project.start("-m", "jobq.worker", "sample:app", "--burst")
    assert worker.wait() == 0
    assert "  broker       sqlite:///jobq.db" in worker.seen
    assert (project.directory / "jobq.db").exists()


def test_the_app_can_be_named_in_pyproject(project: Project) -> None:
    project.write("pyproject.toml", '[tool.jobq]\napp = "sample:app"\n')
    worker = project.start("-m", "jobq.worker", "--burst")
    assert worker.wait() == 0
    assert "  app          sample:app" in worker.seen


@pytest.mark.parametrize("processes", [1, 2])
def test_json_logs_are_one_record_a_line(project: Project, processes: int) -> None:
    project.enqueue(evil.call())
    worker = project.worker("--burst", "--log-format", "json", "--processes", processes)
    assert worker.wait() == 0
    records = [json.loads(line) for line in worker.seen]
    assert all({"time", "level", "logger", "message"} <= record.keys() for record in records)
    assert records[0]["message"].startswith(f"{GREETING}: app: sample:app; ")
    (dead,) = [record for record in records if record["level"] == "error"]
    assert "is dead after attempt 1" in dead["message"]


def test_nothing_is_logged_per_job(project: Project) -> None:
    project.enqueue(*(ping.call(n) for n in range(300)))
    worker = project.worker("--burst")
    assert worker.wait() == 0
    assert len(project.notes) == 300
    assert len([line for line in worker.seen if " jobq." in line]) == 1
    assert worker.seen[-1].endswith("jobq.worker: stopped")


def test_passwords_are_masked_and_a_broker_that_is_down_is_waited_for(project: Project) -> None:
    server = Server(arguments=["--requirepass", "s3cret"], port=free_port())
    port = server.port
    url = f"redis://:s3cret@127.0.0.1:{port}/0"
    worker = project.start("-m", "jobq.worker", "sample:app", JOBQ_BROKER=url)
    worker.expect(f"broker .*redis://:[*]+@127.0.0.1:{port}/0")
    worker.expect(r"cannot reach Redis at .* \(trying again in 0.2 s\)")
    with server:
        project.enqueue(ping.call(1), url=url)
        project.noted("ping 1")
        worker.process.terminate()
        assert worker.wait() == 0
    assert "s3cret" not in worker.err


def test_waiting_for_the_broker_can_be_stopped(project: Project) -> None:
    worker = project.start("-m", "jobq.worker", "sample:app", "--broker", f"redis://127.0.0.1:{free_port()}/0")
    worker.expect("trying again")
    worker.process.terminate()
    assert worker.wait() == 0
    assert "Traceback" not in worker.err


def test_a_burst_does_not_wait_for_the_broker(project: Project) -> None:
    url = f"redis://127.0.0.1:{free_port()}/0"
    worker = project.start("-m", "jobq.worker", "sample:app", "--broker", url, "--burst")
    assert worker.wait() == 1
    assert worker.seen[-1].startswith(f"Error: cannot reach Redis at {url}")
    assert "Traceback" not in worker.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "Type python -m jobq.worker module:app, set JOBQ_APP=module:app, or write"),
        (["sample:ap"], "has no 'ap'. Apps in that module: sample:app, sample:other. Did you mean 'app'?"),
        (["sample:note"], "'sample:note' is no jobq.App but a function. Apps in that module: sample:app"),
        (["sample"], "'sample' does not say which app"),
        (["sampel:app"], "there is no module 'sampel', neither here ("),
        (["sampel:app"], "nor installed. Did you mean 'sample'?"),
        (["sample.py:app"], "Did you mean sample:app?"),
        (["sample:app", "--queue", "a b"], "'a b' cannot name a queue"),
        (["sample:app", "--queue", "a:0"], "the weight in 'a:0' is not a whole number from 1 to 1000"),
        (["sample:app", "--queue", "a", "--queue", "a:2"], "names at least one queue, and none twice"),
        (
            ["sample:app", "--broker", "kafka"],
            "'kafka' is no broker: give a URL, or one of memory, postgres, redis, rmq, sqlite",
        ),
        (["sample:app", "--broker", "kafka://x"], "no installed broker serves 'kafka://'; installed are: memory"),
        (["sample:app", "--broker", "memory", "-p", "2"], "memory:// lives inside one process"),
        (["sample:app", "--broker", "rmq", "--store", "redis"], "no broker can be a store yet"),
        (["sample:app", "--store", "redis"], "sqlite keeps everything itself: leave out the store"),
        (["sample:app", "--concurrency", "0"], "0 is not in the range x>=1"),
        (["sample:app", "--grace", "soon"], "'soon' is not a valid float"),
        (["sample:app", "--grace", "nan"], "grace is nan; it is a number of seconds"),
        (["sample:app", "--log-format", "xml"], "'xml' is not one of 'text', 'json'"),
        (["sample:app", "--brocker", "x"], "No such option"),
    ],
)
def test_mistakes_are_explained(project: Project, arguments: list[str], words: str) -> None:
    worker = project.start("-m", "jobq.worker", *arguments)
    assert worker.wait() == 2
    assert words in " ".join(worker.err.split())
    assert "Traceback" not in worker.err


def test_a_missing_extra_is_answered_with_the_line_that_installs_it(project: Project) -> None:
    project.write("redis.py", "raise ModuleNotFoundError('no redis', name='redis')\n")
    for program in (
        project.start("-m", "jobq.worker", "sample:app", "--broker", "redis"),
        project.start("-m", "jobq", "demo", "--broker", "redis"),
    ):
        assert program.wait() == 2
        assert program.seen == [
            "Error: the redis broker needs 'redis', which is not installed: pip install \"jobq[redis]\""
        ]


def test_a_module_that_fails_shows_its_own_traceback(project: Project) -> None:
    project.write("broken.py", "import json\n\ndef f():\n    return 1 / 0\n\nf()\n")
    worker = project.worker(app="broken:app")
    assert worker.wait() == 2
    assert worker.seen[0] == "Error: importing 'broken' failed:"
    assert "ZeroDivisionError: division by zero" in worker.seen[-1]
    assert "broken.py" in worker.err
    assert "importlib" not in worker.err
    assert "jobq/worker" not in worker.err


def test_an_error_of_the_apps_lifespan_is_logged(project: Project) -> None:
    project.write(
        "spanned.py",
        "from contextlib import asynccontextmanager\nfrom jobq import App\napp = App()\n"
        "@app.lifespan\n@asynccontextmanager\nasync def life():\n    raise RuntimeError('no pool')\n    yield {}\n",
    )
    worker = project.worker(app="spanned:app")
    assert worker.wait() == 1
    assert "the worker ended with an error" in worker.err
    assert "RuntimeError: no pool" in worker.seen[-1]


def test_versions_and_help() -> None:
    def say(*arguments: str) -> str:
        return subprocess.run([sys.executable, *arguments], check=True, capture_output=True, text=True).stdout

    assert say("-m", "jobq", "--version") == f"jobq, version {__version__}\n"
    assert {"worker", "demo"} <= set(say("-m", "jobq", "--help").split())
    assert "Usage: python -m jobq.worker [OPTIONS] [MODULE:APP]" in say("-m", "jobq.worker", "--help")


def test_a_running_worker_takes_what_comes(project: Project) -> None:
    worker = project.worker()
    worker.expect("loop ")
    project.enqueue(ping.call(1))
    until(lambda: project.notes == ["ping 1"])
    worker.process.terminate()
    assert worker.wait() == 0
