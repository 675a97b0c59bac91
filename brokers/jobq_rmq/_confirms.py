"""What a server says about the messages that were sent on a channel: state, no I/O."""

import asyncio
import struct
from collections.abc import Sequence
from itertools import takewhile
from typing import Final, Literal

from jobq_rmq import _properties
from jobq_rmq._frames import BODY, HEADER, METHOD
from jobq_rmq._messages import Message

Fate = Literal["stored", "refused", "returned", "unknown"]

_ACK: Final = struct.pack(">HH", 60, 80)
_NACK: Final = struct.pack(">HH", 60, 120)
_RETURN: Final = struct.pack(">HH", 60, 50)
_TAG: Final = struct.Struct(">QB")
_SIZES: Final = struct.Struct(">HHQ")


class Sending:
    """Messages that were written in one go, and what became of each."""

    def __init__(self, messages: Sequence[Message]) -> None:
        self.ids = [message.id for message in messages]
        self.fates: list[Fate] = ["unknown"] * len(messages)
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Ends when all is known that will ever be."""
        self.reason: BaseException | None = None
        """Why that is not more."""
        self._left = len(messages)

    def confirm(self, index: int, fate: Fate) -> None:
        """The server has spoken. What it has returned it confirms, too."""
        if self.fates[index] != "returned":
            self.fates[index] = fate
        self._left -= 1
        if not self._left:
            self.end(None)

    def end(self, reason: BaseException | None) -> None:
        """Nothing more will be known."""
        if not self.done.done():
            self.reason = reason
            self.done.set_result(None)


class Confirms:
    """Takes the server's words about one channel's publishes out of what arrives there (see `Intake`)."""

    def __init__(self) -> None:
        self._pending: dict[int, tuple[Sending, int]] = {}
        """By tag, in the order of tags."""
        self._tag = 0

    def expect(self, messages: Sequence[Message]) -> Sending:
        """These are written next."""
        sending = Sending(messages)
        for index in range(len(messages)):
            self._tag += 1
            self._pending[self._tag] = sending, index
        return sending

    async def settled(self, seconds: float) -> None:
        """Return when the server has spoken about all that was sent, or after `seconds`."""
        if waiting := {sending.done for sending, _ in self._pending.values()}:
            await asyncio.wait(waiting, timeout=seconds)

    def end(self, reason: BaseException | None) -> None:
        """The channel is closed."""
        pending, self._pending = self._pending, {}
        for sending, _ in pending.values():
            sending.end(reason)

    def take(self, kind: int, payload: bytes) -> bool:
        """Whether this frame was about a publish."""
        if kind == METHOD:
            return self._said(payload)
        if kind == HEADER:
            self._returned(_properties.read(payload[_SIZES.size :]).message_id)
        return kind in {HEADER, BODY}  # of what is returned; there is no other content here

    def _said(self, payload: bytes) -> bool:
        if payload.startswith((_ACK, _NACK)):
            tag, multiple = _TAG.unpack_from(payload, len(_ACK))
            self._confirm(tag, "stored" if payload.startswith(_ACK) else "refused", multiple=bool(multiple & 1))
            return True
        return payload.startswith(_RETURN)  # its header comes next, and says which it is

    def _confirm(self, last: int, fate: Fate, *, multiple: bool) -> None:
        tags = list(takewhile(lambda tag: tag <= last, self._pending)) if multiple else [last]
        for tag in tags:
            sending, index = self._pending.pop(tag, (None, 0))
            if sending is not None:
                sending.confirm(index, fate)

    def _returned(self, message: str) -> None:
        for sending, index in self._pending.values():
            if sending.ids[index] == message:
                sending.fates[index] = "returned"
                return
