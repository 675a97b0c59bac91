"""Looking into brokers from outside, without their code, and putting things there that no client would."""

import os
import sqlite3
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import psycopg
from redis import Redis

from jobq.codec import decode_crashes, decode_trail
from jobq.model import NO_TRAIL, Crash, Trail
from tests.servers import Server


class Store(Protocol):
    """What is in a broker."""

    def live(self) -> set[str]:
        """The ids of jobs that are ready, scheduled or held."""
        ...

    def held(self) -> set[str]:
        """The ids of those that a worker holds."""
        ...

    def dead(self) -> dict[str, Trail]:
        """The dead and why."""
        ...

    def crashes(self, job_id: str) -> tuple[Crash, ...]:
        """What the job is charged with."""
        ...

    def put(self, job_id: str, envelope: bytes) -> None:
        """Make it a ready job of the queue `default`."""
        ...

    def check(self) -> None:
        """Raise if a job is in two places, or in none."""
        ...


@runtime_checkable
class OpenStore(Store, Protocol):
    """What is in a broker that shows and gives away all of its state."""

    def remember(self) -> None:
        """Keep the state of this moment, to fall back to."""
        ...

    def fall_back(self) -> None:
        """Lose everything since `remember`."""
        ...

    def trail(self, job_id: str) -> Trail:
        """What its runs have left behind."""
        ...


