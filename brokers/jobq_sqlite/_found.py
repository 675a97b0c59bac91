"""What a turn has found, read in one step and decoded later, in the caller's thread."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from typing import Final

import msgspec

from jobq.codec import Deliveries, decode_delivery
from jobq.model import Delivery, Token, Turn
from jobq_sqlite._sql import Tx

_FETCH: Final = """
SELECT CAST(json_group_array(json_array(epoch, id, queue, length(envelope))) AS BLOB),
CAST(coalesce(group_concat(CAST(envelope AS TEXT), ''), '') AS BLOB),
CAST(json_group_array(json_array(epoch, coalesce(length(trail), -1), coalesce(length(crashes), -1)))
    FILTER (WHERE trail IS NOT NULL OR crashes IS NOT NULL) AS BLOB),
CAST(coalesce(group_concat(CAST(trail AS TEXT), ''), '') AS BLOB),
CAST(coalesce(group_concat(CAST(crashes AS TEXT), ''), '') AS BLOB),
(SELECT due FROM jobs INDEXED BY scheduled WHERE due IS NOT NULL ORDER BY due LIMIT 1)
FROM (
    SELECT epoch, id, queue, CAST(envelope AS BLOB) AS envelope, CAST(trail AS BLOB) AS trail,
        CAST(crashes AS BLOB) AS crashes
    FROM jobs INDEXED BY held WHERE worker = (SELECT n FROM workers WHERE id = ?) AND epoch > ? ORDER BY epoch
)
"""

_Head = tuple[int, str, str, int]
_Past = tuple[int, int, int]
_Notes = tuple[bytes | None, bytes | None]
_NO_NOTES: Final = None, None
_heads = msgspec.json.Decoder(list[_Head])
_pasts = msgspec.json.Decoder(list[_Past])


@dataclass(slots=True)
class Found:
    """The answer before it is decoded."""

    refused: Sequence[Token] = ()
    next_due: float | None = None
    leased: bool = True
    pieces: Sequence[bytes] = (b"[]",)

    def fetch(self, tx: Tx, worker: str, received: int) -> None:
        """Read what `worker` holds and has not received, and when the next job is due."""
        *pieces, due = tx.ask(_FETCH, worker, received)
        self.pieces = [piece if isinstance(piece, bytes) else b"" for piece in pieces]
        self.next_due = max(0.0, due - tx.now) if isinstance(due, int | float) else None

    def turn(self) -> Turn:
        """The answer."""
        heads, *pieces = self.pieces
        # An id that is not UTF-8 must not hide the others.
        found = _heads.decode(heads.decode(errors="replace"))
        if not found:
            return Turn((), self.refused, self.next_due, self.leased)
        deliveries = Deliveries(len(found), partial(_deliveries, found, *pieces))
        return Turn(deliveries, self.refused, self.next_due, self.leased, resume=found[-1][0])


def _deliveries(heads: Iterable[_Head], envelopes: bytes, *past: bytes) -> list[Delivery]:
    read, notes = BytesIO(envelopes).read, _notes(*past)
    return [
        decode_delivery(name, read(size), epoch=epoch, queue=queue, trail=trail, crashes=crashes)
        for epoch, name, queue, size in heads
        for trail, crashes in (notes.get(epoch, _NO_NOTES),)
    ]


def _notes(pasts: bytes, trails: bytes, crashes: bytes) -> dict[int, _Notes]:
    """Of the jobs that have been run before, by epoch: trail and crashes."""
    read_trail, read_crashes = BytesIO(trails).read, BytesIO(crashes).read
    return {
        epoch: (read_trail(trail) if trail >= 0 else None, read_crashes(crash) if crash >= 0 else None)
        for epoch, trail, crash in _pasts.decode(pasts)
    }
