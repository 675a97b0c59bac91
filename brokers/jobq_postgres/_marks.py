"""Where the claims of one worker may begin, for as long as dead rows cannot be cleared away.

A snapshot that is held for long, by a backup or a forgotten transaction, keeps every row that was claimed since, and
each look for ready jobs passes all of them. `pick_1` in functions.sql says what a mark is. They are used only while
looking is slow. What they hide, a job whose transaction committed later than others that began after it, is found when
they are forgotten.
"""

from collections import deque
from collections.abc import Sequence
from typing import Final

from jobq.clock import Clock

_LANES: Final = 6
_SLOW: Final = 0.0003
"""Seconds for which a look may take: about ten times what it takes otherwise."""
_STREAK: Final = 3
"""So many slow ones in a row are no accident."""
_KEEP: Final = 5.0
"""Seconds after which marks are forgotten, if a look without them takes less than a hundredth of it."""
_LONGEST: Final = 60.0
_SETTLED: Final = 1.0
"""Seconds after which nearly every transaction has committed the jobs for which it has drawn places."""


class Known:
    """The marks that were found since all were forgotten."""

    def __init__(self, until: float) -> None:
        self.until = until
        self._of: dict[str, Sequence[int]] = {}
        self._scheduled = 0

    def flat(self, queues: Sequence[str]) -> list[int]:
        """As the functions take and give them."""
        return [*(mark for queue in queues for mark in self._of.get(queue, (0,) * _LANES)), self._scheduled]

    def rise(self, queues: Sequence[str], marks: Sequence[int]) -> None:
        """Take what a claim has answered; others may have been under way with it."""
        highest = [max(pair) for pair in zip(marks, self.flat(queues), strict=True)]
        self._scheduled = highest[-1]
        for index, queue in enumerate(queues):
            self._of[queue] = highest[index * _LANES : (index + 1) * _LANES]


class Marks:
    """Decides whether to use marks, and remembers them."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._known: Known | None = None
        self._slow = 0
        self._drawn = deque[tuple[float, int]]()
        """When which place was the next one to be drawn."""

    def known(self) -> Known | None:
        """What the next call is to use, or None: it looks at everything."""
        if self._known is not None and self._known.until <= self._clock.monotonic():
            self._known = None
        return self._known

    def ceiling(self) -> int:
        """No mark may be above it: for what is, transactions may still be under way."""
        settled = self._clock.monotonic() - _SETTLED
        return next((place for at, place in reversed(self._drawn) if at <= settled), 0)

    def learn(
        self,
        used: Known | None,
        queues: Sequence[str],
        looked: float | None,
        marks: Sequence[int] | None,
        place: int | None,
    ) -> None:
        """Take the end of a turn's answer, in which `used` was used."""
        if place is not None:
            self._note(place)
        if used is not self._known:
            return  # they were forgotten meanwhile, or come from before
        if used is not None and marks is not None:
            used.rise(queues, marks)
        elif looked is not None:
            self._judge(looked)

    def _judge(self, looked: float) -> None:
        self._slow = self._slow + 1 if looked > _SLOW else 0
        if self._slow >= _STREAK:
            self._known = Known(self._clock.monotonic() + min(max(_KEEP, 100 * looked), _LONGEST))

    def _note(self, place: int) -> None:
        now = self._clock.monotonic()
        if not self._drawn or self._drawn[-1][0] <= now - _SETTLED / 2:
            self._drawn.append((now, place))
        while len(self._drawn) > 1 and self._drawn[1][0] <= now - _SETTLED:
            self._drawn.popleft()