class SqliteStore:
    """A file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._backup = path.with_suffix(".backup")

    def remember(self) -> None:
        with self._open() as db, closing(sqlite3.connect(self._backup)) as backup:
            db.backup(backup)

    def fall_back(self) -> None:
        with self._open() as db, closing(sqlite3.connect(self._backup)) as backup:
            backup.backup(db)

    def live(self) -> set[str]:
        return {str(row[0]) for row in self._rows("SELECT id FROM jobs")}

    def held(self) -> set[str]:
        return {str(row[0]) for row in self._rows("SELECT id FROM jobs WHERE epoch IS NOT NULL")}

    def dead(self) -> dict[str, Trail]:
        return {str(job_id): decode_trail(trail) for job_id, trail in self._rows("SELECT id, trail FROM dead")}

    def trail(self, job_id: str) -> Trail:
        rows = self._rows("SELECT trail FROM jobs WHERE id = ?", job_id)
        return decode_trail(rows[0][0]) if rows else NO_TRAIL

    def crashes(self, job_id: str) -> tuple[Crash, ...]:
        rows = self._rows("SELECT crashes FROM jobs WHERE id = ?", job_id)
        return decode_crashes(rows[0][0]) if rows else ()

    def put(self, job_id: str, envelope: bytes) -> None:
        with self._open() as db:
            db.execute(
                "INSERT INTO jobs (id, queue, priority, lane, pos, envelope) "
                "SELECT ?, 'default', 2, 2, coalesce(max(pos), 0) + 1, ? FROM jobs",
                (job_id, envelope),
            )

    def check(self) -> None:
        assert self._rows("PRAGMA integrity_check") == [("ok",)]
        assert self._rows("SELECT id FROM jobs WHERE due IS NOT NULL AND epoch IS NOT NULL") == []
        assert self._rows("SELECT id FROM jobs WHERE id IN (SELECT id FROM dead)") == []

    def _rows(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        if not self._path.exists():
            return []
        with self._open() as db:
            return db.execute(sql, values).fetchall()

    @contextmanager
    def _open(self) -> Generator[sqlite3.Connection]:
        with closing(sqlite3.connect(self._path, timeout=10, isolation_level=None)) as db:
            yield db


class RedisStore:
    """A namespace."""

    def __init__(self, url: str, namespace: str, server: Server | None = None) -> None:
        self._redis = cast("Any", Redis).from_url(url)
        self._base = f"jobq:{{{namespace}}}:"
        self._server = server
        self._sizes: dict[Path, int] = {}

    def remember(self) -> None:
        assert self._server is not None, "this server is not ours to kill"
        self._sizes = {file: file.stat().st_size for file in self._server.directory.rglob("*.aof")}

    def fall_back(self) -> None:
        assert self._server is not None
        self._server.kill()
        for file, size in self._sizes.items():
            os.truncate(file, size)  # what was written after it had not reached the disk
        self._server.start()

    def close(self) -> None:
        self._redis.close()

    def live(self) -> set[str]:
        return _texts(self._redis.hkeys(self._base + "jobs"))

    def held(self) -> set[str]:
        keys = self._redis.keys(f"{_literally(self._base)}held:*")
        return {job_id for key in keys for job_id in _texts(self._redis.hkeys(key))}

    def dead(self) -> dict[str, Trail]:
        trails = self._redis.hgetall(self._base + "dead-trails")
        return {job_id.decode(): decode_trail(trail) for job_id, trail in trails.items()}

    def trail(self, job_id: str) -> Trail:
        return decode_trail(self._redis.hget(self._base + "trails", job_id))

    def crashes(self, job_id: str) -> tuple[Crash, ...]:
        return decode_crashes(self._redis.hget(self._base + "crashes", job_id))

    def put(self, job_id: str, envelope: bytes) -> None:
        self.put_raw(job_id, b"2default\n" + envelope)

    def put_raw(self, job_id: str, value: bytes) -> None:
        """Even the place before the envelope is up to the caller."""
        self._redis.hset(self._base + "jobs", job_id, value)
        self._redis.rpush(self._base + "ready:default:2", job_id)
        self._redis.rpush(self._base + "wake:default", "1")

    def check(self) -> None:
        places: list[str] = []
        for key in self._redis.keys(f"{_literally(self._base)}*"):
            kind = key.decode().removeprefix(self._base).partition(":")[0]
            if kind in {"ready", "suspects"}:
                places += map(bytes.decode, self._redis.lrange(key, 0, -1))
            elif kind == "due":
                places += map(bytes.decode, self._redis.zrange(key, 0, -1))
            elif kind == "held":
                places += map(bytes.decode, self._redis.hkeys(key))
        assert len(places) == len(set(places)), "a job is in two places"
        assert set(places) >= self.live(), "a job is nowhere"


class PostgresStore:
    """A schema. To fall back is to restore a backup."""

    _TABLES = ("jobs", "dead", "workers", "stamps")

    def __init__(self, url: str, schema: str) -> None:
        self._url = url
        self._db = psycopg.connect(url, autocommit=True)
        self._schema = schema
        self._counted: list[tuple[str, int]] = []

    def connect(self) -> None:
        """Anew, after the server was gone."""
        self._db.close()
        self._db = psycopg.connect(self._url, autocommit=True)

    def remember(self) -> None:
        for table in self._TABLES:
            self._do(f"CREATE TABLE $.{table}_before AS TABLE $.{table}")
        self._counted = [(name, self._rows(f"SELECT last_value FROM $.{name}")[0][0]) for name in ("epochs", "places")]

    def fall_back(self) -> None:
        with self._db.transaction():
            self._do("LOCK " + ", ".join(f"$.{table}" for table in self._TABLES))
            for table in self._TABLES:
                self._do(f"DELETE FROM $.{table}")
                self._do(f"INSERT INTO $.{table} OVERRIDING SYSTEM VALUE SELECT * FROM $.{table}_before")
            for name, last in self._counted:
                self._do(f"SELECT setval('$.{name}', {last})")

    def close(self) -> None:
        self._db.close()

    def live(self) -> set[str]:
        return {str(row[0]) for row in self._rows("SELECT id FROM $.jobs")}

    def held(self) -> set[str]:
        return {str(row[0]) for row in self._rows("SELECT id FROM $.jobs WHERE epoch IS NOT NULL")}

    def dead(self) -> dict[str, Trail]:
        return {str(job_id): decode_trail(trail) for job_id, trail in self._rows("SELECT id, trail FROM $.dead")}

    def trail(self, job_id: str) -> Trail:
        rows = self._rows("SELECT trail FROM $.jobs WHERE id = %s", job_id)
        return decode_trail(rows[0][0]) if rows else NO_TRAIL

    def crashes(self, job_id: str) -> tuple[Crash, ...]:
        rows = self._rows("SELECT convert_to(crashes::text, 'UTF8') FROM $.jobs WHERE id = %s", job_id)
        return decode_crashes(rows[0][0]) if rows else ()

    def put(self, job_id: str, envelope: bytes) -> None:
        columns = "INSERT INTO $.jobs (id, queue, priority, lane, pos, envelope)"
        self._rows(
            f"{columns} VALUES (%s, 'default', 2, 2, nextval('$.places') * 1024, %s) RETURNING 1", job_id, envelope
        )

    def check(self) -> None:
        assert self._rows("SELECT id FROM $.jobs WHERE due IS NOT NULL AND epoch IS NOT NULL") == []
        assert self._rows("SELECT id FROM $.jobs WHERE (epoch IS NULL) <> (worker IS NULL)") == []
        assert self._rows("SELECT id FROM $.jobs WHERE id IN (SELECT id FROM $.dead)") == []
        assert (
            self._rows(
                "SELECT j.id FROM $.jobs AS j LEFT JOIN $.workers AS w ON w.n = j.worker "
                "WHERE j.worker IS NOT NULL AND w.n IS NULL"
            )
            == []
        )

    def _rows(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        if self._db.execute("SELECT to_regclass(%s)", (f"{self._schema}.jobs",)).fetchone() == (None,):
            return []
        return self._db.execute(sql.replace("$", self._schema).encode(), values).fetchall()

    def _do(self, sql: str) -> None:
        self._db.execute(sql.replace("$", self._schema).encode())


def _texts(values: list[bytes]) -> set[str]:
    return {value.decode() for value in values}


def _literally(text: str) -> str:
    return text.replace("{", "[{]").replace("}", "[}]")
