"""The tables and functions: what they are, and how they get into a database."""

from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Final

from jobq.errors import BrokerRefused
from jobq_postgres._driver import Connection

VERSION: Final = 1
"""What this jobq brings along. It grows with every change, and a change only adds."""
_OLDEST: Final = 1
"""What it still works with: the versions of jobq that run beside this one during a deployment."""
_SETTINGS: Final = (
    "SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off "
    "SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_material = off "
    "SET jit = off"
)
"""A plan that was made when a table was empty must serve when it has a million rows, so none is made by size."""
_TEXT: Final = "\n".join(
    Path(__file__).with_name(name).read_text(encoding="utf-8") for name in ("tables.sql", "functions.sql")
)
_LOCK: Final = "SELECT pg_advisory_xact_lock(hashtext('jobq schema'))"
_FOUND: Final = """
SELECT CASE WHEN to_regclass('$SCHEMA.versions') IS NULL THEN 'none' ELSE 'some' END
"""
_VERSION: Final = "SELECT version, oldest, digest FROM $SCHEMA.versions"
_NOTE: Final = """
INSERT INTO $SCHEMA.versions (version, oldest, digest) VALUES ($VERSION, $OLDEST, '$DIGEST')
ON CONFLICT (one) DO UPDATE SET version = excluded.version, oldest = excluded.oldest, digest = excluded.digest
"""


def script(schema: str) -> str:
    """Everything that `schema` has to have, as SQL that may be run again and again."""
    create = f'CREATE SCHEMA IF NOT EXISTS "{schema}";'
    return "\n".join(["BEGIN;", f"{_LOCK};", create, _contents(schema), f"{_note(schema)};", "COMMIT;"])


def grants(schema: str, role: str) -> str:
    """What `role` needs for jobs to be enqueued and run, as SQL."""
    name = '"' + role.replace('"', '""') + '"'
    return quoted(
        schema,
        f"GRANT USAGE ON SCHEMA $SCHEMA TO {name};\n"
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA $SCHEMA TO {name};\n"
        f"GRANT USAGE, SELECT, UPDATE ON ALL SEQUENCES IN SCHEMA $SCHEMA TO {name};\n"
        f"GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA $SCHEMA TO {name};",
    )


def quoted(schema: str, sql: str) -> str:
    """`sql` with the schema's name in it."""
    return sql.replace("$SCHEMA", f'"{schema}"').replace("$NAME", schema).replace("$SETTINGS", _SETTINGS)


async def missing(connection: Connection, schema: str) -> str | None:
    """What `schema` lacks, in words, or None. Raises `BrokerRefused` if it is too new for this jobq."""
    if await connection.fetchval(quoted(schema, _FOUND)) == "none":
        return f'there is no jobq in the schema "{schema}"'
    version, oldest, digest = await connection.fetchrow(quoted(schema, _VERSION))
    if oldest > VERSION:
        raise BrokerRefused(
            f'the schema "{schema}" has version {version}, which this jobq is too old for; it knows {VERSION}'
        )
    if version > VERSION or (version == VERSION and digest == _digest(schema)):
        return None
    if version == VERSION:
        return f'the schema "{schema}" has version {version}, but not as this jobq brings it'
    return f'the schema "{schema}" has version {version}, and this jobq brings {VERSION}'


async def apply(connection: Connection, schema: str) -> bool:
    """Bring `schema` up to date, all or nothing; says whether it was not. Others may do the same at the same time."""
    async with connection.transaction():
        await connection.execute(_LOCK)
        if await missing(connection, schema) is None:
            return False
        if not await connection.fetchval("SELECT to_regnamespace($1) IS NOT NULL", f'"{schema}"'):
            await connection.execute(f'CREATE SCHEMA "{schema}"')
        await connection.execute(_contents(schema))
        await connection.execute(_note(schema))
    return True


@lru_cache(16)
def _contents(schema: str) -> str:
    return quoted(schema, _TEXT)


def _digest(schema: str) -> str:
    return sha256(_contents(schema).encode()).hexdigest()


def _note(schema: str) -> str:
    note = _NOTE.strip().replace("$VERSION", str(VERSION)).replace("$OLDEST", str(_OLDEST))
    return quoted(schema, note.replace("$DIGEST", _digest(schema)))
