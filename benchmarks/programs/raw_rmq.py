"""The least that could be done with RabbitMQ from aiormq: the limit that jobq is compared with.

Persistent messages on a durable queue of the type that the URL says, each confirmed. Enqueue is the library's own
`basic_publish`, awaited. The drain is a consumer with the prefetch that jobq has and one acknowledgement for each 50
messages. It decodes nothing and runs nothing. For the pick-up, a process (mode `work`, AMOUNT is of no use) consumes
messages that say when they were sent, and acknowledges each.
"""

import asyncio
import time
from typing import Final

import aiormq
from aiormq.abc import AbstractChannel, DeliveredMessage
from pamqp.commands import Basic
from yarl import URL

from benchmarks import gauge
from benchmarks.programs import load

QUEUE: Final = "raw"
PREFETCH: Final = 110
BATCH: Final = 50
BODY: Final = (
    b'{"id":"01a1fdbb-b3ed-78f4-9f73-233d3c336cf0","task":"noop","created":1795258299.37,"body":{"args":[123456789]}}'
)


async def publish(channel: AbstractChannel, body: bytes = BODY) -> None:
    await channel.basic_publish(body, routing_key=QUEUE, properties=Basic.Properties(delivery_mode=2), mandatory=True)


async def fill(channel: AbstractChannel, count: int) -> None:
    for start in range(0, count, 1000):
        await asyncio.gather(*(publish(channel) for _ in range(min(1000, count - start))))


async def drain(channel: AbstractChannel, count: int) -> load.Drained:
    done = asyncio.Event()
    received = 0
    meter = load.Meter()

    async def receive(message: DeliveredMessage) -> None:
        nonlocal received
        received += 1
        if received % BATCH == 0 or received == count:
            await channel.basic_ack(message.delivery_tag or 0, multiple=True)
        if received == count:
            done.set()

    await channel.basic_qos(prefetch_count=PREFETCH)
    await channel.basic_consume(QUEUE, receive)
    await done.wait()
    return meter.read(count)


async def bulk(channel: AbstractChannel, count: int) -> float:
    start = time.perf_counter()
    await fill(channel, 3 * count)
    return 3 * count / (time.perf_counter() - start)


async def work(channel: AbstractChannel) -> None:
    async def receive(message: DeliveredMessage) -> None:
        gauge.late(int(message.body))
        await channel.basic_ack(message.delivery_tag or 0)

    await channel.basic_qos(prefetch_count=PREFETCH)
    await channel.basic_consume(QUEUE, receive)
    await asyncio.Event().wait()


async def main() -> None:
    mode, url, amount = load.arguments()
    connection = await aiormq.connect(url)
    channel = await connection.channel()
    await channel.queue_declare(QUEUE, durable=True, arguments={"x-queue-type": URL(url).query["type"]})
    rate = cpu = 0.0
    match mode:
        case "one":
            rate = await load.one_by_one(lambda _: publish(channel), amount)
        case "together":
            rate = await load.together(lambda _: publish(channel), amount)
        case "bulk":
            rate = await bulk(channel, int(amount))
        case "noops":
            await fill(channel, int(amount))
        case "paced":
            await load.paced(lambda since: publish(channel, b"%d" % since), int(amount))
        case "work":
            gauge.gate()
            await work(channel)
        case _:
            rate, cpu = await drain(channel, int(amount))
    load.report(rate=rate, cpu=cpu)
    await connection.close()


if __name__ == "__main__":
    load.run(main())
