"""What a server must be, looked at once when connecting."""

import logging
from typing import Final

from jobq.errors import BrokerRefused, BrokerUnavailable

_log = logging.getLogger("jobq.redis")
_OLDEST: Final = (6, 2)
_told: set[str] = set()


def check(info: bytes, url: str) -> None:
    """Raise for a server that cannot serve, and log what puts jobs at risk. `info` is the reply to INFO."""
    facts = dict(line.split(":", 1) for line in info.decode("utf-8", "replace").split("\r\n") if ":" in line)
    version = facts.get("redis_version", "")
    if version and _numbers(version) < _OLDEST:
        raise BrokerRefused(f"Redis at {url} is version {version}; jobq needs 6.2 or later")
    if facts.get("role", "master") != "master":
        raise BrokerUnavailable(f"Redis at {url} is a replica, which cannot be written to; connect to its master")
    policy = facts.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        _tell(
            logging.WARNING,
            f"Redis at {url} has maxmemory-policy {policy}: when memory runs out it deletes jobs that it has "
            "acknowledged. Set it to noeviction.",
        )
    if facts.get("aof_enabled", "1") == "0":
        _tell(
            logging.INFO,
            f"Redis at {url} runs without an append-only file: jobs enqueued since its last snapshot are gone when it "
            "crashes. For durable jobs set appendonly yes.",
        )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())


def _tell(level: int, text: str) -> None:
    if text not in _told:
        _told.add(text)
        _log.log(level, text)
