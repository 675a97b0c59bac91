"""Opening the file: created for this user only, checked, and its schema made by whoever comes first."""

import logging
import math
import os
import sqlite3
import stat
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from jobq.errors import BrokerRefused
from jobq_sqlite._errors import is_busy, translate
from jobq_sqlite._mounts import network_kind
from jobq_sqlite._url import Place

C = TypeVar("C", bound=sqlite3.Connection)

APPLICATION_ID: Final = 0x6A6F6271  # "jobq"
SCHEMA_VERSION: Final = 1
OLDEST_SQLITE: Final = (3, 35, 0)
WAL_LIMIT: Final = 16 << 20
"""Bytes of log that stay on the disk once it has been copied into the database."""

_SCHEMA: Final = Path(__file__).with_name("schema.sql")
_PRAGMAS: Final = (
    "PRAGMA trusted_schema = OFF",
    "PRAGMA cell_size_check = ON",
    "PRAGMA secure_delete = OFF",
    "PRAGMA temp_store = MEMORY",
    "PRAGMA cache_size = -4096",
    f"PRAGMA journal_size_limit = {WAL_LIMIT}",
)
# One statement, so that all is of one moment: another process may be making the schema.
_IDENTITY: Final = (
    "SELECT application_id, user_version, (SELECT count(*) FROM sqlite_schema)"
    " FROM pragma_application_id, pragma_user_version"
)
_RETRY: Final = 0.002

_log = logging.getLogger("jobq.sqlite")
# Closing any descriptor of a file drops every POSIX lock that the process has on it, SQLite's too. So nobody else in
# this process may be opening the database while one of us creates the file.
_opening = threading.Lock()


def connect(place: Place, script: str = "") -> sqlite3.Connection:
    """A connection, ready for use, in autocommit mode. It never waits for locks: its user does.

    `script` is run on it, perhaps twice, when all else is ready. Raises `BrokerRefused` or `BrokerUnavailable`.
    """
    return connect_with(_plain, place, script)


def connect_with(make: Callable[[Path], C], place: Place, script: str) -> C:
    """The same with a connection that `make` makes."""
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        oldest = ".".join(map(str, OLDEST_SQLITE))
        raise BrokerRefused(f"this Python has SQLite {sqlite3.sqlite_version}; jobq needs {oldest} or newer")
    with _opening:
        _create(place.path)
        try:
            db = make(place.path)
        except sqlite3.Error as exc:
            raise translate(exc, place.path, place.timeout) from exc
    try:
        patiently(lambda: _prepare(db, place, script), place.timeout)
    except BaseException as exc:
        db.close()
        if isinstance(exc, sqlite3.Error):
            raise translate(exc, place.path, place.timeout) from exc
        raise
    return db


def _plain(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=0, isolation_level=None, cached_statements=256)


def patiently(attempt: Callable[[], None], timeout: float, latest: Callable[[], float] = lambda: math.inf) -> None:
    """Repeat `attempt` while others hold a lock, for `timeout` seconds, but not after the monotonic time `latest()`.

    SQLite's own waiting backs off to 100 ms, so that one busy writer can starve all others for seconds.
    """
    end = math.inf
    while True:
        try:
            return attempt()
        except sqlite3.OperationalError as exc:
            now = time.monotonic()
            end = min(end, now + timeout)
            if not is_busy(exc) or now >= min(end, latest()):
                raise
        time.sleep(_RETRY)


def _create(path: Path) -> None:
    kind = network_kind(path)
    if kind is not None:
        raise BrokerRefused(
            f"{path} is on a network file system ({kind}), where SQLite loses data. "
            "Put the file on a local disk, or use redis:// to share jobs between machines"
        )
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except FileExistsError:
        if path.is_file() and path.stat().st_mode & stat.S_IROTH:
            _log.warning("%s can be read by every user of this machine; chmod 600 it", path)
    except OSError as exc:
        raise BrokerRefused(f"cannot create {path} ({exc.strerror}). Its directory must exist and be writable") from exc


def _prepare(db: sqlite3.Connection, place: Place, script: str) -> None:
    _check(db, place.path)
    if db.execute("PRAGMA journal_mode = WAL").fetchone() != ("wal",):
        raise BrokerRefused(f"SQLite cannot keep a write-ahead log beside {place.path}; use a local disk")
    for pragma in _PRAGMAS:
        db.execute(pragma)
    # Full is done by whoever needs it (_log.py).
    db.execute(f"PRAGMA synchronous = {'off' if place.synchronous == 'off' else 'normal'}")
    db.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
    if sys.version_info >= (3, 12):
        db.setconfig(sqlite3.SQLITE_DBCONFIG_DEFENSIVE)
    if _version(db) < SCHEMA_VERSION:
        _install(db)
    db.executescript(script)


def _check(db: sqlite3.Connection, path: Path) -> None:
    application, version, objects = db.execute(_IDENTITY).fetchone()
    if application != APPLICATION_ID and (application or objects):
        raise BrokerRefused(f"{path} is the database of another application; name another file")
    if version > SCHEMA_VERSION:
        raise BrokerRefused(
            f"{path} was written by a newer jobq (schema {version}, this one knows {SCHEMA_VERSION}). Upgrade jobq"
        )


def _version(db: sqlite3.Connection) -> int:
    version: int = db.execute("PRAGMA user_version").fetchone()[0]
    return version


def _install(db: sqlite3.Connection) -> None:
    db.execute("BEGIN IMMEDIATE")
    try:
        if _version(db) < SCHEMA_VERSION:  # nobody was faster
            for statement in _statements(_SCHEMA.read_text(encoding="utf-8")):
                db.execute(statement)
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        db.execute("COMMIT")
    finally:
        if db.in_transaction:
            db.execute("ROLLBACK")


def _statements(script: str) -> list[str]:
    # Not `executescript`, which would commit.
    statements, piece = list[str](), ""
    for line in script.splitlines():
        piece += line + "\n"
        if sqlite3.complete_statement(piece):
            statements.append(piece)
            piece = ""
    return statements
