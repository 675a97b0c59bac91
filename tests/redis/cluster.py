"""Three private servers that are one cluster."""

import itertools
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from redis import Redis as SyncRedis
from redis.crc import key_slot

from tests.redis.tools import PATIENCE
from tests.servers import Server, free_port

_numbers = itertools.count()
SLOTS = 16384


@dataclass
class Cluster:
    servers: list[Server]

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"127.0.0.1:{server.port}" for server in self.servers)

    def namespace_on(self, node: int) -> str:
        names = (f"{next(_numbers)}" for _ in itertools.count())
        return next(name for name in names if key_slot(f"{{{name}}}".encode()) * 3 // SLOTS == node)


@contextmanager
def started() -> Generator[Cluster]:
    options = ("--appendonly", "no", "--cluster-enabled", "yes", "--cluster-node-timeout", "2000", "--cluster-port")
    with ExitStack() as stack:
        servers = [stack.enter_context(Server(arguments=(*options, str(free_port())))) for _ in range(3)]
        first = servers[0]
        for number, server in enumerate(servers):
            low, high = -(-number * SLOTS // 3), -(-(number + 1) * SLOTS // 3) - 1
            say(server, "CLUSTER", "ADDSLOTSRANGE", low, high)
            say(server, "CLUSTER", "MEET", "127.0.0.1", first.port, first.arguments[-1])
        end = time.monotonic() + PATIENCE
        while not all(map(formed, servers)) and time.monotonic() < end:
            time.sleep(0.02)
        yield Cluster(servers)


def say(server: Server, *command: str | int) -> object:
    client: Any = SyncRedis(port=server.port)
    with client:
        return client.execute_command(*command)


def formed(server: Server) -> bool:
    info = str(say(server, "CLUSTER", "INFO"))
    return "cluster_state:ok" in info and "cluster_known_nodes:3" in info
