"""Delays by a ladder of queues: arithmetic and names, no I/O.

A level is a topic exchange and a queue. All messages of a level's queue wait equally long, so that none has to wait
behind another; then they fall to the next lower level, which their routing key sends through its queue, or past it:
the key is the delay in binary, and the destination.
"""

import math
from typing import Final

UNIT: Final = 0.125
"""Seconds; delays are rounded up to it."""
LEVELS: Final = 31
LONGEST: Final = ((1 << LEVELS) - 1) * UNIT
"""Seconds; about eight and a half years."""
_COARSE_FROM: Final = 60.0
"""Seconds from which a delay is rounded up to whole seconds: that saves up to three levels."""
LONGEST_OF_PLUGIN: Final = (1 << 32) - 1
"""Milliseconds; what is longer, the plug-in delivers at once."""


def ticks(delay: float) -> int:
    """`delay` (seconds, above 0) in units, rounded up.

    The longest that there is for what is longer: whoever receives that too early sends it through once more.
    """
    if delay >= LONGEST:
        return (1 << LEVELS) - 1
    if delay >= _COARSE_FROM:
        return min(math.ceil(delay) * round(1 / UNIT), (1 << LEVELS) - 1)
    return max(1, math.ceil(delay / UNIT - 1e-9))


def by_plugin(delay: float) -> int | None:
    """`delay` (seconds, above 0) in milliseconds, rounded up; None if the plug-in cannot hold a message for so long."""
    if delay * 1000 > LONGEST_OF_PLUGIN:
        return None
    return max(1, math.ceil(delay * 1000 - 1e-6))


def top_level(units: int) -> int:
    """The level to which a message with such a delay is published."""
    return units.bit_length() - 1


def key(units: int, destination: str) -> str:
    """Its routing key."""
    return ".".join([*format(units, f"0{LEVELS}b"), destination])


def through(level: int) -> str:
    """The binding of a level's queue: the delay has this bit."""
    return _pattern(level, "1")


def past(level: int) -> str:
    """The binding of the exchange below: the delay does not have this bit."""
    return _pattern(level, "0")


def arrival(destination: str) -> str:
    """The binding of the queue where the delay ends: as many words as there are levels, and no more.

    With `#` in place of them, `a` would also get what is for `b.a`.
    """
    return ".".join([*"*" * LEVELS, destination])


def home(word: str, destination: str) -> str:
    """A routing key with a word of one's own in front, which ends there from any exchange above the last."""
    return ".".join([word, *"0" * (LEVELS - 1), destination])


def milliseconds(level: int) -> int:
    """How long a level keeps a message."""
    return round(UNIT * 1000) << level


def _pattern(level: int, bit: str) -> str:
    return ".".join([*"*" * (LEVELS - 1 - level), bit, "#"])
