"""`python -m jobq.worker`, alias `jobq worker`."""

import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Final, NoReturn

import click

from jobq._interrupt import INTERRUPTED, Interruptible, end_at_once
from jobq.errors import ConfigError, JobqError
from jobq.worker import logs, orphans, processes, program, reload
from jobq.worker.loading import app_name, load_app
from jobq.worker.settings import Settings

__all__ = ["exit_after", "worker"]

USAGE_ERROR: Final = 2
FAILED: Final = 1

log = logging.getLogger("jobq.worker")


class _Queues(click.types.StringParamType):
    """Queue names; in the environment they are separated by commas."""

    envvar_list_splitter: ClassVar[str | None] = ","


def _split(context: click.Context, option: click.Parameter, values: Sequence[str]) -> tuple[str, ...]:
    del context, option
    return tuple(name.strip() for value in values for name in value.split(",") if name.strip())


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.argument("app", metavar="[MODULE:APP]", required=False, envvar="JOBQ_APP")
@click.option(
    "-b",
    "--broker",
    metavar="URL|NAME",
    envvar="JOBQ_BROKER",
    default="sqlite:///jobq.db",
    show_default=True,
    help="Where the jobs are: a URL, or the name of an installed broker: sqlite, redis, rmq, memory. A name takes its "
    "URL from JOBQ_<NAME>_URL or is that broker's usual local address.",
)
@click.option(
    "--store",
    metavar="URL|NAME",
    envvar="JOBQ_STORE",
    help="The broker that is to keep what RabbitMQ cannot. No feature needs one yet, so it is refused for now.",
)
@click.option(
    "--outbox",
    metavar="URL|NAME",
    envvar="JOBQ_OUTBOX",
    help="Also move the jobs of this outbox on to the broker, as jobq relay does.",
)
@click.option(
    "-q",
    "--queue",
    "queues",
    metavar="NAME[:WEIGHT]",
    type=_Queues(),
    multiple=True,
    envvar=["JOBQ_QUEUES", "JOBQ_QUEUE"],
    callback=_split,
    help="A queue to work on; may be given several times. Without weights the first is emptied before the second is "
    "looked at. [default: the queues that the app's tasks name]",
)
@click.option(
    "-c",
    "--concurrency",
    type=click.IntRange(1),
    default=100,
    envvar="JOBQ_CONCURRENCY",
    show_default=True,
    help="Jobs that run at the same time in each process.",
)
@click.option(
    "-p",
    "--processes",
    type=click.IntRange(1),
    default=1,
    envvar="JOBQ_PROCESSES",
    show_default=True,
    help="Worker processes, for jobs that are busy computing; one that dies is replaced.",
)
@click.option(
    "--grace",
    type=click.FloatRange(0),
    default=25.0,
    metavar="SECONDS",
    envvar="JOBQ_GRACE",
    show_default=True,
    help="How long running jobs may go on after SIGTERM or Ctrl-C. What is unfinished then is given back.",
)
@click.option("--burst", is_flag=True, envvar="JOBQ_BURST", help="Stop when nothing is ready.")
@click.option("--reload", is_flag=True, envvar="JOBQ_RELOAD", help="Restart when a Python file here changes.")
@click.option(
    "--log-format", type=click.Choice(logs.FORMATS), default="text", envvar="JOBQ_LOG_FORMAT", show_default=True
)
@click.option(
    "--log-level",
    type=click.Choice(logs.LEVELS, case_sensitive=False),
    default="info",
    envvar="JOBQ_LOG_LEVEL",
    show_default=True,
)
def worker(**options: Any) -> None:
    """Run the jobs of an app.

    MODULE:APP is the App to run, e.g. myproject.jobs:app; without it, JOBQ_APP, or app under [tool.jobq] in the
    pyproject.toml here. Every option can also be set by an environment variable: JOBQ_ and its name.

    SIGTERM or Ctrl-C stops gracefully, a second one at once. SIGUSR1 logs what is running and where.
    """
    settings = Settings(**options)
    logs.configure(settings.log_format, settings.log_level)
    origin = orphans.follow_parent()
    exit_after(lambda: _run(settings, origin))


def exit_after(run: Callable[[], int]) -> NoReturn:
    """End the process with the exit code that `run` returns, or that its error means."""
    try:
        code = run()
    except KeyboardInterrupt:
        code = INTERRUPTED
    except JobqError as exc:
        _fail(exc)
    except Exception as exc:
        # what surrounds the jobs, e.g. a lifespan, is the app's own code: here its traceback is what helps
        log.critical("the worker ended with an error", exc_info=exc)
        code = FAILED
    end_at_once()  # closing an event loop has undone it
    sys.exit(code)


def _run(settings: Settings, origin: orphans.Origin) -> int:
    settings = settings.for_store()
    settings.check()
    settings = replace(settings, app=app_name(settings.app))
    if settings.reload:
        return reload.run(settings, origin)
    with Interruptible():
        app = load_app(settings.app or "")
    settings = settings.for_app(app)
    runner = processes.run if settings.processes > 1 else program.run
    return runner(settings, app, origin)


def _fail(exc: JobqError) -> NoReturn:
    click.ClickException(logs.printable(str(exc))).show()
    sys.exit(USAGE_ERROR if isinstance(exc, ConfigError) else FAILED)
