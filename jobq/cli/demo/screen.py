"""What the demo shows: a bar where there is a terminal and rich, lines of text elsewhere."""

import time
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Protocol, Self

import click

__all__ = ["Screen", "make_screen", "table"]

_PAUSE: Final = 1.0
_WINDOW: Final = 0.5


class Screen(Protocol):
    """Where progress goes."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None, /
    ) -> None: ...

    def update(self, processed: int, retried: int) -> None:
        """Show how far it is."""
        ...

    def say(self, text: str) -> None:
        """Show a line that stays."""
        ...


def make_screen(total: int, *, terminal: bool) -> Screen:
    """A bar if `terminal` and rich is installed, else lines."""
    if terminal:
        with suppress(ImportError):
            return _Bar(total)
    return _Lines(total)


def table(rows: list[tuple[str, str]]) -> str:
    """Names and values in two columns."""
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"  {name:<{width}}  {value}" for name, value in rows)


class _Rate:
    """Files per second, over the last moments; at first over what there is of them."""

    def __init__(self) -> None:
        self._since = time.monotonic()
        self._before = 0
        self.now = 0.0

    def update(self, processed: int) -> float:
        elapsed = time.monotonic() - self._since
        if elapsed >= _WINDOW or not self._before:
            self.now = (processed - self._before) / elapsed
        if elapsed >= _WINDOW:
            self._since, self._before = time.monotonic(), processed
        return self.now


class _Lines:
    def __init__(self, total: int) -> None:
        self._total = total
        self._rate = _Rate()
        self._next = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None, /
    ) -> None:
        """Nothing is left to do."""

    def update(self, processed: int, retried: int) -> None:
        rate = self._rate.update(processed)
        if processed and (time.monotonic() >= self._next or processed == self._total):
            self._next = time.monotonic() + _PAUSE
            self.say(f"{processed:,} of {self._total:,} files, {retried:,} retried, {rate:,.0f} files/s")

    def say(self, text: str) -> None:
        click.echo(text)


class _Bar:
    def __init__(self, total: int) -> None:
        from rich import progress  # noqa: PLC0415 - an extra

        self._progress = progress.Progress(
            progress.BarColumn(bar_width=None),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.fields[rate]:,.0f} files/s"),
            progress.TextColumn("{task.fields[retried]:,} retried"),
            progress.TimeElapsedColumn(),
        )
        fields: dict[str, Any] = {"rate": 0.0, "retried": 0}
        self._task = self._progress.add_task("", total=total, **fields)
        self._rate = _Rate()

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None, /
    ) -> None:
        self._progress.stop()

    def update(self, processed: int, retried: int) -> None:
        fields: dict[str, Any] = {"rate": self._rate.update(processed), "retried": retried}
        self._progress.update(self._task, completed=processed, **fields)

    def say(self, text: str) -> None:
        self._progress.console.print(text, markup=False, highlight=False)
