"""The onion: middlewares around a handler, built once."""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial, reduce
from typing import Protocol

from jobq.model import Job

__all__ = ["Handler", "Middleware", "chain"]

Handler = Callable[[Job], Awaitable[object]]
"""Takes a job, and runs it (in a worker) or stores it (in a client)."""


class Middleware(Protocol):
    """Wraps a handler: `async def mine(job, call_next): return await call_next(job)`."""

    def __call__(self, job: Job, call_next: Handler, /) -> Awaitable[object]:
        """Do something around `await call_next(job)`, and return its value."""
        ...


def chain(middlewares: Sequence[Middleware], handler: Handler) -> Handler:
    """`handler` inside all of `middlewares`; the first one is the outermost."""
    return reduce(_wrap, reversed(middlewares), handler)


def _wrap(inner: Handler, middleware: Middleware) -> Handler:
    return partial(_call, middleware, inner)


def _call(middleware: Middleware, inner: Handler, job: Job) -> Awaitable[object]:
    return middleware(job, inner)
