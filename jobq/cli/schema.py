"""`jobq schema`: what has to be in a database, for those who do not want clients and workers to make it."""

import asyncio
import sys
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

import click

from jobq._interrupt import end_at_once
from jobq.broker import Schema
from jobq.errors import ConfigError, JobqError, Unsupported
from jobq.plugins import open_broker
from jobq.worker.logs import printable

__all__ = ["schema"]

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

_FAILED: Final = 1
_USAGE_ERROR: Final = 2


@click.group()
def schema() -> None:
    """Apply, print and check the schema of a broker that is a database.

    Clients and workers apply it when they connect, unless the broker's URL says apply=no. Run by a role that may make
    schemas, `apply` or what `print` prints does it for them, and --role names the one that they have.
    """


def _broker(command: F) -> F:
    option = click.option(
        "-b",
        "--broker",
        metavar="URL|NAME",
        envvar="JOBQ_BROKER",
        required=True,
        help="Where the jobs are, as for the worker.",
    )
    return option(command)


def _role(command: F) -> F:
    return click.option("--role", metavar="NAME", help="Grant this role what clients and workers need.")(command)


@schema.command("print")
@_broker
@_role
def print_(broker: str, role: str | None) -> None:
    """Print it as SQL, which may be run again and again. Nothing is connected to."""

    def text(found: Schema) -> str:
        return found.script() + (f"\n{found.grants(role)}" if role else "")

    click.echo(_or_end(lambda: text(_schema_of(broker))))


@schema.command()
@_broker
def apply(broker: str) -> None:
    """Make what is not there yet: all of it, or nothing."""
    click.echo("applied" if _ask(broker, lambda found: found.apply()) else "nothing to do")


@schema.command()
@_broker
def check(broker: str) -> None:
    """Say whether all is there; if not, the exit code is 1."""
    lacking = _ask(broker, lambda found: found.lacking())
    click.echo("up to date" if lacking is None else printable(lacking))
    if lacking is not None:
        sys.exit(_FAILED)


def _schema_of(broker: str) -> Schema:
    found = open_broker(broker)
    if found.schema is None:
        raise Unsupported(f"{found.url} has no schema to see to")
    return found.schema


def _ask(broker: str, question: Callable[[Schema], Coroutine[Any, Any, T]]) -> T:
    try:
        return _or_end(lambda: asyncio.run(question(_schema_of(broker))))
    finally:
        end_at_once()  # closing the event loop has undone it


def _or_end(answer: Callable[[], T]) -> T:
    """The answer; what goes wrong ends the program."""
    try:
        return answer()
    except JobqError as exc:
        click.ClickException(printable(str(exc))).show()
        sys.exit(_USAGE_ERROR if isinstance(exc, ConfigError) else _FAILED)
