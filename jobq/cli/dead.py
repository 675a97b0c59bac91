"""`jobq dead`: what can be done with jobs that will not run again."""

import asyncio
import base64
import sys
from collections.abc import Callable, Coroutine, Sequence
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import click
import msgspec
from msgspec import Raw

from jobq._interrupt import end_at_once
from jobq.client import Client
from jobq.dead import DeadJobs
from jobq.errors import ConfigError, JobqError
from jobq.model import MAX_PEEK, DeadJob
from jobq.worker.logs import printable

__all__ = ["dead"]

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

_FAILED: Final = 1
_USAGE_ERROR: Final = 2
_SHOWN: Final = 100
"""Characters of an error on a line."""


@click.group()
def dead() -> None:
    """Count, show, replay, pop and purge dead jobs.

    A job is dead when it is out of retries, kills its workers, or cannot be read. Each command is about the jobs that
    died in one queue, the first one first.
    """


def _place(command: F) -> F:
    """Add the options that every command has."""
    queue = click.option("-q", "--queue", required=True, metavar="NAME", help="The queue that the jobs died in.")
    broker = click.option(
        "-b",
        "--broker",
        metavar="URL|NAME",
        envvar="JOBQ_BROKER",
        default="sqlite:///jobq.db",
        show_default=True,
        help="Where the jobs are, as for the worker.",
    )
    return broker(queue(command))


def _limit(default: int) -> Callable[[F], F]:
    most = click.IntRange(1, MAX_PEEK)
    return click.option("-n", "--limit", type=most, default=default, show_default=True, help="At most so many.")


def _json(command: F) -> F:
    return click.option("--json", "as_json", is_flag=True, help="All that is known, as one JSON object a line.")(
        command
    )


def _all(command: F) -> F:
    return click.option("--all", "everything", is_flag=True, help="All that are there now.")(command)


@dead.command()
@_place
def count(broker: str, queue: str) -> None:
    """Say how many there are."""
    click.echo(_ask(broker, lambda jobs: jobs.count(queue)))


@dead.command()
@_place
@_limit(20)
@_json
def peek(broker: str, queue: str, limit: int, *, as_json: bool) -> None:
    """Show some, and leave them where they are."""
    _show(_ask(broker, lambda jobs: jobs.peek(queue, limit)), as_json=as_json)


@dead.command()
@_place
@click.option("-n", "--limit", type=click.IntRange(1), help="At most so many.")
@click.option("--id", "ids", multiple=True, metavar="ID", help="This one; may be given several times.")
@_all
def replay(broker: str, queue: str, limit: int | None, ids: Sequence[str], *, everything: bool) -> None:
    """Put them back to their queue, to be run at once, with all their attempts before them."""
    if (limit is not None) + bool(ids) + everything != 1:
        raise click.UsageError("say which: --limit N, --id ID (as often as needed) or --all")
    replayed = _ask(broker, lambda jobs: jobs.replay(queue, limit=limit, ids=ids or None))
    click.echo(f"{replayed} replayed")
    if replayed < len(ids):
        click.echo(f"{len(ids) - replayed} of the ids are not those of dead jobs in {queue!r}", err=True)
        sys.exit(_FAILED)


@dead.command()
@_place
@_limit(1)
@_json
def pop(broker: str, queue: str, limit: int, *, as_json: bool) -> None:
    """Show some, and delete them."""
    _show(_ask(broker, lambda jobs: jobs.pop(queue, limit)), as_json=as_json)


@dead.command()
@_place
@_all
def purge(broker: str, queue: str, *, everything: bool) -> None:
    """Delete all."""
    if not everything:
        raise click.UsageError(f"say --all to delete all dead jobs of {queue!r}; pop deletes some of them")
    click.echo(f"{_ask(broker, lambda jobs: jobs.purge(queue))} deleted")


def _ask(broker: str, question: Callable[[DeadJobs], Coroutine[Any, Any, T]]) -> T:
    """The answer; what goes wrong ends the program."""

    async def ask() -> T:
        async with Client(broker) as client:
            return await question(client.dead)

    try:
        return asyncio.run(ask())
    except JobqError as exc:
        click.ClickException(printable(str(exc))).show()
        sys.exit(_USAGE_ERROR if isinstance(exc, ConfigError) else _FAILED)
    finally:
        end_at_once()  # closing the event loop has undone it


def _show(jobs: Sequence[DeadJob], *, as_json: bool) -> None:
    for one in jobs:
        click.echo(_object(one) if as_json else _line(one))


def _line(one: DeadJob) -> str:
    died = "-" if one.died is None else datetime.fromtimestamp(one.died, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    return printable(f"{one.id}  {died}  {one.task or '?'}  {_first_line(one.error)}")


def _first_line(text: str) -> str:
    first = text.partition("\n")[0]
    return first if len(first) <= _SHOWN else f"{first[: _SHOWN - 1]}…"


def _object(one: DeadJob) -> bytes:
    fields: dict[str, object] = {
        "id": one.id,
        "task": one.task,
        "queue": one.queue,
        "died": one.died,
        "error": one.error,
        "trail": one.trail,
        "crashes": one.crashes,
    }
    if one.malformed is None:
        fields["envelope"] = Raw(one.envelope)
    else:
        fields |= {"malformed": one.malformed, "bytes": base64.b64encode(one.envelope).decode()}
    return msgspec.json.encode(fields)
