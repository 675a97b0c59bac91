"""A channel's incoming frames, of which deliveries are taken out at once.

The client library puts each frame through a queue and makes a task for each message: half of all that receiving costs.
"""

from collections.abc import Awaitable, Callable
from typing import Any, cast

from aiormq import Channel
from pamqp.body import ContentBody
from pamqp.commands import Basic
from pamqp.header import ContentHeader

OnDelivery = Callable[[Basic.Deliver, ContentHeader, bytes], None]


class Intake:
    """Calls `on_delivery` for each message, in the reader of the connection; all other frames go their usual way."""

    def __init__(self, channel: Channel, on_delivery: OnDelivery) -> None:
        frames = cast("Any", channel).frames
        self._pass_on: Callable[[object], Awaitable[None]] = frames.put
        self._on_delivery = on_delivery
        self._delivery: Basic.Deliver | None = None
        self._header = ContentHeader()
        self._parts: list[bytes] = []
        self._missing = 0
        frames.put = self._put

    async def _put(self, item: tuple[int, object]) -> None:
        _, frame = item
        if isinstance(frame, Basic.Deliver):
            self._delivery = frame
        elif self._delivery is None:
            await self._pass_on(item)
        elif isinstance(frame, ContentHeader):
            self._header, self._parts, self._missing = frame, [], frame.body_size
            self._end_if_complete(self._delivery)
        elif isinstance(frame, ContentBody):
            self._parts.append(frame.value)
            self._missing -= len(frame.value)
            self._end_if_complete(self._delivery)

    def _end_if_complete(self, delivery: Basic.Deliver) -> None:
        if self._missing <= 0:
            self._delivery = None
            self._on_delivery(delivery, self._header, b"".join(self._parts))
