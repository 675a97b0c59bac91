"""A user's file in which everything is right: both checkers must be silent."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import assert_type

from jobq import App, AsyncTask, Call, Client, Handler, Job, JobHandle, Retry, SyncClient, SyncTask, current, testing
from jobq.worker import Worker

app = App()


@app.task
async def plain(x: int) -> str:
    return str(x)


@app.task(queue="mail", retry=Retry(max_retries=5, on=(OSError,)), timeout=60, priority=3)
async def send_welcome(user_id: int, *, locale: str = "en") -> str:
    return f"{user_id} {locale}"


@app.task
def resize(path: str, width: int = 10) -> bytes:
    return path.encode() * width


async def failed(job: Job, exc: BaseException) -> None:
    print(job.id, exc)


@app.task(name="named", max_crashes=2, keep_dead=False, retry_queue="slow", on_failure=failed, on_dead=print)
def named(*parts: int, **more: str) -> None:
    print(parts, more, current().attempt, current().cancelled)


@app.middleware
async def timed(job: Job, call_next: Handler) -> object:
    return await call_next(job)


@app.enqueue_middleware
async def tag(job: Job, call_next: Handler) -> object:
    return await call_next(job)


class Counting:
    async def __call__(self, job: Job, call_next: Handler) -> object:
        return await call_next(job)


app.middleware(Counting())


@asynccontextmanager
async def _resources() -> AsyncGenerator[dict[str, object]]:
    yield {"pool": 1}


app.lifespan(_resources)


async def use(client: Client) -> None:
    assert_type(await plain(1), str)
    assert_type(resize("a", width=3), bytes)
    job = await client.perform_async(send_welcome, 42, locale="de")
    assert_type(job, JobHandle[str])
    assert_type(await client.perform_async(resize, "a", 10), JobHandle[bytes])
    assert_type(await client.perform_in(5, plain, 1), JobHandle[str])
    assert_type(await client.perform_in(timedelta(days=1), plain, x=1), JobHandle[str])
    assert_type(await client.perform_at(datetime.now(UTC), resize, "a"), JobHandle[bytes])
    call = send_welcome.call(1, locale="fr")
    assert_type(call, Call[str])
    assert_type(await client.perform_many([call, plain.call(2)]), list[JobHandle[str]])
    special = send_welcome.options(queue="bulk", priority=4, id="x", headers={"a": "b"})
    assert_type(await client.perform_async(special, 1, locale="en"), JobHandle[str])
    assert_type(await special(1), str)
    await client.perform_async(named, 1, 2, a="b")
    wide: JobHandle[object] = job
    print(wide.id)
    parts: tuple[AsyncTask[..., str], SyncTask[..., bytes]] = (plain, resize)
    print(parts)


def use_sync(client: SyncClient) -> None:
    assert_type(client.perform_async(resize, "a"), JobHandle[bytes])
    assert_type(client.perform_many([plain.call(1)]), list[JobHandle[str]])


async def main() -> None:
    async with app.client("sqlite:///jobs.db") as client, Worker(app, "memory://", queues=["mail:5"]) as worker:
        await use(client)
        worker.stop(grace=1)
    async with testing.running(app) as jobs:
        await jobs.client.perform_async(plain, 1)
        await jobs.advance(timedelta(hours=1))
        print(jobs.enqueued(plain)[0].args, jobs.dead[0].error)
