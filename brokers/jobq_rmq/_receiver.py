"""One queue's deliveries, on a channel of their own, and what is said to the server about them."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from aiormq import Channel
from aiormq.abc import DeliveredMessage
from pamqp.base import Frame
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from jobq_rmq._declare import BROKEN, write
from jobq_rmq._intake import Intake
from jobq_rmq._messages import Stored, stored


@dataclass(slots=True, eq=False)
class Arrival:
    """A message that this process has received and that is not settled yet."""

    stored: Stored
    message: str
    """The message's id: the same when it is delivered again."""
    receiver: "Receiver"
    tag: int
    redelivered: bool


class Receiver:
    """Receives from one queue and settles what came from it."""

    def __init__(self, channel: Channel, queue: str, priority: int, on_arrival: Callable[[Arrival], None]) -> None:
        self._channel = channel
        self._queue = queue
        self._priority = priority
        self._on_arrival = on_arrival
        self._consumer = ""
        self._lowest = 1
        """All below it are settled."""
        self._settled = set[int]()
        self._acked: list[int] = []
        """Not said yet."""

    @property
    def is_closed(self) -> bool:
        """Whether what was received can no longer be settled: it comes again, here or elsewhere."""
        return self._channel.is_closed

    async def start(self, name: str, prefetch: int) -> None:
        """Have at most `prefetch` unsettled messages of the queue `name` delivered. Raises the library's exceptions."""
        await self._channel.basic_qos(prefetch_count=prefetch)
        Intake(self._channel, self._receive)
        answer = await self._channel.basic_consume(name, _never)
        self._consumer = answer.consumer_tag or ""

    async def stop(self) -> None:
        """Have nothing more delivered; what was can still be settled."""
        with suppress(*BROKEN):
            await self._channel.basic_cancel(self._consumer)

    async def fence(self, name: str) -> None:
        """Return when all has arrived that was in the queue `name` before, as far as the prefetch allows."""
        with suppress(*BROKEN):
            await self._channel.queue_declare(name, passive=True)

    def ack(self, arrival: Arrival) -> None:
        """Have the server forget it, with the next `flush`."""
        self._acked.append(arrival.tag)

    async def flush(self) -> None:
        """Say what was acknowledged: all up to the first unsettled message at once, the others one by one."""
        if self._acked and not self.is_closed:
            acked, self._acked = self._acked, []
            await self._write(self._acks(acked))

    async def nack(self, arrivals: Sequence[Arrival]) -> None:
        """Have them delivered again, here or elsewhere."""
        if arrivals and not self.is_closed:
            self._settled.update(arrival.tag for arrival in arrivals)
            await self._write([Basic.Nack(delivery_tag=arrival.tag, requeue=True) for arrival in arrivals])

    def _acks(self, acked: list[int]) -> list[Frame]:
        self._settled.update(acked)
        while self._lowest in self._settled:
            self._settled.remove(self._lowest)
            self._lowest += 1
        below = [tag for tag in acked if tag < self._lowest]
        frames: list[Frame] = [Basic.Ack(delivery_tag=max(below), multiple=True)] if below else []
        return frames + [Basic.Ack(delivery_tag=tag) for tag in acked if tag >= self._lowest]

    async def _write(self, frames: Sequence[Frame]) -> None:
        with suppress(*BROKEN):
            await write(self._channel, frames)

    def _receive(self, delivery: Basic.Deliver, header: ContentHeader, body: bytes) -> None:
        properties = header.properties
        job = stored(properties, body, self._queue, self._priority)
        message, tag = properties.message_id or "", delivery.delivery_tag or 0
        self._on_arrival(Arrival(job, message, self, tag, bool(delivery.redelivered)))


async def _never(_: DeliveredMessage) -> None:
    """The library's own callback; the intake leaves it nothing."""
