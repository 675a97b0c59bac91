"""What a job's transaction is open on: a connection of the module `sqlite3` that nobody but its keeper can commit."""

import sqlite3
import threading
import time
from collections.abc import Generator, Iterable
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, Never, Self

from jobq.errors import ConfigError, JobTimeout
from jobq_sqlite._errors import primary_code

_STEPS: Final = 10_000
"""Of SQLite's machine, some tenths of a millisecond: so often a statement looks at the time."""
_ENDS: Final = "a job's transaction ends with its block, and is then committed; to roll it back, raise in the block"


class JobConnection(sqlite3.Connection):
    """In use by one thread at a time, whoever comes; once its transaction has taken too long, it says so and no more.

    Two threads within SQLite could wait for each other for ever: one of them has SQLite's lock and waits for Python's.
    """

    def __init__(self, path: Path) -> None:
        # Without a memory for statements, as SQLite asks what is permitted when it prepares one.
        super().__init__(path, timeout=0, isolation_level=None, check_same_thread=False, cached_statements=0)
        self.path = path
        self._turn = threading.RLock()
        self._late = False
        self._why = ""

    @contextmanager
    def use(self) -> Generator[None]:
        """Have it to oneself. Raises `JobTimeout` if its transaction has taken too long."""
        with self._turn:
            if self._late:
                raise JobTimeout(self._why)
            try:
                yield
            except sqlite3.OperationalError as exc:
                if primary_code(exc) == sqlite3.SQLITE_INTERRUPT:
                    raise JobTimeout(self._why) from exc
                raise

    def keep(self, latest: float, why: str) -> None:
        """Let nobody but this thread begin or end a transaction on it, or change anything outside of one.

        A statement that runs at the monotonic time `latest` is interrupted, and its user told `why`.
        """
        self._why = why
        keeper = threading.get_ident()

        def permit(action: int, *_: object) -> int:
            if threading.get_ident() == keeper or (action != sqlite3.SQLITE_TRANSACTION and self.in_transaction):
                return sqlite3.SQLITE_OK
            return sqlite3.SQLITE_DENY

        def is_late() -> bool:
            return time.monotonic() >= latest and threading.get_ident() != keeper

        self.set_authorizer(permit)
        self.set_progress_handler(is_late, _STEPS)

    def end(self, *, late: bool = False) -> None:
        """Undo what was not committed, and close. If it is `late`, whoever uses it from now on is told so."""
        with self._turn, suppress(sqlite3.ProgrammingError):  # the job has closed it
            self._late = late
            if self.in_transaction:  # a cursor that is still open would keep it so
                super().execute("ROLLBACK")
            self.close()

    def cursor(self, factory: Any = None) -> Any:
        kind: Any = factory or JobCursor
        return super().cursor(kind)

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        with self.use():
            cursor: sqlite3.Cursor = self.cursor().execute(sql, parameters)
            return cursor

    def executemany(self, sql: str, parameters: Iterable[Any], /) -> sqlite3.Cursor:
        with self.use():
            cursor: sqlite3.Cursor = self.cursor().executemany(sql, parameters)
            return cursor

    def executescript(self, sql_script: str, /) -> sqlite3.Cursor:
        with self.use():
            return super().executescript(sql_script)

    def commit(self) -> Never:
        raise ConfigError(_ENDS)

    def rollback(self) -> Never:
        raise ConfigError(_ENDS)

    def __enter__(self) -> Never:
        raise ConfigError(_ENDS)


class JobCursor(sqlite3.Cursor):
    """One on such a connection."""

    def __init__(self, connection: JobConnection) -> None:
        super().__init__(connection)
        self._use = connection.use

    def execute(self, sql: str, parameters: Any = (), /) -> Self:
        with self._use():
            return super().execute(sql, parameters)

    def executemany(self, sql: str, parameters: Iterable[Any], /) -> Self:
        with self._use():
            return super().executemany(sql, parameters)

    def executescript(self, sql_script: str, /) -> sqlite3.Cursor:
        with self._use():
            return super().executescript(sql_script)

    def fetchone(self) -> Any:
        with self._use():
            return super().fetchone()

    def fetchmany(self, size: int | None = 1) -> list[Any]:
        with self._use():
            return super().fetchmany(size)

    def fetchall(self) -> list[Any]:
        with self._use():
            return super().fetchall()

    def __next__(self) -> Any:
        with self._use():
            return super().__next__()
