"""Looking into RabbitMQ from outside, without the broker's code: its queues, and a copy of what is published."""

import asyncio
import threading
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any, Final, TypeVar

import aiormq
from aiormq.abc import AbstractChannel, DeliveredMessage
from aiormq.exceptions import ChannelNotFoundEntity
from pamqp.commands import Basic

from jobq.codec import decode_crashes, decode_trail
from jobq.model import Crash, Trail
from tests.faults.ledger import Ledger, Oracle

T = TypeVar("T")

PATIENCE: Final = 20.0
TAP: Final = "tap"
BANDS: Final = ("high", "normal", "low", "suspects")
LEVELS: Final = 31
PER_DEATH: Final = 5
"""Jobs that a worker may be about to retry when it is killed."""


class RabbitStore:
    """A prefix, with jobs of the queue `default`.

    The server tells how many messages there are, and not which. So jobs are known by a tap, a queue of ours that gets
    a copy of each that is published; and those live that are owed an end according to the ledger. Without a tap,
    nothing is known of the dead.
    """

    def __init__(self, url: str, prefix: str, kind: str, directory: Path) -> None:
        self.oracle = Oracle(ordered=False, per_death=PER_DEATH)
        self._ledger = Ledger(directory / "ledger")
        self._url = url
        self._prefix = prefix
        self._kind = kind
        self._strange = set[str]()
        """What was put there by `put`."""
        self._headers: dict[str, dict[str, Any]] = {}
        """Those of the last message of each job."""
        self._dead: dict[str, Trail] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._tap: AbstractChannel | None = None

    def tap(self) -> None:
        """Note from now on what is published. What the broker needs has to be there."""
        self._tap = self._call(self._open_tap())

    def close(self) -> None:
        if self._tap is not None:
            self._call(self._tap.connection.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def live(self) -> set[str]:
        return (self.oracle.acked | self._strange) - self._ledger.ended() - self._dead.keys()

    def held(self) -> set[str]:
        """All that live, unless as many are ready."""
        live = self.live()
        return live if self._call(self._ready()) < len(live) else set()

    def dead(self) -> dict[str, Trail]:
        self._call(self._fence())
        return dict(self._dead)

    def crashes(self, job_id: str) -> tuple[Crash, ...]:
        self._call(self._fence())
        return decode_crashes(str(self._headers[job_id].get("jobq-crashes", "[]")).encode())

    def put(self, job_id: str, envelope: bytes) -> None:
        self._strange.add(job_id)
        self._call(self._publish(job_id, envelope))

    def check(self) -> None:
        """No worker may be there: what one holds is in no queue."""
        left = self._call(self._left())
        assert len(left) <= self.oracle.allowed, f"{len(left)} messages are left, of {sorted(set(left))[:5]}"

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(PATIENCE)

    async def _open_tap(self) -> AbstractChannel:
        channel = await (await aiormq.connect(self._url)).channel()
        await channel.queue_declare(self._name(TAP), exclusive=True)
        for band in BANDS:
            await channel.queue_bind(self._name(TAP), self._name("jobs"), f"{band}.default")
        await channel.queue_bind(self._name(TAP), self._name("dlx"), "default")
        await channel.basic_consume(self._name(TAP), self._note, no_ack=True)
        return channel

    async def _note(self, message: DeliveredMessage) -> None:
        job_id = message.header.properties.correlation_id or ""
        headers = dict(message.header.properties.headers or {})
        self._headers[job_id] = headers
        if message.exchange == self._name("dlx"):
            self._dead[job_id] = decode_trail(str(headers["jobq-trail"]).encode())

    async def _fence(self) -> None:
        """Return when everything is noted that was published before: the answer comes after it."""
        if self._tap is not None:
            await self._tap.queue_declare(self._name(TAP), passive=True)

    async def _publish(self, job_id: str, body: bytes) -> None:
        async with aiormq.connect(self._url) as connection:
            channel = await connection.channel()
            properties = Basic.Properties(delivery_mode=2, correlation_id=job_id)
            await channel.basic_publish(
                body, exchange=self._name("jobs"), routing_key="normal.default", properties=properties
            )

    async def _ready(self) -> int:
        async with aiormq.connect(self._url) as connection:
            channel = await connection.channel()
            queues = [await channel.queue_declare(self._name(f"{band}.default"), passive=True) for band in BANDS]
            return sum(queue.message_count or 0 for queue in queues)

    async def _left(self) -> list[str]:
        """The ids of all messages, which are taken out."""
        levels = [f"delay.{self._kind}.v1.{level:02}" for level in range(LEVELS)]
        async with aiormq.connect(self._url) as connection:
            names = ["unroutable", *(f"{band}.default" for band in BANDS), *levels]
            return [job_id for name in names async for job_id in self._taken(await connection.channel(), name)]

    async def _taken(self, channel: AbstractChannel, name: str) -> AsyncIterator[str]:
        try:
            queue = await channel.queue_declare(self._name(name), passive=True)
        except ChannelNotFoundEntity:
            return
        for _ in range(queue.message_count or 0):
            message = await channel.basic_get(self._name(name), no_ack=True)
            yield message.header.properties.correlation_id or ""

    def _name(self, name: str) -> str:
        return f"{self._prefix}.{name}"
