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

_Head = tuple[int, str, str, int, int, int]
_Pieces = tuple[bytes, bytes, bytes, bytes]
_heads = msgspec.json.Decoder(list[_Head])


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
        heads, *pieces = self.pieces or (b"[]",)
        # An id that is not UTF-8 must not hide the others.
        found = _heads.decode(heads.decode(errors="replace"))
        if not found:
            return Turn((), self.refused, self.next_due, self.leased)
        deliveries = Deliveries(len(found), partial(_deliveries, found, *pieces))
        return Turn(deliveries, self.refused, self.next_due, self.leased, resume=found[-1][0])


def _deliveries(heads: Iterable[_Head], *pieces: bytes) -> list[Delivery]:
    read_envelope, read_trail, read_crashes = (BytesIO(piece).read for piece in pieces)
    return [
        decode_delivery(
            name,
            read_envelope(size),
            epoch=epoch,
            queue=queue,
            trail=read_trail(trail) if trail >= 0 else None,
            crashes=read_crashes(crashes) if crashes >= 0 else None,
        )
        for epoch, name, queue, size, trail, crashes in heads
    ]
