"""The worker program with leases that are short enough for a test: `python -m tests.faults.runner JSON ARGUMENTS`.

Everything else is the program that users run: its command line, its loop, its signals, its exit codes.
"""

import dataclasses
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import jobq.worker.worker as parts
from jobq.clock import SystemClock
from jobq.worker.command import worker
from jobq.worker.options import WorkerOptions
from jobq.worker.settings import Settings

EVENTS = frozenset({"import", "os.system", "os.exec", "subprocess.Popen", "pickle.find_class"})


def audit(path: str) -> None:
    """Write down what is imported and started from now on."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event in EVENTS:
            os.write(file, f"{event} {arguments[:2]!r}\n".encode("utf-8", "replace"))

    sys.addaudithook(hook)


def replace(where: object, name: str, function: Callable[..., object]) -> None:
    """Put another function in the place of one."""
    setattr(where, name, function)


def main(options: dict[str, Any], *, host: str, skew: float, audit_to: str) -> None:
    """`options` are those of `WorkerOptions` that the command line does not have."""
    usual = Settings.worker_options

    def worker_options(settings: Settings) -> WorkerOptions:
        return dataclasses.replace(usual(settings), **options)

    replace(Settings, "worker_options", worker_options)
    if host:
        replace(parts, "host_id", lambda: host)
    if skew:
        replace(SystemClock, "time", lambda *_: time.time() + skew)
    if audit_to:
        audit(audit_to)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    worker(sys.argv[2:])


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
