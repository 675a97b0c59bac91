"""Jobs in this process's memory: the model that other brokers are tested against, and a broker for unit tests."""

from jobq_memory._broker import MemoryBroker

__all__ = ["MemoryBroker"]
