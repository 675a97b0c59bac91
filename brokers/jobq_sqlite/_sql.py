"""Statements over many rows at once.

Python gives up its lock around every step of a statement and may get it back only milliseconds later, if the event
loop is busy. So a verb takes few steps, however many jobs it touches: rows go in as one `VALUES` list and come out as
one JSON array.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, islice
from typing import Final

import msgspec

Row = tuple[object, ...]
MOST_ROWS: Final = 1024

NEW_LANE: Final = "CASE WHEN crashed >= 2 THEN 5 ELSE 4 - priority END"
SUSPECTS: Final = 5


@dataclass(slots=True)
class Tx:
    """One transaction, or one look without a transaction, and its time."""

    db: sqlite3.Connection
    now: float

    def ask(self, sql: str, *parameters: object) -> Row:
        """The only row of a query."""
        row: Row = self.db.execute(sql, parameters).fetchone()
        return row

    def do(self, sql: str, *parameters: object) -> int:
        """Change rows and say how many."""
        return self.db.execute(sql, parameters).rowcount

    def ask_rows(self, sql: str, rows: Sequence[Row], *parameters: object) -> Iterator[Row]:
        """All rows that `sql` answers for `rows`; see `do_rows`."""
        for shaped, flat in _shaped(sql, rows):
            yield from self.db.execute(shaped, [*flat, *parameters]).fetchall()

    def do_rows(self, sql: str, rows: Sequence[Row], *parameters: object) -> int:
        """Change rows and say how many.

        In `sql`, `rows` take the place of `$ROWS`, a table with the columns column1, column2 and so on.

        There may be more rows, all NULL. The other parameters come after `$ROWS` in the text.
        """
        return sum(self.db.execute(shaped, [*flat, *parameters]).rowcount for shaped, flat in _shaped(sql, rows))

    def draw(self, count: int) -> int:
        """The first of `count` new tickets."""
        (last,) = self.ask("SELECT ticket FROM meta")
        self.drawn(count)
        return int(str(last)) + 1

    def catch_up(self, received: int) -> None:
        """See to it that new tickets are above one that somebody has received from this file before it was restored."""
        self.db.execute("UPDATE meta SET ticket = ? WHERE ticket < ?", (received, received))

    def drawn(self, count: int) -> None:
        """Advance the counter by tickets that a statement has used."""
        if count:
            self.db.execute("UPDATE meta SET ticket = ticket + ?", (count,))


def numbers(text: object) -> list[list[int]]:
    """A JSON array of arrays of integers, as an answer of SQLite's."""
    return msgspec.json.decode(str(text), type=list[list[int]])


def one_row(rows: Iterable[Row], sql: str) -> tuple[str, list[object]]:
    """`sql` with few `rows` in the place of `$ROWS`, and the parameters."""
    return next(_shaped(sql, tuple(rows) or ((None, None),)))


def _shaped(sql: str, rows: Sequence[Row]) -> Iterator[tuple[str, list[object]]]:
    left = iter(rows)
    while some := list(islice(left, MOST_ROWS)):
        width = len(some[0])
        count = 1 << (len(some) - 1).bit_length()  # few shapes, so that their statements stay prepared
        flat = list(chain.from_iterable(some))
        flat += [None] * (width * (count - len(some)))
        yield _with_values(sql, count, width), flat


@lru_cache(maxsize=256)
def _with_values(sql: str, count: int, width: int) -> str:
    row = f"({','.join('?' * width)})"
    return sql.replace("$ROWS", f"(VALUES {','.join([row] * count)})")
