"""The example of the front page runs as it is written."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from jobq import App, Handler, Job, JobHandle, Retry
from jobq.worker import Worker
from tests.core.bench import until

app = App()
ran: list[object] = []


@app.task(queue="mail", retry=Retry(max_retries=5), timeout=60)
async def send_welcome(user_id: int, *, locale: str = "en") -> str:
    ran.append((user_id, locale))
    return f"sent {user_id}"


@app.task  # a plain def runs in a thread
def resize(path: str, width: int) -> None:
    ran.append((path, width))


@app.middleware  # wraps every job in the worker
async def timed(job: Job, call_next: Handler) -> object:
    try:
        return await call_next(job)
    finally:
        ran.append(job.task)


@app.enqueue_middleware  # wraps every enqueue in the client
async def tag(job: Job, call_next: Handler) -> object:
    return await call_next(job)


@app.lifespan  # around a worker's life; what it yields is current().state
@asynccontextmanager
async def resources() -> AsyncGenerator[dict[str, object]]:
    yield {}


@asynccontextmanager
async def web_app(url: str) -> AsyncGenerator[Worker]:
    """A worker inside an application that does other things."""
    async with Worker(app, url, queues=["mail", "default", "bulk"]) as worker:
        yield worker


async def test_the_example_runs() -> None:
    url = "memory://example"
    async with app.client(url) as client, web_app(url):
        job: JobHandle[str] = await client.perform_async(send_welcome, 42, locale="de")
        later = await client.perform_in(900, send_welcome, 43)
        much_later = await client.perform_at(datetime(2127, 1, 1, tzinfo=UTC), send_welcome, 44)
        many = await client.perform_many([send_welcome.call(1), send_welcome.call(2)])
        special = await client.perform_async(send_welcome.options(queue="bulk", priority=4, id="one"), 45)
        thumbnail = await client.perform_async(resize, "a.png", width=10)
        assert len({handle.id for handle in [job, later, much_later, *many, special, thumbnail]}) == 7
        assert special.id == "one"
        await until(lambda: len(ran) == 10)
    assert {(42, "de"), (1, "en"), (2, "en"), (45, "en"), ("a.png", 10)} < set(ran)
    assert await send_welcome(7) == "sent 7"
