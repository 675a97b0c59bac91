"""`jobq relay`: moves jobs from an outbox on to the broker that they are for."""

import click

from jobq import _outbox
from jobq._interrupt import Interruptible
from jobq.plugins import open_broker
from jobq.worker import logs, orphans, program
from jobq.worker.command import exit_after
from jobq.worker.relay import CONCURRENCY, check_outbox, relay_app
from jobq.worker.settings import Settings

__all__ = ["relay"]


@click.command()
@click.option(
    "--outbox",
    metavar="URL|NAME",
    envvar="JOBQ_OUTBOX",
    required=True,
    help="Where clients store jobs in their transactions, e.g. postgresql://…",
)
@click.option(
    "-b",
    "--broker",
    metavar="URL|NAME",
    envvar="JOBQ_BROKER",
    required=True,
    help="Where the jobs are to go, as for the worker.",
)
@click.option("--burst", is_flag=True, envvar="JOBQ_BURST", help="Stop when nothing is there that is due.")
@click.option("--log-format", type=click.Choice(logs.FORMATS), default="text", envvar="JOBQ_LOG_FORMAT")
@click.option(
    "--log-level",
    type=click.Choice(logs.LEVELS, case_sensitive=False),
    default="info",
    envvar="JOBQ_LOG_LEVEL",
)
def relay(outbox: str, broker: str, *, burst: bool, log_format: str, log_level: str) -> None:
    """Move the jobs of an outbox on to their broker, each at least once, until SIGTERM or Ctrl-C.

    Any number may run beside each other, also inside workers: see their --outbox.
    """
    logs.configure(log_format, log_level)
    settings = Settings(
        app=None, broker=outbox, queues=(_outbox.QUEUE,), concurrency=CONCURRENCY, grace=5.0, burst=burst
    )

    def run() -> int:
        check_outbox(outbox)
        open_broker(broker)
        with Interruptible():
            app = relay_app(broker)
        return program.run(settings, app, orphans.follow_parent())

    exit_after(run)
