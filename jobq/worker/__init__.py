"""Workers: `Worker` as a library, `python -m jobq.worker` as a program."""

from jobq.worker.options import QueueWeight, WorkerOptions
from jobq.worker.relay import relay
from jobq.worker.worker import Worker

__all__ = ["QueueWeight", "Worker", "WorkerOptions", "relay"]
