"""`jobq demo`."""

import asyncio
import signal
import sys
import sysconfig
from pathlib import Path
from typing import Final

import click

from jobq._interrupt import end_at_once
from jobq.cli.demo.run import Plan, Report, find_files, run
from jobq.cli.demo.screen import make_screen, table
from jobq.errors import ConfigError, JobqError
from jobq.worker.logs import printable

__all__ = ["demo"]

_SHOWN: Final = 5


@click.command()
@click.argument(
    "folder", metavar="[DIR]", required=False, type=click.Path(exists=True, file_okay=False, path_type=Path)
)
@click.option("-b", "--broker", metavar="URL|NAME", help="Where the jobs go.  [default: SQLite in a temporary folder]")
@click.option("--kill", is_flag=True, help="Kill the worker in the middle with kill -9, and lose nothing.")
@click.option("--limit", type=click.IntRange(1), help="Take at most so many files.")
@click.option("-c", "--concurrency", type=click.IntRange(1), default=20, show_default=True, help="Jobs at once.")
def demo(folder: Path | None, broker: str | None, limit: int | None, concurrency: int, *, kill: bool) -> None:
    """See it work: one job for each file in DIR.

    Each job counts a file's lines and words and hashes it; DIR is Python's own standard library unless given. A worker
    process runs them. Some fail once and are retried, some are due a second later. In the end every file must have
    its result, or the exit code is 1.
    """
    folder = folder or Path(sysconfig.get_path("stdlib"))
    files = find_files(folder, limit)
    if not files:
        raise click.UsageError(f"there are no readable files in {folder}")
    click.echo(f"{len(files):,} files in {folder}, a job for each")
    plan = Plan(files=files, broker=broker, kill=kill, concurrency=concurrency)
    sys.exit(_conclude(_run(plan)))


class _Stopped(Exception):
    """A signal has ended the demo."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.code = 128 + number


def _run(plan: Plan) -> Report:
    try:
        return asyncio.run(_until_stopped(plan))
    except _Stopped as exc:
        click.echo("stopped; the worker is gone, and so is the temporary folder", err=True)
        if plan.broker:
            click.echo(
                "jobs that had not run are left in a queue of their own, demo-…, which nobody works on", err=True
            )
        sys.exit(exc.code)
    except JobqError as exc:
        click.ClickException(printable(str(exc))).show()
        sys.exit(2 if isinstance(exc, ConfigError) else 1)
    finally:
        end_at_once()  # closing the event loop has undone it


async def _until_stopped(plan: Plan) -> Report:
    running = asyncio.ensure_future(_show(plan))
    received: list[int] = []

    def stop(number: int) -> None:
        received.append(number)
        running.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop, number)
    try:
        return await running
    except asyncio.CancelledError:
        raise _Stopped(received[0]) from None


async def _show(plan: Plan) -> Report:
    with make_screen(len(plan.files), terminal=sys.stdout.isatty()) as screen:
        return await run(plan, screen)


def _conclude(report: Report) -> int:
    """Show what happened; the exit code says whether every file has its result."""
    click.echo(table(_rows(report)))
    tally = report.tally
    missing = tally.missing
    for path in missing[:_SHOWN]:
        click.echo(f"no result: {printable(path)}", err=True)
    if missing:
        click.echo(f"{len(missing):,} of {len(tally.files):,} files have no result", err=True)
        return 1
    click.echo(f"every file has its result{', though a worker was killed' if report.killed else ''}")
    return 0


def _rows(report: Report) -> list[tuple[str, str]]:
    tally = report.tally
    rows = [
        ("jobs enqueued", f"{report.enqueued:,} in {report.enqueuing:.2f} s"),
        ("runs", f"{tally.runs:,} in {len(tally.workers)} worker process{'es' if len(tally.workers) > 1 else ''}"),
        ("retried", f"{tally.failed:,}"),
        ("dead", f"{len(tally.dead):,}"),
        ("files done", f"{tally.processed:,} of {len(tally.files):,}, {tally.twice:,} of them more than once"),
        ("found in them", f"{tally.lines:,} lines, {tally.words:,} words, {tally.bytes:,} bytes"),
        ("seconds", f"{report.seconds:.2f}"),
        ("jobs/s", f"{tally.processed / report.seconds:,.0f}"),
    ]
    return [*rows, ("killed", report.killed)] if report.killed else rows
