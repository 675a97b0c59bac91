"""What a turn has found, read in one step and decoded later, in the caller's thread."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Final

import msgspec

from jobq.codec import decode_delivery
from jobq.model import Delivery, Token, Turn
from jobq_sqlite._sql import Tx

_FETCH: Final = """
SELECT CAST(json_group_array(json_array(
    epoch, id, queue, length(envelope), coalesce(length(trail), -1), coalesce(length(crashes), -1)
)) AS BLOB), CAST(coalesce(group_concat(CAST(envelope AS TEXT), ''), '') AS BLOB),
CAST(coalesce(group_concat(CAST(trail AS TEXT), ''), '') AS BLOB),
CAST(coalesce(group_concat(CAST(crashes AS TEXT), ''), '') AS BLOB),
(SELECT due FROM jobs INDEXED BY scheduled WHERE due IS NOT NULL ORDER BY due LIMIT 1)
FROM (
    SELECT epoch, id, queue, CAST(envelope AS BLOB) AS envelope, CAST(trail AS BLOB) AS trail,
        CAST(crashes AS BLOB) AS crashes
    FROM jobs INDEXED BY held WHERE worker = (SELECT n FROM workers WHERE id = ?) AND epoch > ? ORDER BY epoch
)
"""

_Pieces = tuple[bytes, bytes, bytes, bytes]
_heads = msgspec.json.Decoder(list[tuple[int, str, str, int, int, int]])


@dataclass(slots=True)
class Found:
    """The answer before it is decoded."""

    refused: Sequence[Token] = ()
    next_due: float | None = None
    leased: bool = True
    pieces: _Pieces | None = None

    def fetch(self, tx: Tx, worker: str, received: int) -> None:
        """Read what `worker` holds and has not received, and when the next job is due."""
        *pieces, due = tx.ask(_FETCH, worker, received)
        heads, envelopes, trails, crashes = (piece if isinstance(piece, bytes) else b"" for piece in pieces)
        self.pieces = heads, envelopes, trails, crashes
        self.next_due = max(0.0, due - tx.now) if isinstance(due, int | float) else None

    def turn(self) -> Turn:
        """The answer."""
        deliveries = tuple(_deliveries(*self.pieces)) if self.pieces else ()
        return Turn(deliveries, self.refused, self.next_due, self.leased)


def _deliveries(heads: bytes, envelopes: bytes, trails: bytes, crashes: bytes) -> Iterator[Delivery]:
    read_envelope, read_trail, read_crashes = (BytesIO(piece).read for piece in (envelopes, trails, crashes))
    # An id that is not UTF-8 must not hide the others.
    for epoch, name, queue, *sizes in _heads.decode(heads.decode(errors="replace")):
        yield decode_delivery(
            name,
            read_envelope(sizes[0]),
            epoch=epoch,
            queue=queue,
            trail=read_trail(sizes[1]) if sizes[1] >= 0 else None,
            crashes=read_crashes(sizes[2]) if sizes[2] >= 0 else None,
        )
