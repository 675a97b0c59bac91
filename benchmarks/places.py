"""Where a measurement's jobs are: a server or file of its own, that nothing else has used."""

import os
import shutil
import socket
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.processes import Failed, Processes, wait_for

__all__ = ["Place", "place"]

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Place:
    """An empty broker."""

    url: str
    server: subprocess.Popen[bytes] | None = None

    def server_cpu(self) -> float:
        """CPU seconds that the server has used; 0 if there is none."""
        if self.server is None:
            return 0.0
        fields = Path(f"/proc/{self.server.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS


@contextmanager
def place(broker: str, directory: Path, processes: Processes) -> Generator[Place]:
    """A fresh one; `processes` ends its server."""
    match broker:
        case "redis":
            yield _redis(directory, processes)
        case "sqlite":
            yield Place(f"sqlite:///{directory}/jobs.db")
        case _:
            yield Place("memory://")


def _redis(directory: Path, processes: Processes) -> Place:
    binary = shutil.which("redis-server") or shutil.which("valkey-server")
    if binary is None:
        raise Failed("there is no redis-server; install it (Debian: apt-get install redis-server)")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    command = [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    server = processes.start([*command, "--dir", str(directory)])
    wait_for(lambda: _answers(port), 10, "redis-server")
    return Place(f"redis://127.0.0.1:{port}/0", server)


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
    except OSError:
        return False
