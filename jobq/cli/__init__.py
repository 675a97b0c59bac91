"""The `jobq` command."""

import click

import jobq
from jobq.cli.dead import dead
from jobq.cli.demo import demo
from jobq.cli.relay import relay
from jobq.cli.schema import schema
from jobq.worker.command import worker

__all__ = ["main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(jobq.__version__, prog_name="jobq")
def main() -> None:
    """Background jobs for asyncio."""


main.add_command(worker)
main.add_command(dead)
main.add_command(demo)
main.add_command(schema)
main.add_command(relay)
