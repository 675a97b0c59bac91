"""What other processes do in tests: `python child.py FUNCTION URL …`. Each line of output is something to wait for."""

import asyncio
import os
import sys
from itertools import count

from jobq.errors import BrokerRefused
from jobq.model import Claim, Done, Job, Stamp, WorkerInfo
from jobq_sqlite import SqliteBroker


def say(*words: object) -> None:
    print(*words, flush=True)


async def enqueue_one(url: str, name: str) -> None:
    """Open, wait for a line, and store one job."""
    async with SqliteBroker(url) as broker:
        say("open")
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
        await broker.enqueue([Job(id=name, task="t")], Stamp(name, 1))
        say("stored")


async def enqueue_for_ever(url: str, name: str) -> None:
    """Say which jobs are stored, as soon as they are."""
    async with SqliteBroker(url) as broker:

        async def client(number: int) -> None:
            for i in count():
                jobs = [Job(id=f"{name}-{number}-{i}-{k}", task="t") for k in range(3)]
                await broker.enqueue(jobs, Stamp(f"{name}-{number}", i))
                say(*(job.id for job in jobs))

        await asyncio.gather(*map(client, range(3)))


async def work_for_ever(url: str, name: str) -> None:
    """Say which jobs are settled, as soon as they are."""
    async with SqliteBroker(url) as broker:
        await broker.heartbeat(WorkerInfo(id=name, host="h"), (), 600)
        outcomes: list[Done] = []
        resume: int = 0
        while True:
            turn = await broker.turn(outcomes, Claim(name, ("default",), 5, resume=resume))
            if outcomes:
                say(*(outcome.id for outcome in outcomes))
            outcomes = [Done(delivery.job.id, delivery.epoch) for delivery in turn.deliveries]
            resume = max((outcome.epoch for outcome in outcomes), default=resume)
            if not outcomes:
                await broker.wait(["default"], 60)


async def fork(url: str) -> None:
    """Use a broker on both sides of a fork."""
    async with SqliteBroker(url) as broker:
        await broker.enqueue([Job(id="before", task="t")], Stamp("c", 1))
        pid = os.fork()
        if pid == 0:
            for call in (broker.enqueue([Job(id="child", task="t")], Stamp("c", 2)), broker.wait(["default"], 1)):
                try:
                    await call
                except BrokerRefused as exc:
                    say(exc)
            await broker.__aexit__(None, None, None)
            os._exit(0)
        os.waitpid(pid, 0)  # noqa: ASYNC222 - nothing else to do
        await broker.enqueue([Job(id="after", task="t")], Stamp("c", 3))
        say("the parent goes on")


if __name__ == "__main__":
    asyncio.run(globals()[sys.argv[1]](*sys.argv[2:]))
