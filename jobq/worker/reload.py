"""`--reload`: the worker runs in a child process that is started anew when a Python file changes."""

import asyncio
import importlib
import logging
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from jobq.errors import MissingExtra
from jobq.worker.children import Children
from jobq.worker.orphans import Origin
from jobq.worker.settings import Settings

__all__ = ["run"]

_GRACE: Final = 2.0
"""Seconds that running jobs have when the code has changed: whoever edits does not want to wait."""
_SHOWN: Final = 3

log = logging.getLogger("jobq.worker")

Changes = AsyncIterator[set[tuple[Any, str]]]


def run(settings: Settings, origin: Origin) -> int:
    """Run the worker, again and again, until a signal says stop. Raises `MissingExtra`."""
    try:
        watchfiles: Any = importlib.import_module("watchfiles")
    except ImportError as exc:
        raise MissingExtra('--reload needs watchfiles, which is not installed: pip install "jobq[reload]"') from exc

    async def main() -> int:
        reloader = _Reloader(settings)
        reloader.children.listen(interrupt=not origin.supervised)
        return await reloader.run(
            watchfiles.awatch(
                Path.cwd(),
                watch_filter=watchfiles.PythonFilter(),
                stop_event=reloader.children.stopping,
                debounce=200,
                ignore_permission_denied=True,
            )
        )

    return asyncio.run(main())


class _Reloader:
    def __init__(self, settings: Settings) -> None:
        self._child = replace(settings, reload=False)
        self._grace = min(settings.grace, _GRACE)
        self.children = Children(settings.grace)

    async def run(self, changes: Changes) -> int:
        logging.getLogger("watchfiles").setLevel(logging.WARNING)  # it would count what we name
        log.info("watching the Python files in %s", Path.cwd())
        while True:
            change = asyncio.ensure_future(_next(changes))
            child = await self.children.start(self._child.command(), self._child.environ())
            await self._until(child, change)
            if self.children.stopping.is_set():
                await change
                return max(0, await self.children.wait(child))
            log.info("%s changed: starting again", _names(await change))
            await self.children.stop(child, self._grace)

    async def _until(self, child: Process, change: "asyncio.Future[set[str]]") -> None:
        """Until a file changes or a signal comes; a child that ends before that has said why."""
        ended = asyncio.ensure_future(self.children.wait(child))
        await asyncio.wait([asyncio.ensure_future(f) for f in (ended, change)], return_when=asyncio.FIRST_COMPLETED)
        if not change.done() and not self.children.stopping.is_set():
            log.warning("the worker ended with code %d; waiting for a change to start it again", ended.result())
            await asyncio.wait([change])
        ended.cancel()


async def _next(changes: Changes) -> set[str]:
    return {path for _, path in await anext(changes, set[tuple[Any, str]]())}


def _names(paths: set[str]) -> str:
    names = sorted(Path(path).name for path in paths)
    return ", ".join(names[:_SHOWN]) + (" …" if len(names) > _SHOWN else "")
