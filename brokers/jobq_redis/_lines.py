"""Connections that are kept, with one command at a time on each.

redis-py's client, made for everything, costs twice what the command itself does, and its pool does not tell a command
that was never sent from one whose reply was lost. So this holds redis-py's connections directly.
"""

import asyncio
from contextlib import suppress
from typing import Any, Final, Protocol, cast

from redis.asyncio.connection import UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import ClusterDownError, MovedError, ReadOnlyError, RedisError, ResponseError

from jobq.errors import BrokerUnavailable
from jobq_redis._errors import lost, unreachable
from jobq_redis._url import Target

Reply = Any
_REDIRECTS: Final = 5
_MOST: Final = 8


class Line(Protocol):
    """The part of redis-py's connection that is used."""

    async def connect(self) -> None: ...
    async def disconnect(self, nowait: bool = False) -> None: ...  # noqa: FBT001, FBT002 - redis-py's signature
    async def can_read(self) -> bool: ...
    async def send_packed_command(self, command: bytes, check_health: bool = True) -> None: ...  # noqa: FBT001, FBT002
    async def read_response(self) -> Reply: ...


class Route:
    """Makes connections to the server that is in charge: of the data, or of the namespace's slot on a cluster."""

    def __init__(self, target: Target) -> None:
        self._target = target
        # A whole exchange has one timeout, which is ours; a connection says no more than it must when it is made.
        self._options = target.options | {"protocol": 2, "driver_info": None, "retry": Retry(NoBackoff(), 0)}
        self._options |= {"socket_timeout": None, "socket_connect_timeout": target.connect_timeout}
        self._share = target.connect_timeout / (len(target.addresses) + 1)  # for each one that may be silent
        self._sentinel: Any = None
        self._masters: Any = None
        self._addresses = list(target.addresses)

    async def connect(self) -> Line:
        """A connected line, to the first address that answers. Raises redis-py's exceptions."""
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
        """From now on, try this node of the cluster first."""
        address = (host or self._addresses[0][0], port)
        self._addresses = [address, *(one for one in self._addresses if one != address)]

    async def aclose(self) -> None:
        if self._sentinel is not None:
            await self._sentinel.aclose()

    async def _connected(self, line: Line, seconds: float) -> Line:
        try:
            async with asyncio.timeout(seconds):
                await line.connect()
                if len(self._addresses) > 1:  # the kernel accepts connections also for a process that has stopped
                    await line.send_packed_command(b"PING\r\n", check_health=False)
                    with suppress(ResponseError):
                        await line.read_response()
        except BaseException:
            await line.disconnect(nowait=True)
            raise
        return line

    def _direct(self, address: tuple[str, int]) -> Line:
        return self._made(self._target.connection, host=address[0], port=address[1])

    def _made(self, connection: Any, **address: Any) -> Line:
        return cast("Line", connection(**address, **self._options))

    def _to_master(self) -> Line:
        if self._sentinel is None:
            tls = {"ssl": True} if self._target.tls else {}
            own = {name: value for name, value in self._options.items() if name.startswith("ssl_")}
            own |= {"socket_timeout": self._share, "socket_connect_timeout": self._share}
            own |= {"protocol": 2, "driver_info": None, "retry": self._options["retry"]}
            sentinel, masters = cast("Any", Sentinel), cast("Any", SentinelConnectionPool)
            self._sentinel = sentinel(self._target.addresses, sentinel_kwargs=own | tls | self._target.sentinel_options)
            self._masters = masters(self._target.service, self._sentinel, **tls, **self._options)
        return cast("Line", self._masters.make_connection())


class Lines:
    """A few lines on one event loop, opened when needed."""

    def __init__(self, route: Route, url: str, reply_timeout: float) -> None:
        self._route = route
        self._url = url
        self._timeout = reply_timeout
        self._idle: list[Line] = []
        self._slots = asyncio.Semaphore(_MOST)
        self._closed = False

    def open(self) -> None:
        self._closed = False

    async def call(self, command: bytes) -> Reply:
        """The reply to a packed command.

        An error reply is raised as redis-py's `ResponseError`, everything else as a `BrokerError`. When the caller is
        cancelled, the server still executes what it has received, and the line is closed, since nobody reads its reply:
        no task is needed to shield a script, which is one atomic step over there and may be repeated.
        """
        async with self._slots:
            for _ in range(_REDIRECTS):
                line = await self._take()
                try:
                    return await self._exchange(line, command)
                except MovedError as exc:
                    self._route.moved(*cast("Any", exc).node_addr)
        raise BrokerUnavailable(f"the cluster at {self._url} does not agree on who serves this namespace")

    async def aclose(self) -> None:
        """Close what is idle; what is in use is closed after its call, and no more calls are accepted."""
        self._closed = True
        await self._drop_idle()

    async def _take(self) -> Line:
        if self._closed:
            raise BrokerUnavailable(f"this broker on {self._url} was closed")
        while self._idle:
            line = self._idle.pop()
            if not await line.can_read():  # else the server has closed it meanwhile
                return line
            await line.disconnect(nowait=True)
        try:
            return await self._route.connect()
        except (RedisError, OSError) as exc:
            raise unreachable(exc, self._url) from exc

    async def _exchange(self, line: Line, command: bytes) -> Reply:
        try:
            async with asyncio.timeout(self._timeout):
                await line.send_packed_command(command, check_health=False)
                reply = await line.read_response()
        except (ReadOnlyError, ClusterDownError, MovedError):  # somebody else is in charge now
            self._idle.append(line)
            await self._drop_idle()
            raise
        except ResponseError:
            await self._keep(line)
            raise
        except (RedisError, OSError) as exc:
            await line.disconnect(nowait=True)
            raise lost(exc, self._url) from exc
        except BaseException:
            await line.disconnect(nowait=True)
            raise
        await self._keep(line)
        return reply

    async def _drop_idle(self) -> None:
        idle, self._idle = self._idle, []
        await asyncio.gather(*(line.disconnect() for line in idle), return_exceptions=True)

    async def _keep(self, line: Line) -> None:
        if self._closed:
            await line.disconnect(nowait=True)
        else:
            self._idle.append(line)
