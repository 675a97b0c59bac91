"""jobq: background jobs for asyncio, on SQLite, Redis and memory."""

__version__ = "0.1.0"
