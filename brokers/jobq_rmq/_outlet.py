"""A channel that jobs are published on, written to directly."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, cast

from aiormq import Channel

from jobq_rmq import _frames
from jobq_rmq._confirms import Confirms, Sending
from jobq_rmq._declare import BROKEN, is_closed
from jobq_rmq._messages import Message
from jobq_rmq._wire import Wire


class Outlet:
    """Publishes without waiting, and learns what became of it. The library's own way costs ten times as much.

    It also can be cancelled, by a timeout too, and if that meets the return of the message, the channel's reader ends
    and all other publishes hang.
    """

    def __init__(self, wire: Wire, channel: Channel) -> None:
        self._wire = wire
        self._channel = channel
        self._confirms = wire.intakes[channel.number] = Confirms()
        cast("Any", channel).closing.add_done_callback(self._closed)

    @property
    def is_closed(self) -> bool:
        """Whether nothing can be published here any more."""
        return is_closed(self._channel)

    @property
    def is_open(self) -> bool:
        """Whether a publish would be on its way at once."""
        return not self.is_closed and self._wire.takes_publishes

    async def room(self) -> None:
        """Return when not too much waits for the network. Raises `ConnectionError` if it is lost."""
        await self._wire.room()

    def send(self, messages: Sequence[Message]) -> Sending:
        """Write all of them in one go. It must not be closed; no moment may pass between finding that out and this."""
        number, largest = self._channel.number, self._channel.max_content_size
        frames = b"".join(_frames.publish(number, message, largest) for message in messages)
        sending = self._confirms.expect(messages)
        self._wire.write(frames)
        return sending

    async def retire(self, seconds: float) -> None:
        """Close the channel when the server has confirmed what was sent, or after `seconds`."""
        await self._confirms.settled(seconds)
        with suppress(*BROKEN):
            await self._channel.close(timeout=seconds)

    def _closed(self, closing: "asyncio.Future[object]") -> None:
        error = None if closing.cancelled() else closing.exception()
        self._confirms.end(error or ConnectionError("the connection was lost"))
