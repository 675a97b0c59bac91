"""UUIDv7 (RFC 9562): sorts by time, and grows within this process even inside one millisecond."""

import os
import threading
import time

_lock = threading.Lock()
_last = 0


def new_id() -> str:
    """A new job id, greater than every earlier one of this process."""
    global _last  # noqa: PLW0603 - monotonic across all callers
    stamp = (time.time_ns() // 1_000_000) << 74 | int.from_bytes(os.urandom(9)) << 2
    with _lock:
        # counting on from the last one keeps the order when the clock stands still or steps back
        _last = stamp if stamp > _last else _last + 4
        value = _last
    # bits, from the top: 48 time, 4 version, 12 random, 2 variant, 62 random
    time_part, high, low = value >> 74, value >> 62 & 0xFFF, value & (1 << 62) - 1
    text = f"{time_part << 80 | 0x7 << 76 | high << 64 | 0b10 << 62 | low:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
