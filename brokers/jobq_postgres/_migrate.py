"""The schema, for those who apply it by hand."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from jobq_postgres import _schema
from jobq_postgres._driver import ERRORS, Connection
from jobq_postgres._errors import failed
from jobq_postgres._lines import Lines, farewell
from jobq_postgres._url import Target

T = TypeVar("T")


class PostgresSchema:
    """The facet."""

    def __init__(self, target: Target) -> None:
        self._target = target

    def script(self) -> str:
        return _schema.script(self._target.schema)

    def grants(self, role: str) -> str:
        return _schema.grants(self._target.schema, role)

    async def lacking(self) -> str | None:
        return await self._on_a_connection(_schema.missing)

    async def apply(self) -> bool:
        return await self._on_a_connection(_schema.apply)

    async def _on_a_connection(self, call: Callable[[Connection, str], Awaitable[T]]) -> T:
        connection = await Lines(self._target).connect_alone({})
        try:
            async with connection.transaction():
                return await call(connection, self._target.schema)
        except ERRORS as exc:
            raise failed(exc, self._target.masked, self._target.schema) from exc
        finally:
            await farewell(connection)
