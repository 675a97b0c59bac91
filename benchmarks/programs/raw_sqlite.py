"""The least that could be done with SQLite, called directly: the limit that jobq is compared with.

WAL and `synchronous=FULL`, as jobq has. Enqueue is a transaction of one row, or of 100 if 100 can share it. The drain
is one transaction for each 100 jobs: delete the last 100, mark and read the next. It decodes nothing and runs nothing.
"""

import json
import sqlite3
import time
from typing import Final

from benchmarks.programs import load

BATCH: Final = 100
BODY: Final = (
    b'{"id":"01a1fdbb-b3ed-78f4-9f73-233d3c336cf0","task":"noop","created":1795258299.37,"body":{"args":[123456789]}}'
)
SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS jobs (
    n INTEGER PRIMARY KEY, queue TEXT NOT NULL, worker INTEGER, body BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS ready ON jobs (queue, n) WHERE worker IS NULL;
"""
INSERT: Final = "INSERT INTO jobs (queue, body) VALUES ('default', ?)"
SETTLE: Final = "DELETE FROM jobs WHERE n IN (SELECT value FROM json_each(?))"
CLAIM: Final = f"""
UPDATE jobs SET worker = 1 WHERE n IN (
    SELECT n FROM jobs WHERE queue = 'default' AND worker IS NULL ORDER BY n LIMIT {BATCH}
) RETURNING n, body
"""


def connect(url: str) -> sqlite3.Connection:
    db = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.executescript(SCHEMA)
    return db


def store(db: sqlite3.Connection, rows: int) -> None:
    db.execute("BEGIN IMMEDIATE")
    db.executemany(INSERT, [(BODY,)] * rows)
    db.execute("COMMIT")


def fill(db: sqlite3.Connection, count: int) -> None:
    for start in range(0, count, 1000):
        store(db, min(1000, count - start))


def drain(db: sqlite3.Connection) -> load.Drained:
    settled: list[int] = []
    count, meter = 0, load.Meter()
    while True:
        db.execute("BEGIN IMMEDIATE")
        if settled:
            db.execute(SETTLE, (json.dumps(settled),))
        settled = [n for n, _ in db.execute(CLAIM).fetchall()]
        db.execute("COMMIT")
        if not settled:
            return meter.read(count)
        count += len(settled)


def main() -> None:
    mode, url, amount = load.arguments()
    db = connect(url)
    rate = cpu = 0.0
    match mode:
        case "one":
            rate = load.one_by_one_now(lambda _: store(db, 1), amount)
        case "together":
            rate = load.WIDTH * load.one_by_one_now(lambda _: store(db, load.WIDTH), amount)
        case "bulk":
            start = time.perf_counter()
            fill(db, 3 * int(amount))
            rate = 3 * amount / (time.perf_counter() - start)
        case "noops":
            fill(db, int(amount))
        case _:
            rate, cpu = drain(db)
    load.report(rate=rate, cpu=cpu)
    db.close()


if __name__ == "__main__":
    main()
