"""What happened, counted from the results file and from nothing else."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from jobq.cli.demo.jobs import Line

__all__ = ["Tally"]

_decoder: Final = msgspec.json.Decoder(Line)


@dataclass
class Tally:
    """The results so far; `read` brings it up to date."""

    results: Path
    files: Sequence[str]
    done: Counter[str] = field(default_factory=Counter[str])
    dead: set[str] = field(default_factory=set[str])
    failed: int = 0
    lines: int = 0
    words: int = 0
    bytes: int = 0
    workers: set[int] = field(default_factory=set[int])
    _offset: int = 0

    def read(self) -> bool:
        """Count the lines that are new; whether there were any. A line that is not whole yet waits."""
        try:
            with self.results.open("rb") as file:
                file.seek(self._offset)
                news = file.read()
        except FileNotFoundError:
            return False
        whole = news[: news.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.splitlines():
            self._count(_decoder.decode(line))
        return bool(whole)

    def _count(self, line: Line) -> None:
        self.workers.add(line.pid)
        if line.what == "failed":
            self.failed += 1
        elif line.what == "dead":
            self.dead.add(line.path)
        else:
            self.done[line.path] += 1
            if self.done[line.path] == 1:
                self.lines += line.lines
                self.words += line.words
                self.bytes += line.bytes

    @property
    def processed(self) -> int:
        """Files with a result."""
        return len(self.done)

    @property
    def runs(self) -> int:
        """Runs that ended, well or not."""
        return self.done.total() + self.failed

    @property
    def twice(self) -> int:
        """Files with more than one result: their worker died between the result and its settlement."""
        return sum(1 for count in self.done.values() if count > 1)

    @property
    def complete(self) -> bool:
        """Whether every job has ended."""
        return len(self.done.keys() | self.dead) >= len(self.files)

    @property
    def missing(self) -> list[str]:
        """Files without a result."""
        return [file for file in self.files if file not in self.done]
