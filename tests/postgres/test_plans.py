"""However many jobs there are, and whatever has become of those before them, no statement reads more than it needs."""

import re
from collections.abc import AsyncIterator, Iterator
from importlib import import_module
from typing import Any, Final

import pytest

from jobq.clock import SYSTEM_CLOCK
from jobq.model import Again, Beat, Claim, Dead, Done, Job, Outcome, Released, Stamp, Trail, WorkerInfo
from jobq_postgres import PostgresBroker, _records, _schema
from jobq_postgres._records import TurnCall
from tests.servers import Server
from tests.services import POSTGRES

asyncpg: Any = import_module("asyncpg")
pytestmark = pytest.mark.timeout(180)

MANY: Final = 1_000_000
WORKER: Final = WorkerInfo(id="w", host="h")
FILL: Final = """
INSERT INTO jobq.jobs (id, queue, priority, lane, pos, due, envelope)
SELECT 'job-' || i, 'q' || i % 10, 2, 2, nextval('jobq.places') * 1024,
    CASE WHEN i % 5 = 0 THEN now() + i * interval '1 second' END, '\\x7b7d'
FROM generate_series(1, $1::integer) AS i
"""
CHURN: Final = """
WITH claimed AS (
    UPDATE jobq.jobs SET worker = 0, epoch = nextval('jobq.epochs') WHERE due IS NULL AND id LIKE '%7' RETURNING id
)
SELECT count(*) FROM claimed
"""
READ: Final = re.compile(r"(?:Index Only|\w+) Scan(?: using \w+)? on \w+")
EXPLAIN: Final = {
    "auto_explain.log_min_duration": "0",
    "auto_explain.log_nested_statements": "on",
    "client_min_messages": "log",
}


class Watched:
    """A connection that keeps the plans of all that is run on it, also within functions."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.plans = list[str]()
        connection.add_log_listener(self._said)

    def _said(self, _: Any, message: Any) -> None:
        self.plans.append(message.message)

    async def run(self, sql: str, *args: object) -> Any:
        return await self._connection.fetch(_schema.quoted("jobq", sql), *args)

    async def turn(self, *outcomes: Outcome, limit: int = 100, suspects: bool = True, resume: int = 0) -> Any:
        queues = [f"q{number}" for number in range(1, 5)]
        call = TurnCall(outcomes, Claim("w", queues, limit, suspects, resume), 0)
        return call.read(await self.run(_records.TURN, *call.args(None)))

    def joined(self) -> list[str]:
        """The plans that compare all rows of one side with all of the other."""
        return [plan for plan in self.plans if "Join Filter" in plan or "Materialize" in plan]

    def reads(self) -> set[str]:
        """How each table was read, and forget it."""
        found = {
            found
            for plan in self.plans
            for found in re.findall(r"((?:Index Only|\w+) Scan(?: using \w+)? on \w+)", plan)
        }
        self.plans.clear()
        return {one for one in found if one.endswith((" jobs", " dead", " workers"))}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(POSTGRES) as server:
        yield server


@pytest.fixture
async def watched(server: Server) -> AsyncIterator[Watched]:
    """On a database that was filled after the connection had made its plans."""
    async with PostgresBroker(server.url):
        pass
    settings = {"session_preload_libraries": "auto_explain", "jit": "off", "plan_cache_mode": "force_generic_plan"}
    connection = await asyncpg.connect(server.url, server_settings={**settings, **EXPLAIN})
    watched = Watched(connection)
    await everything(watched, "warm")
    await connection.execute("TRUNCATE jobq.jobs, jobq.dead")
    await connection.execute(FILL.replace("$1::integer", str(MANY)))
    yield watched
    await connection.close()


async def everything(watched: Watched, name: str) -> None:
    """Every verb, with something to do for each part of it."""
    await watched.run(_records.HEARTBEAT, *_records.heartbeat_args(WORKER, [], 60, 0, None))
    jobs = [Job(id=f"{name}-{number}", task="t", queue="q1") for number in range(10)]
    await watched.run(_records.ENQUEUE, *_records.enqueue_args(jobs, None, None))
    await watched.run(_records.ENQUEUE, *_records.enqueue_args(jobs, None, None))
    late = [Job(id=f"{name}-late", task="t", queue="q1", delay=0.0)]
    await watched.run(_records.ENQUEUE, *_records.enqueue_args(late, None, None))
    stamp = Stamp(name, int(SYSTEM_CLOCK.time() * 1000))
    one = Job(id=f"01a1fdbb-b3ed-78f4-9f73-{abs(hash(name)) % 16**12:012x}", task="t", queue="q1")
    await watched.run(_records.ENQUEUE_ONE, *_records.enqueue_one_args(one, stamp, None))
    held = (await watched.turn(limit=8)).deliveries
    tokens: list[tuple[str, int]] = [(delivery.job.id, delivery.epoch) for delivery in held]
    first, second, third, fourth, *_ = tokens
    outcomes: list[Outcome] = [Done(*first), Again(*second, Trail(), 60.0), Released(*third), Dead(*fourth, Trail())]
    await watched.turn(*outcomes, resume=held[-1].epoch)
    beats = [Beat(*token) for token in tokens[4:6]]
    await watched.run(_records.HEARTBEAT, *_records.heartbeat_args(WORKER, beats, 60, held[-1].epoch, None))
    await watched.run(_records.LOOK, ["q1", "q2"], None, None)
    await watched.run(_records.SWEEP, "h", 100, ["w"], None)


INDEXED: Final = re.compile(r"(Index|Index Only|Tid) Scan.*")


@pytest.mark.parametrize("churned", [False, True], ids=["filled", "churned"])
async def test_among_a_million_jobs_every_statement_goes_by_an_index(watched: Watched, *, churned: bool) -> None:
    if churned:
        await watched.run(CHURN)
        await watched.run("DELETE FROM jobq.jobs WHERE epoch IS NOT NULL AND worker = 0")
        await watched.run("ANALYZE jobq.jobs")
    watched.reads()
    await everything(watched, "churned" if churned else "filled")
    assert watched.joined() == []
    reads = watched.reads()
    assert {"Index Scan using ready on jobs", "Index Scan using held on jobs", "Tid Scan on jobs"} <= reads
    assert [one for one in reads if one.endswith(" jobs") and not INDEXED.fullmatch(one)] == []


async def test_no_statement_is_compiled_though_a_pooler_gives_it_a_connection_that_would(server: Server) -> None:
    async with PostgresBroker(server.url):
        pass
    settings = {"session_preload_libraries": "auto_explain", "jit": "on", "auto_explain.log_analyze": "on"}
    connection = await asyncpg.connect(server.url, server_settings={**EXPLAIN, **settings})
    watched = Watched(connection)
    await everything(watched, "pooled")
    await everything(watched, "again")
    await connection.close()
    assert any("jobq" in plan for plan in watched.plans)
    assert [plan for plan in watched.plans if "JIT:" in plan and "jobq" in plan] == []
