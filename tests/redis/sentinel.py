"""A private master, its replica, and a Sentinel that watches them."""

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

from tests.servers import Server, free_port
from tests.services import REDIS, Place

CONFIG = """
sentinel monitor my-master 127.0.0.1 {port} 1
sentinel down-after-milliseconds my-master 300
sentinel failover-timeout my-master 3000
"""


def _command(place: Place) -> list[str]:
    where = ["--port", str(place.port), "--bind", "127.0.0.1"]
    return [place.binary, str(place.directory / "sentinel.conf"), "--sentinel", *where]


SENTINEL = replace(REDIS, name="sentinel", command=_command)


@dataclass
class Watched:
    master: Server
    replica: Server
    sentinel: Server

    @property
    def url(self) -> str:
        return f"redis+sentinel://127.0.0.1:{free_port()},127.0.0.1:{self.sentinel.port}/my-master/0"


@contextmanager
def started() -> Generator[Watched]:
    with ExitStack() as stack:

        def start(*arguments: str) -> Server:
            return stack.enter_context(Server(arguments=("--appendonly", "no", *arguments)))

        master = start("--repl-diskless-sync-delay", "0")
        replica = start("--replicaof", "127.0.0.1", str(master.port))
        sentinel = Server(SENTINEL)
        sentinel.write("sentinel.conf", CONFIG.format(port=master.port))
        yield Watched(master, replica, stack.enter_context(sentinel))
