"""The documentation, read as pages of fenced blocks.

A block says with an HTML comment above it how it is tested:

* ```` ```python ```` whose first line is `# file: name.py` is written into the page's directory;
* `<!-- run -->` before ```` ```console ````: each `$ ` line is run there, and must print the lines below it;
* `<!-- run until: text -->`: the same, but the last command goes on until it has printed `text`, then gets Ctrl-C;
* the other ```` ```python ```` blocks of a page are run in its directory as one program, from top to bottom;
  `<!-- after: code -->` before one is what its reader has by then;
"""

import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
PAGES: Final = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
FILE: Final = re.compile(r"# file: (\S+)\n")

_FENCE = re.compile(r"^( *)(`{3,})(\w*)\s*$")


@dataclass(frozen=True)
class Block:
    """A fenced block: where it is, its language, its text, and the comment before it."""

    page: Path
    line: int
    language: str
    text: str
    mark: str

    @property
    def where(self) -> str:
        return f"{name(self.page)}:{self.line}"

    @property
    def file(self) -> str | None:
        found = FILE.match(self.text)
        return None if found is None or self.language != "python" else found[1]


def name(page: Path) -> str:
    """The page's path in the repository."""
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> Iterator[Block]:
    """The page's fenced blocks, from the top."""
    lines = page.read_text(encoding="utf-8").splitlines()
    number = 0
    while number < len(lines):
        opened = _FENCE.match(lines[number])
        if opened is None:
            number += 1
            continue
        indent, fence, language = opened.groups()
        end = next(i for i in range(number + 1, len(lines)) if lines[i].strip() == fence)
        text = "".join(f"{line.removeprefix(indent)}\n" for line in lines[number + 1 : end])
        yield Block(page, number + 1, language, text, _mark(lines, number))
        number = end + 1


def prose(page: Path) -> str:
    """The page without its blocks."""
    kept, fence = list[str](), ""
    for line in page.read_text(encoding="utf-8").splitlines():
        opened = _FENCE.match(line)
        if fence:
            fence = "" if line.strip() == fence else fence
        elif opened is not None:
            fence = opened[2]
        else:
            kept.append(line)
    return "\n".join(kept)


def environment() -> dict[str, str]:
    """What the programs of a page are run in."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("JOBQ_", "PYTEST_", "COV"))}
    here = str(Path(sys.executable).parent)
    quiet = {"PYTHONUNBUFFERED": "1", "NO_COLOR": "1"}
    quiet |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_PLUGINS": "pytest_asyncio.plugin"}  # for speed
    return {**clean, **quiet, "PATH": f"{here}{os.pathsep}{os.environ['PATH']}"}


def _mark(lines: list[str], number: int) -> str:
    above = next((line.strip() for line in reversed(lines[:number]) if line.strip()), "")
    found = re.fullmatch(r"<!-- (.*) -->", above)
    return "" if found is None else found[1]
