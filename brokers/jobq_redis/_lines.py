"""Connections that are kept.

redis-py's pool does not tell a command that was never sent from one whose reply was lost.
"""

import asyncio
from contextlib import suppress
from typing import Any, Final, cast

from redis.asyncio.connection import UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import ClusterDownError, MovedError, ReadOnlyError, RedisError, ResponseError

from jobq.errors import BrokerUnavailable
from jobq_redis._errors import lost, unreachable
from jobq_redis._url import Target
from jobq_redis._wire import Connection, Reply, Wire

_REDIRECTS: Final = 5
_MOST: Final = 8
_LEARNED: Final = 3
"""Addresses that a cluster has named, beside those of the URL: its nodes come and go, and none is given up for good."""


class Route:
    """Makes connections to the server that is in charge: of the data, or of the namespace's slot on a cluster."""

    def __init__(self, target: Target) -> None:
        self._target = target
        # A whole exchange has one timeout, which is ours; a connection says no more than it must when it is made.
        self._options = target.options | {"protocol": 2, "driver_info": None, "retry": Retry(NoBackoff(), 0)}
        self._options |= {"socket_timeout": None, "socket_connect_timeout": target.connect_timeout}
        self._sentinel: Any = None
        self._masters: Any = None
        self._addresses = list(target.addresses)
        """Where to try, in this order."""

    async def connect(self) -> Wire:
        """A connection to the first address that answers. Raises redis-py's exceptions."""
        if self._target.kind == "sentinel":
            return await self._connected(self._to_master(), self._target.connect_timeout)
        if self._target.kind == "unix":
            return await self._connected(self._made(UnixDomainSocketConnection), self._target.connect_timeout)
        *others, last = self._addresses
        for address in others:
            try:
                return await self._connected(self._direct(address), self._share)
            except (RedisError, OSError):
                continue
        return await self._connected(self._direct(last), self._share if others else self._target.connect_timeout)

    def moved(self, host: str, port: int) -> None:
        """From now on, try this node of the cluster first. Beside those of the URL, only the last few are kept."""
        address = (host or self._addresses[0][0], port)
        given = self._target.addresses
        known = [address, *(one for one in self._addresses if one != address)]
        learned = [one for one in known if one not in given][:_LEARNED]
        self._addresses = [one for one in known if one in given or one in learned]

    @property
    def _share(self) -> float:
        """Seconds for each address, any of which may be silent."""
        return self._target.connect_timeout / (len(self._addresses) + 1)

    async def aclose(self) -> None:
        if self._sentinel is not None:
            await self._sentinel.aclose()

    async def _connected(self, connection: Connection, seconds: float) -> Wire:
        try:
            async with asyncio.timeout(seconds):
                await connection.connect()
                wire = Wire(connection)
                if len(self._addresses) > 1:  # the kernel accepts connections also for a process that has stopped
                    with suppress(ResponseError):
                        await wire.exchange(b"PING\r\n", seconds)
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        return wire

    def _direct(self, address: tuple[str, int]) -> Connection:
        return self._made(self._target.connection, host=address[0], port=address[1])

    def _made(self, connection: Any, **address: Any) -> Connection:
        return cast("Connection", connection(**address, **self._options))

    def _to_master(self) -> Connection:
        if self._sentinel is None:
            tls = {"ssl": True} if self._target.tls else {}
            own = {name: value for name, value in self._options.items() if name.startswith("ssl_")}
            own |= {"socket_timeout": self._share, "socket_connect_timeout": self._share}
            own |= {"protocol": 2, "driver_info": None, "retry": self._options["retry"]}
            sentinel, masters = cast("Any", Sentinel), cast("Any", SentinelConnectionPool)
            self._sentinel = sentinel(self._target.addresses, sentinel_kwargs=own | tls | self._target.sentinel_options)
            self._masters = masters(self._target.service, self._sentinel, **tls, **self._options)
        return cast("Connection", self._masters.make_connection())


class Lines:
    """A few connections on one event loop, opened when needed."""

    def __init__(self, route: Route, url: str, reply_timeout: float) -> None:
        self._route = route
        self._url = url
        self._timeout = reply_timeout
        self._idle: list[Wire] = []
        self._slots = asyncio.Semaphore(_MOST)
        self._closed = False

    def open(self) -> None:
        self._closed = False

    async def call(self, command: bytes) -> Reply:
        """The reply to a packed command.

        An error reply is raised as redis-py's `ResponseError`, everything else as a `BrokerError`. When the caller is
        cancelled, the server still executes what it has received, and the connection is closed, since nobody reads the
        reply: no task is needed to shield a script, which is one atomic step over there and may be repeated.
        """
        async with self._slots:
            for _ in range(_REDIRECTS):
                wire = await self._take()
                try:
                    return await self._exchange(wire, command)
                except MovedError as exc:
                    self._route.moved(*cast("Any", exc).node_addr)
        raise BrokerUnavailable(f"the cluster at {self._url} does not agree on who serves this namespace")

    async def aclose(self) -> None:
        """Close what is idle; what is in use is closed after its call, and no more calls are accepted."""
        self._closed = True
        await self._drop_idle()

    async def _take(self) -> Wire:
        if self._closed:
            raise BrokerUnavailable(f"this broker on {self._url} was closed")
        while self._idle:
            wire = self._idle.pop()
            if wire.clean:  # else the server has closed it meanwhile
                return wire
            await wire.aclose()
        try:
            return await self._route.connect()
        except (RedisError, OSError) as exc:
            raise unreachable(exc, self._url) from exc

    async def _exchange(self, wire: Wire, command: bytes) -> Reply:
        try:
            reply = await wire.exchange(command, self._timeout)
        except (ReadOnlyError, ClusterDownError, MovedError):  # somebody else is in charge now
            self._idle.append(wire)
            await self._drop_idle()
            raise
        except ResponseError:
            await self._keep(wire)
            raise
        except (RedisError, OSError) as exc:
            await wire.aclose()
            raise lost(exc, self._url) from exc
        except BaseException:
            await wire.aclose()
            raise
        await self._keep(wire)
        return reply

    async def _drop_idle(self) -> None:
        idle, self._idle = self._idle, []
        for wire in idle:
            await wire.aclose()

    async def _keep(self, wire: Wire) -> None:
        if self._closed:
            await wire.aclose()
        else:
            self._idle.append(wire)
