"""One queue's deliveries, on a channel of their own, and what is said to the server about them."""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, cast
from uuid import uuid4

from aiormq import Channel
from aiormq.abc import DeliveredMessage

from jobq_rmq import _frames, _properties
from jobq_rmq._declare import BROKEN, is_closed
from jobq_rmq._messages import Stored
from jobq_rmq._properties import Properties
from jobq_rmq._wire import Intake, Raw, Wire


@dataclass(slots=True, eq=False)
class Arrival:
    """A message that this process has received and that is not settled yet."""

    stored: Stored
    message: str
    """The message's id: the same when it is delivered again."""
    receiver: "Receiver"
    tag: int
    redelivered: bool
    """Whether somebody had it before who may have died with it."""
    since: float = field(default_factory=time.monotonic)
    """Since when the server waits for what becomes of it."""


Read = Callable[[Properties, bytes], Stored]


class Receiver:
    """Receives from one queue and settles what came from it.

    `on_end` is called when it receives nothing any more: the queue was deleted, the channel closed, or the server has
    taken back what it received.
    """

    def __init__(
        self,
        wire: Wire,
        channel: Channel,
        queue: str,
        read: Read,
        *,
        on_arrival: Callable[[Arrival], None],
        on_end: Callable[["Receiver"], None],
    ) -> None:
        self._wire = wire
        self._channel = channel
        self.queue = queue
        self._read = read
        self._on_arrival = on_arrival
        self._on_end = on_end
        self._consumer = ""
        self._highest = 0
        """The last tag received."""
        self._lowest = 1
        """All below it are settled."""
        self._settled = set[int]()
        self._acked: list[int] = []
        """Not said yet."""
        self._lost = False
        self._over = False

    @property
    def is_closed(self) -> bool:
        """Whether what was received can no longer be settled: it comes again, here or elsewhere."""
        return self._lost or is_closed(self._channel)

    @property
    def is_over(self) -> bool:
        """Whether it receives nothing any more."""
        return self._over or self.is_closed

    @property
    def is_settled(self) -> bool:
        """Whether the server has been told what became of all that was received."""
        return not self._acked and self._highest == self._lowest - 1 + len(self._settled)

    async def start(self, prefetch: int, seconds: float) -> None:
        """Have at most `prefetch` unsettled messages delivered. Raises the library's exceptions."""
        channel = self._channel
        await channel.basic_qos(prefetch_count=prefetch, timeout=seconds)
        channel.on_consumer_cancel_callbacks.add(self._ended)
        cast("Any", channel).closing.add_done_callback(self._ended)
        self._wire.intakes[channel.number] = Intake(self._receive)
        answer = await channel.basic_consume(self.queue, _never, timeout=seconds)
        self._consumer = answer.consumer_tag or ""

    async def stop(self, seconds: float) -> None:
        """Have nothing more delivered; what was can still be settled."""
        with suppress(*BROKEN):
            await self._channel.basic_cancel(self._consumer, timeout=seconds)

    async def close(self, seconds: float) -> None:
        """Close the channel: what is not settled is delivered again."""
        self._lost = True
        with suppress(*BROKEN):
            await self._channel.close(timeout=seconds)

    def lose(self) -> None:
        """The connection is lost, which the channel may be the last to know."""
        self._lost = True

    async def delete(self, seconds: float) -> None:
        """Delete the queue, unless there is something in it."""
        await self.stop(seconds)
        with suppress(*BROKEN):
            answer = await self._channel.queue_declare(self.queue, passive=True, timeout=seconds)
            if not answer.message_count:
                await self._channel.queue_delete(self.queue, timeout=seconds)

    async def fence(self, seconds: float) -> None:
        """Return when all has arrived that was in the queue before, as far as the prefetch allows.

        From RabbitMQ 4.3 on, the server wants a user for this who may configure the queue.
        """
        with suppress(*BROKEN):
            await self._channel.queue_declare(self.queue, passive=True, timeout=seconds)

    def ack(self, arrival: Arrival) -> None:
        """Have the server forget it, with the next `flush`."""
        self._acked.append(arrival.tag)

    def flush(self) -> None:
        """Say what was acknowledged: all up to the first unsettled message at once, the others one by one."""
        if self._acked and not self.is_closed:
            acked, self._acked = self._acked, []
            self._say(acked)

    def nack(self, arrivals: Sequence[Arrival]) -> None:
        """Have them delivered again, here or elsewhere."""
        self._refuse(arrivals, requeue=True)

    def reject(self, arrivals: Sequence[Arrival]) -> None:
        """Have them go where their queue's dead letters go."""
        self._refuse(arrivals, requeue=False)

    def _refuse(self, arrivals: Sequence[Arrival], *, requeue: bool) -> None:
        if arrivals and not self.is_closed:
            self._settled.update(arrival.tag for arrival in arrivals)
            number = self._channel.number
            self._wire.write(b"".join(_frames.nack(number, arrival.tag, requeue=requeue) for arrival in arrivals))

    def _say(self, acked: list[int]) -> None:
        self._settled.update(acked)
        while self._lowest in self._settled:
            self._settled.remove(self._lowest)
            self._lowest += 1
        number, below = self._channel.number, max((tag for tag in acked if tag < self._lowest), default=0)
        if below:
            self._wire.write(_frames.ack(number, below, multiple=True))
        for tag in acked:
            if tag >= self._lowest:
                self._wire.write(_frames.ack(number, tag, multiple=False))

    def _ended(self, _: object) -> None:
        self._over = True
        self._on_end(self)

    def _receive(self, raw: Raw) -> None:
        self._highest = raw.tag
        properties = _properties.read(raw.properties)
        job = self._read(properties, raw.body)
        message = properties.message_id or uuid4().hex  # two without an id are not the same message
        self._on_arrival(Arrival(job, message, self, raw.tag, raw.redelivered or job.held))


async def _never(_: DeliveredMessage) -> None:
    """The library's own callback; the wire leaves it nothing."""
