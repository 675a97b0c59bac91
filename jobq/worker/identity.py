"""Who a worker is, and how its neighbours can prove that it is dead."""

import hashlib
import os
import secrets
import socket
from collections.abc import Iterable
from pathlib import Path

__all__ = ["dead_peers", "host_id", "new_worker_id"]


def host_id() -> str:
    """Equal exactly for processes that can see each other: same boot of the same machine, same pid namespace."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        namespace = str(Path("/proc/self/ns/pid").readlink())
    except OSError:  # no Linux: no two processes are known to be neighbours
        boot, namespace = socket.gethostname(), secrets.token_hex(8)
    return hashlib.sha256(f"{boot} {namespace}".encode()).hexdigest()[:12]


def new_worker_id(host: str, pid: int | None = None, token: str | None = None) -> str:
    """`host-pid-start-random`: unique for ever, and enough to look the process up.

    By default of this process; a parent makes the same id for its child from the `token` that they share.
    """
    pid = pid or os.getpid()
    try:
        start = _start_time(pid)
    except OSError:
        start = None
    return f"{host}-{pid}-{start or 0}-{token or secrets.token_hex(4)}"


def dead_peers(host: str, peers: Iterable[str]) -> list[str]:
    """Those of `peers` whose process is certainly gone. Silence proves nothing; a missing or reused pid does."""
    return [peer for peer in peers if _is_dead(host, peer)]


def _is_dead(host: str, peer: str) -> bool:
    parts = peer.split("-")
    if len(parts) != 4 or parts[0] != host or not (parts[1].isdigit() and parts[2].isdigit()):  # noqa: PLR2004
        return False
    pid, start = int(parts[1]), int(parts[2])
    return start != 0 and Path("/proc/self/stat").exists() and _is_gone(pid, start)


def _is_gone(pid: int, start: int) -> bool:
    """Whether there is no process `pid` that began at `start`. What cannot be found out is no."""
    try:
        return _start_time(pid) != start
    except (FileNotFoundError, ProcessLookupError):  # or /proc hides it: hidepid, ProtectProc= of systemd
        return _is_free(pid)
    except OSError:  # e.g. no file descriptor is left here
        return False


def _is_free(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):  # it is somebody else's, or no pid at all
        return False
    return False


def _start_time(pid: int) -> int | None:
    """Clock ticks from boot to the start of a process (proc(5), stat field 22); None for a zombie. Raises `OSError`."""
    stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    fields = stat.rpartition(")")[2].split()  # the name before it may hold spaces and parentheses
    return None if fields[0] in "ZX" else int(fields[19])
