"""SQLite's errors in the framework's words."""

import sqlite3
from pathlib import Path
from typing import Final

from jobq.errors import BrokerError, BrokerFull, BrokerRefused, BrokerUnavailable

_PRIMARY: Final = 0xFF
_UNREADABLE: Final = {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_FORMAT}
_FORBIDDEN: Final = {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH, sqlite3.SQLITE_CANTOPEN}


def primary_code(exc: sqlite3.Error) -> int:
    """SQLite's result code without its details; 0 if there is none."""
    code: int = getattr(exc, "sqlite_errorcode", 0)
    return code & _PRIMARY


def is_busy(exc: sqlite3.Error) -> bool:
    """Whether somebody else's lock is in the way."""
    return primary_code(exc) in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


def translate(exc: sqlite3.Error, path: Path, timeout: float) -> BrokerError:
    """The exception to raise for `exc`; what was asked did not happen."""
    code = primary_code(exc)
    if is_busy(exc):
        return BrokerUnavailable(
            f"{path} is locked: another process has been writing to it for {timeout:g} s. "
            "Look for a shell, a backup or a long transaction that holds it"
        )
    if code == sqlite3.SQLITE_FULL:
        return BrokerFull(f"no room for {path}: the disk or the quota is full ({exc})")
    if code in _UNREADABLE:
        return BrokerRefused(f"{path} is not a database, or it is damaged ({exc}). Move it away, or name another file")
    if code in _FORBIDDEN:
        return BrokerRefused(f"cannot use {path} ({exc}). The file and its directory must be writable by this user")
    return BrokerUnavailable(f"SQLite failed on {path}: {exc}")
