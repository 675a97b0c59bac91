"""What the worker's command line says, as one record that also travels to child processes."""

import math
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, Self

from jobq.app import App
from jobq.errors import ConfigError
from jobq.plugins import open_broker, resolve_url, with_store
from jobq.worker.options import WorkerOptions, queues_of
from jobq.worker.relay import check_outbox

__all__ = ["PARENT", "SEAT", "Settings"]

PARENT: Final = "JOBQ_PARENT_PID"
"""Set for child processes: the pid of the process that supervises them."""
SEAT: Final = "JOBQ_WORKER_SEAT"
"""Set for children of `--processes`: `host-token`, so that parent and child agree on the worker's id."""
_MEMORY: Final = "memory:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How to run a worker program. Times are seconds; no `queues` means those that the app's tasks name."""

    app: str | None
    broker: str
    store: str | None = None
    outbox: str | None = None
    queues: tuple[str, ...] = ()
    concurrency: int = 100
    processes: int = 1
    grace: float = 25.0
    burst: bool = False
    reload: bool = False
    log_format: str = "text"
    log_level: str = "info"

    def check(self) -> None:
        """Raise `ConfigError` for what can be known to be wrong before the app is imported."""
        if not math.isfinite(self.grace):
            raise ConfigError(f"grace is {self.grace}; it is a number of seconds, 0 or more")
        if self.queues:
            self.worker_options()
        open_broker(self.broker)
        if self.outbox:
            check_outbox(self.outbox)
        if self.processes > 1 and resolve_url(self.broker).startswith(_MEMORY):
            raise ConfigError(
                "memory:// lives inside one process, so the worker's processes would not see each other's jobs. "
                "Leave --processes out, or use --broker sqlite:///jobq.db"
            )

    def for_store(self) -> Self:
        """With the store as an option of the broker's URL. Raises `ConfigError`."""
        return replace(self, broker=with_store(self.broker, self.store), store=None) if self.store else self

    def for_app(self, app: App) -> Self:
        """With the queues filled in: those that the app's tasks name, in equal shares."""
        return self if self.queues else replace(self, queues=queues_of(app.registry))

    def worker_options(self) -> WorkerOptions:
        """The options of each worker."""
        return WorkerOptions(
            queues=self.queues, concurrency=self.concurrency, grace=self.grace, burst=self.burst, worker_id=None
        )

    def environ(self, base: Mapping[str, str] | None = None) -> dict[str, str]:
        """The environment of a child that runs with these settings; URLs may hold passwords, which `ps` would show."""
        values = {
            "JOBQ_APP": self.app or "",
            "JOBQ_BROKER": self.broker,
            "JOBQ_STORE": self.store or "",
            "JOBQ_OUTBOX": self.outbox or "",
            "JOBQ_QUEUES": ",".join(self.queues),
            "JOBQ_QUEUE": "",
            "JOBQ_CONCURRENCY": str(self.concurrency),
            "JOBQ_PROCESSES": str(self.processes),
            "JOBQ_GRACE": str(self.grace),
            "JOBQ_BURST": str(int(self.burst)),
            "JOBQ_RELOAD": str(int(self.reload)),
            "JOBQ_LOG_FORMAT": self.log_format,
            "JOBQ_LOG_LEVEL": self.log_level,
            PARENT: str(os.getpid()),
        }
        return {**(os.environ if base is None else base), **values}

    def command(self) -> list[str]:
        """How to start that child."""
        return [sys.executable, "-m", "jobq.worker", *([self.app] if self.app else [])]
