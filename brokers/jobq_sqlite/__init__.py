"""Jobs in one SQLite file: the broker that needs no server."""

from jobq_sqlite._broker import SqliteBroker

__all__ = ["SqliteBroker"]
