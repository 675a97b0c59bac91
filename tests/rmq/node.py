"""Private RabbitMQ nodes, to be looked into and harmed; alone, or three that are one cluster.

`rabbitmqctl` takes most of a second a call. What is here blocks: in a test that needs its event loop meanwhile, use
`out_of_memory` or `asyncio.to_thread`, but for starting servers, see `tests.servers`.
"""

import asyncio
import json
import secrets
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from tests.servers import Server, free_port
from tests.services import RABBITMQ, rabbitmq_node

FRESH_COUNTS: Final = ("-rabbit", "quorum_tick_interval", "100")
"""Milliseconds after which a quorum queue's counts are counted again."""
IMPATIENT: Final = ("-rabbit", "dead_letter_worker_publisher_confirm_timeout", "1000")
"""Milliseconds after which a dead letter is sent again that did not arrive, instead of three minutes.

What has waited long enough in a quorum queue may be due before the queue is there, or has a leader, where it goes next.
"""
LOW_MEMORY: Final = """
Mark = vm_memory_monitor:get_vm_memory_high_watermark(),
vm_memory_monitor:set_vm_memory_high_watermark({absolute, 1}),
Mark.
"""
PUBLISHING: Final = """
[pid_to_list(P) || P <- rabbit_channel:list_local(), rabbit_channel:info(P, [confirm]) == [{confirm, true}]].
"""
_USERS: Final = "rabbit_auth_backend_internal"


class Queue(NamedTuple):
    """What is in a queue."""

    ready: int
    unacknowledged: int
    type: str


class Rights(NamedTuple):
    """What a user may do, as regular expressions for the names of exchanges and queues."""

    configure: str
    write: str
    read: str


class _Row(msgspec.Struct):
    """A queue, as `rabbitmqctl` lists it."""

    name: str
    messages_ready: int
    messages_unacknowledged: int
    type: str


class _Led(msgspec.Struct):
    """A queue and the node that leads it; none for a queue that is no quorum queue."""

    name: str
    leader: str = ""


@dataclass(frozen=True)
class Node:
    """A node of RabbitMQ."""

    server: Server

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def name(self) -> str:
        """As Erlang knows it."""
        return rabbitmq_node(self.server.port)

    def ctl(self, *arguments: str) -> str:
        """What `rabbitmqctl` prints."""
        return self.server.run(str(Path(self.server.binary).with_name("rabbitmqctl")), "--silent", *arguments)

    def eval(self, erlang: str) -> str:
        """The value of Erlang expressions, in the node; they end with a full stop."""
        return self.ctl("eval", erlang).strip()

    def close_all_connections(self) -> None:
        """The server closes each, with CONNECTION_FORCED."""
        self.ctl("close_all_connections", "closed by a test")

    @contextmanager
    def memory_alarm(self) -> Generator[None]:
        """Inside, the node says that it is out of memory: it blocks connections that publish."""
        mark = self.eval(LOW_MEMORY)
        try:
            yield
        finally:
            self.eval(f"vm_memory_monitor:set_vm_memory_high_watermark({mark}).")

    @asynccontextmanager
    async def out_of_memory(self) -> AsyncGenerator[None]:
        """The same, while the event loop goes on."""
        alarm = self.memory_alarm()
        await asyncio.to_thread(alarm.__enter__)
        try:
            yield
        finally:
            await asyncio.to_thread(alarm.__exit__, None, None, None)

    def limit(self, prefix: str, definition: str) -> None:
        """Set a policy for the queues of jobs that are ready under this prefix."""
        self.ctl("set_policy", "jobq-test", rf"^{prefix}\.normal\.", definition, "--apply-to", "queues")

    @contextmanager
    def silence(self) -> Generator[None]:
        """Inside, whoever publishes hears no more of it, on the channels that are there now."""
        pids = self.eval(PUBLISHING)
        self.eval(f"[sys:suspend(list_to_pid(P)) || P <- {pids}].")
        try:
            yield
        finally:
            self.eval(f"[catch sys:resume(list_to_pid(P), 1000) || P <- {pids}].")

    @contextmanager
    def users(self, rights: Mapping[str, Rights]) -> Generator[dict[str, str]]:
        """The URLs of users who have these rights, by their names."""
        password = secrets.token_hex(4)
        self.eval(",".join(_made(name, password, each) for name, each in rights.items()) + ".")
        try:
            yield {name: self.url.replace("guest:guest", f"{name}:{password}") for name in rights}
        finally:
            self.eval(",".join(f'{_USERS}:delete_user(<<"{name}">>, <<"tests">>)' for name in rights) + ".")

    def queues(self) -> dict[str, Queue]:
        """All queues. The counts of quorum queues are a moment old: wait for them."""
        rows = msgspec.json.decode(self._list("list_queues", *_Row.__struct_fields__), type=list[_Row])
        return {row.name: Queue(row.messages_ready, row.messages_unacknowledged, row.type) for row in rows}

    def leader(self, queue: str) -> str:
        """The name of the node that leads this quorum queue."""
        rows = msgspec.json.decode(self._list("list_queues", *_Led.__struct_fields__), type=list[_Led])
        return next(row.leader for row in rows if row.name == queue)

    def _list(self, *arguments: str) -> str:
        return self.ctl(*arguments, "--formatter", "json")


@dataclass(frozen=True)
class Cluster:
    """Three nodes."""

    nodes: list[Node]

    def leader(self, queue: str) -> Node | None:
        """The node that leads this quorum queue, according to the first that runs; none while one is elected."""
        name = next(node for node in self.nodes if node.server.answers()).leader(queue)
        return next((node for node in self.nodes if node.name == name), None)


def _made(name: str, password: str, rights: Rights) -> str:
    """The Erlang that makes a user."""
    patterns = ", ".join(f"<<{json.dumps(pattern)}>>" for pattern in rights)
    return f"""
        {_USERS}:add_user(<<"{name}">>, <<"{password}">>, <<"tests">>),
        {_USERS}:set_permissions(<<"{name}">>, <<"/">>, {patterns}, <<"tests">>)
    """


@contextmanager
def one(*arguments: str) -> Generator[Node]:
    """A node of one's own. The arguments go to Erlang: `"-rabbit", "consumer_timeout", "5000"` is a setting."""
    with Server(RABBITMQ, (*FRESH_COUNTS, *arguments)) as server:
        yield Node(server)


@contextmanager
def three(*arguments: str) -> Generator[Cluster]:
    """A cluster of one's own. Its nodes start at once and find one another by their names."""
    with ExitStack() as stack:
        ports = [free_port() for _ in range(3)]
        peers = ",".join(f"'{rabbitmq_node(port)}'" for port in ports)
        options = (*FRESH_COUNTS, "-rabbit", "cluster_nodes", f"{{[{peers}],disc}}", *arguments)
        first = Server(RABBITMQ, options, ports[0])
        servers = [first, *(Server(RABBITMQ, options, port, first.companion) for port in ports[1:])]
        cookie = secrets.token_hex()
        for server in servers:
            stack.callback(server.close)
            server.write(".erlang.cookie", cookie)
            server.launch()
        for server in servers:
            server.wait()
        yield Cluster([Node(server) for server in servers])
