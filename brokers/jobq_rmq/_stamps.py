"""Which enqueues of this process's clients are known to be stored: state, no I/O."""

from collections import OrderedDict
from threading import Lock
from typing import Final

from jobq.model import Stamp

_MOST_CLIENTS: Final = 1000


class Stamps:
    """The last stamp of each client, and which of its jobs are stored. For any thread."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._last: OrderedDict[str, tuple[int, set[int]]] = OrderedDict()

    def stored(self, stamp: Stamp) -> set[int] | None:
        """The indexes of those of its jobs that are stored, to be added to; None if it is an older stamp."""
        with self._lock:
            number, indexes = self._last.get(stamp.client, (stamp.number, set[int]()))
            if stamp.number < number:
                return None
            if stamp.number > number:
                indexes = set[int]()
            self._last[stamp.client] = stamp.number, indexes
            self._last.move_to_end(stamp.client)
            while len(self._last) > _MOST_CLIENTS:
                self._last.popitem(last=False)
            return indexes
