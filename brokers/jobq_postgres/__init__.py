"""Jobs in Postgres 12 or later: every verb is one function of a schema's, so it is one transaction.

`postgresql://[user:password@]host[:port][,host:port]/database`. The query takes `schema=jobq`, `apply=no` (the schema
is left to `jobq schema apply`), `notify=no` (sleepers look for themselves, once in a second), `pooler=transaction` (for
PgBouncer's transaction mode), `timeout=5` (seconds that a call may take), and asyncpg's options for TLS (`sslmode=…`).
"""

from jobq_postgres._broker import PostgresBroker

__all__ = ["PostgresBroker"]
