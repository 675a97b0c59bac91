"""What has arrived and was not claimed yet: state, no I/O."""

from collections import deque
from dataclasses import dataclass, field

from jobq.model import SUSPECT_AFTER
from jobq_rmq._receiver import Arrival, Receiver
from jobq_rmq._topology import BANDS, Band, band_of


def _no_arrivals() -> deque[Arrival]:
    return deque()


def _empty_bands() -> dict[Band, deque[Arrival]]:
    return {band: deque() for band in BANDS}


@dataclass(slots=True)
class Inbox:
    """What has arrived from one queue of jobs, the first band first."""

    bands: dict[Band, deque[Arrival]] = field(default_factory=_empty_bands)
    suspects: deque[Arrival] = field(default_factory=_no_arrivals)

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits, not even a suspect."""
        return not self.suspects and not any(self.bands.values())

    def add(self, arrival: Arrival) -> None:
        """Make it the last of its band, or of the suspects."""
        self._line(arrival).append(arrival)

    def add_first(self, arrival: Arrival) -> None:
        """Make it the first of its band, or of the suspects."""
        self._line(arrival).appendleft(arrival)

    def pop(self) -> Arrival | None:
        """The next one, which is no suspect."""
        return next((waiting.popleft() for waiting in self.bands.values() if waiting), None)

    def drop(self, receiver: Receiver) -> list[Arrival]:
        """Forget what came from a receiver that can no longer settle it, and return that: it comes again."""
        dropped = [arrival for arrival in self.all() if arrival.receiver is receiver]
        for waiting in (*self.bands.values(), self.suspects):
            kept = [arrival for arrival in waiting if arrival.receiver is not receiver]
            waiting.clear()
            waiting.extend(kept)
        return dropped

    def all(self) -> list[Arrival]:
        """Suspects, too."""
        return [arrival for waiting in (*self.bands.values(), self.suspects) for arrival in waiting]

    def _line(self, arrival: Arrival) -> deque[Arrival]:
        stored = arrival.stored
        return self.suspects if len(stored.crashes) >= SUSPECT_AFTER else self.bands[band_of(stored.priority)]
