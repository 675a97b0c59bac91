"""jobq: background jobs for asyncio, on SQLite, Redis and memory.

::

    from jobq import App

    app = App()

    @app.task
    async def send_welcome(user_id: int) -> None: ...

    async with app.client("sqlite:///jobs.db") as client:
        await client.perform_async(send_welcome, 42)

and then `python -m jobq.worker module:app --broker sqlite:///jobs.db`.
"""

from jobq import _interrupt as _interrupt  # the first acts at once, so it has to be the first
from jobq import errors
from jobq._context import CurrentJob, current
from jobq._retry import Exponential, Retry
from jobq.app import App
from jobq.client import Client, JobHandle
from jobq.errors import Discard, JobqError, RetryIn, Snooze
from jobq.middleware import Handler, Middleware
from jobq.model import Job
from jobq.registry import AsyncTask, Call, SyncTask, Task
from jobq.sync import SyncClient

__version__ = "0.1.0"

__all__ = [
    "App",
    "AsyncTask",
    "Call",
    "Client",
    "CurrentJob",
    "Discard",
    "Exponential",
    "Handler",
    "Job",
    "JobHandle",
    "JobqError",
    "Middleware",
    "Retry",
    "RetryIn",
    "Snooze",
    "SyncClient",
    "SyncTask",
    "Task",
    "current",
    "errors",
]
