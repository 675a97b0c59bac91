"""What a worker says about itself when it starts."""

import logging
import os
import platform
import sys
from collections.abc import Sequence

import jobq
from jobq.app import App
from jobq.worker.options import QueueWeight
from jobq.worker.settings import Settings

__all__ = ["show"]

_TASKS = 20

log = logging.getLogger("jobq.worker")


def show(settings: Settings, app: App, broker_url: str, loop: str) -> None:
    """Say what will run, where and how: a block of text, or one record when the log is JSON."""
    facts = _facts(settings, app, broker_url, loop)
    if not log.isEnabledFor(logging.INFO):
        return
    if settings.log_format == "json":
        log.info("jobq %s: %s", jobq.__version__, "; ".join(f"{name}: {value}" for name, value in facts.items()))
    else:
        lines = [f"  {name:<12} {value}" for name, value in facts.items()]
        print(f"jobq {jobq.__version__}", *lines, "", sep="\n", file=sys.stderr, flush=True)


def _facts(settings: Settings, app: App, broker_url: str, loop: str) -> dict[str, str]:
    options = settings.worker_options()
    return {
        "app": settings.app or "",
        "tasks": _names(list(app.registry.tasks)),
        "broker": broker_url,
        "queues": _queues(options.weights),
        "concurrency": str(options.concurrency),
        "processes": str(settings.processes),
        "grace": f"{options.grace:g} s",
        "lease": f"{options.lease:g} s",
        "pid": str(os.getpid()),
        "loop": f"{loop}, Python {platform.python_version()}",
    }


def _queues(queues: Sequence[QueueWeight]) -> str:
    if all(queue.weight is None for queue in queues):
        return ", ".join(queue.name for queue in queues)
    return ", ".join(f"{queue.name} (weight {queue.weight or 1})" for queue in queues)


def _names(tasks: list[str]) -> str:
    if not tasks:
        return "none: jobs will be put aside until a worker knows their tasks"
    more = f" and {len(tasks) - _TASKS} more" if len(tasks) > _TASKS else ""
    return ", ".join(tasks[:_TASKS]) + more
