"""UUIDv7 (RFC 9562): sorts by time, and grows within this process even inside one millisecond."""

import threading
import time
from random import getrandbits  # reseeded after a fork; ids are names, not secrets

_lock = threading.Lock()
_last = 0


def new_id() -> str:
    """A new job id, greater than every earlier one of this process."""
    global _last  # noqa: PLW0603 - monotonic across all callers
    value = (time.time_ns() // 1_000_000) << 74 | getrandbits(74)
    with _lock:
        # counting on from the last one keeps the order when the clock stands still or steps back
        _last = value = value if value > _last else _last + 1
    # bits, from the top: 48 time, 4 version, 12 random, 2 variant, 62 random
    text = f"{value >> 62:015x}{value & 0x3FFFFFFFFFFFFFFF | 0x8000000000000000:016x}"
    return f"{text[:8]}-{text[8:12]}-7{text[12:15]}-{text[15:19]}-{text[19:]}"
