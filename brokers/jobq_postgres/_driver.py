"""The client library, which has no types."""

from importlib import import_module
from typing import Any, Final

_asyncpg: Any = import_module("asyncpg")

Connection = Any
Row = Any

connect: Final = _asyncpg.connect
ERRORS: Final[tuple[type[Exception], ...]] = (
    _asyncpg.PostgresError,
    _asyncpg.InterfaceError,
    _asyncpg.InternalClientError,  # a connection whose end was announced while it was idle is in no state to be used
    OSError,
    TimeoutError,
)
"""What may come of any call."""
NOT_CONNECTED: Final[tuple[type[Exception], ...]] = (*ERRORS, ValueError)
"""What may come of an attempt to connect; the last is about what the URL says."""
