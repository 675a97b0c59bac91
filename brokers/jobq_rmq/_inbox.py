"""What has arrived and was not claimed yet: state, no I/O."""

from collections import deque
from collections.abc import Callable, Iterable, KeysView
from dataclasses import dataclass, field

from jobq_rmq._receiver import Arrival
from jobq_rmq._topology import BANDS, Band, band_of


def _empty_bands() -> dict[Band, deque[Arrival]]:
    return {band: deque() for band in BANDS}


@dataclass(slots=True)
class Inbox:
    """What has arrived from one queue of jobs, the first band first."""

    bands: dict[Band, deque[Arrival]] = field(default_factory=_empty_bands)

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits, not even a suspect."""
        return not any(self.bands.values())

    @property
    def suspects(self) -> deque[Arrival]:
        """Those that are run one at a time."""
        return self.bands["suspects"]

    def add(self, arrival: Arrival) -> None:
        """Make it the last of its band."""
        self._line(arrival).append(arrival)

    def add_first(self, arrival: Arrival) -> None:
        """Make it the first of its band."""
        self._line(arrival).appendleft(arrival)

    def pop(self) -> Arrival | None:
        """The next one, which is no suspect."""
        return next((line.popleft() for band, line in self.bands.items() if line and band != "suspects"), None)

    def take_all(self, wanted: Callable[[Arrival], bool]) -> list[Arrival]:
        """All that are wanted."""
        taken = [arrival for arrival in self.all() if wanted(arrival)]
        for waiting in self.bands.values():
            kept = [arrival for arrival in waiting if not wanted(arrival)]
            waiting.clear()
            waiting.extend(kept)
        return taken

    def all(self) -> list[Arrival]:
        """Suspects, too."""
        return [arrival for waiting in self.bands.values() for arrival in waiting]

    def _line(self, arrival: Arrival) -> deque[Arrival]:
        stored = arrival.stored
        return self.bands[band_of(stored.priority, len(stored.crashes))]


class Inboxes:
    """An inbox for each queue of jobs that is consumed. Whoever calls has the lock of the process."""

    def __init__(self) -> None:
        self._inboxes: dict[str, Inbox] = {}

    @property
    def queues(self) -> KeysView[str]:
        """The queues of jobs that are consumed."""
        return self._inboxes.keys()

    def open(self, queues: Iterable[str]) -> None:
        """Consume these as well."""
        for queue in queues:
            self._inboxes.setdefault(queue, Inbox())

    def close(self) -> list[Arrival]:
        """Consume nothing any more. Returns what nobody has taken."""
        inboxes, self._inboxes = self._inboxes, {}
        return [arrival for inbox in inboxes.values() for arrival in inbox.all()]

    def add(self, arrival: Arrival) -> bool:
        """Make it the last of its line; False if its queue is no longer consumed."""
        inbox = self._inboxes.get(arrival.stored.queue)
        if inbox is not None:
            inbox.add(arrival)
        return inbox is not None

    def add_first(self, arrival: Arrival) -> bool:
        """Make it the first of its line; False if its queue is no longer consumed."""
        inbox = self._inboxes.get(arrival.stored.queue)
        if inbox is not None:
            inbox.add_first(arrival)
        return inbox is not None

    def take(self, queue: str) -> Arrival | None:
        """The next job of a queue that is no suspect."""
        inbox = self._inboxes.get(queue)
        return None if inbox is None else inbox.pop()

    def take_suspect(self, queue: str) -> Arrival | None:
        """The next suspect of a queue."""
        inbox = self._inboxes.get(queue)
        return inbox.suspects.popleft() if inbox is not None and inbox.suspects else None

    def take_all(self, wanted: Callable[[Arrival], bool]) -> list[Arrival]:
        """All that are wanted, of all queues."""
        return [arrival for inbox in self._inboxes.values() for arrival in inbox.take_all(wanted)]

    def has_any(self, queues: Iterable[str]) -> bool:
        """Whether a job of these queues has arrived."""
        return any(not self._inboxes[queue].is_empty for queue in queues if queue in self._inboxes)
