"""How long a call may take. One timer serves all calls: one for each would take a fortieth of an enqueue's time."""

import asyncio

from jobq_postgres._driver import Connection


class Watch:
    """Ends connections on which a call takes longer than `seconds`. Used on one event loop."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._ends: dict[Connection, float | None] = {}
        """When the call on each is late, or None if it was; who came first is first."""
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, connection: Connection) -> None:
        """A call begins."""
        loop = asyncio.get_running_loop()
        self._ends[connection] = end = loop.time() + self._seconds
        if self._timer is None:
            self._timer = loop.call_at(end, self._look)

    def end(self, connection: Connection) -> bool:
        """The call has ended; says whether it was late."""
        return self._ends.pop(connection) is None

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = None
        for connection, end in self._ends.items():
            if end is None:
                continue
            if end > loop.time():
                self._timer = loop.call_at(end, self._look)
                break
            self._ends[connection] = None
            connection.terminate()
