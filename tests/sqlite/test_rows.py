"""Rows that nobody of us has written, odd names, and what a claim costs."""

import re
import sqlite3
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from jobq.model import Beat, Claim, Dead, Done, Released, Trail
from jobq_sqlite import SqliteBroker, _enqueue, _found, _lease, _turn, _watch
from jobq_sqlite._open import connect
from jobq_sqlite._sql import Tx, one_row
from jobq_sqlite._turn import TakeTurn
from jobq_sqlite._url import Place
from tests.sqlite.tools import WORKER, claim, done, fetch, job, put, raw, stamp, turn, url_of

GOOD = b'{"id":"%s","task":"t"}'
BAD = ["bad trail", "bad crashes", "bad \ufffd name"]
INSERT = """
INSERT INTO jobs (n, id, queue, priority, lane, pos, envelope, trail, crashed, crashes)
SELECT column1, column2, 'default', 2, column3, column1, column4, column5, column6, column7
FROM (VALUES (?, ?, ?, ?, ?, ?, ?))
"""


async def test_garbage_hurts_nobody_else(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    async with SqliteBroker(url_of(path)) as broker:
        await put(broker, "first")
        with raw(path) as db:
            rows: list[tuple[object, ...]] = [
                (10, "no json", 2, b"\xff\x00garbage", None, 0, None),
                (11, "empty", 2, b"", None, 0, None),
                (12, "text", 2, '{"id":"text","task":"€"}', None, 0, None),
                (13, "number", 2, 7, None, 0, None),
                (14, "other", 2, GOOD % b"somebody else", None, 0, None),
                (15, "bad trail", 2, GOOD % b"bad trail", b"\x00[", 0, None),
                (16, "bad crashes", 2, GOOD % b"bad crashes", None, 1, "€"),
                (17, "no crashes", 2, GOOD % b"no crashes", None, 1, None),
                (18, "suspect", 5, GOOD % b"suspect", None, 9, b"{"),
            ]
            db.executemany(INSERT, rows)
            db.execute(
                INSERT.replace("column2", "CAST(column2 AS TEXT)"),
                (19, b"bad \xff name", 2, GOOD % b"x", None, 0, None),
            )
        await put(broker, "last")
        found = await claim(broker)
        await broker.sweep("h", 100)
        names = {delivery.job.id: delivery.malformed is None for delivery in found}
        read = {name for name, readable in names.items() if readable}
        assert read == {"first", "text", "no crashes", "last"}
        assert set(names) - read == {"no json", "empty", "number", "other", "suspect", *BAD}
        raw_body = next(delivery for delivery in found if delivery.job.id == "no json").job.body
        assert bytes(raw_body) == b"\xff\x00garbage"
        dead = tuple(Dead(delivery.job.id, delivery.epoch, Trail()) for delivery in found)
        answer = await turn(broker, dead, 0)
        assert [token.id for token in answer.refused] == ["bad \ufffd name"]


async def test_reclaiming_garbage_hurts_nobody_else(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    async with SqliteBroker(url_of(path)) as broker:
        await put(broker, "good")
        with raw(path) as db:
            db.execute(INSERT, (10, "bad", 2, GOOD % b"bad", None, 1, "€"))
            db.execute(INSERT, (11, "none", 2, GOOD % b"none", None, 1, None))
        held = await claim(broker)
        assert len(held) == 3
        swept = await broker.sweep("h", 100, dead=["w"])
        assert swept.reclaimed == 3
        # Late outcomes take the crashes back, where they can be read.
        assert len((await turn(broker, tuple(map(done, held)), 0)).refused) == 3
        found = {delivery.job.id: delivery for delivery in [*await fetch(broker), *await fetch(broker)]}
        assert found["good"].crashes == ()
        assert found["bad"].malformed


@pytest.mark.parametrize(
    "column", ["id = x'00'", "queue = x'00'", "priority = 9", "lane = -1", "pos = 'x'", "due = 'x'", "epoch = 'x'"]
)
async def test_rows_that_no_statement_could_match_are_kept_out(tmp_path: Path, column: str) -> None:
    path = tmp_path / "jobs.db"
    async with SqliteBroker(url_of(path)) as broker:
        await put(broker, "a")
        with raw(path) as db, pytest.raises(sqlite3.IntegrityError):
            db.execute(f"UPDATE jobs SET {column}")


NAMES = ["it's", '"quoted"', "nul\0inside", "\0", "%_?", "$ROWS", "日本語 \U0001f600", "); DROP TABLE jobs; --", ""]


async def test_any_text_may_be_a_name(tmp_path: Path) -> None:
    async with SqliteBroker(url_of(tmp_path / "jobs.db")) as broker:
        await put(broker, *NAMES)
        assert [answer.fate for answer in await broker.enqueue([job(n) for n in NAMES], stamp())] == ["duplicate"] * 9
        found = await claim(broker)
        assert [delivery.job.id for delivery in found] == NAMES
        assert not (await turn(broker, tuple(map(done, found)), 0)).refused
        for name in NAMES:
            await put(broker, name, queue=name)
        for name in NAMES:
            assert [(d.job.id, d.job.queue) for d in await claim(broker, queue=name)] == [(name, name)]


async def test_whatever_its_name_a_job_that_a_heartbeat_names_stays_held(tmp_path: Path) -> None:
    async with SqliteBroker(url_of(tmp_path / "jobs.db")) as broker:
        await put(broker, *NAMES)
        found = await claim(broker)
        beats = [Beat(delivery.job.id, delivery.epoch) for delivery in found]
        orders = await broker.heartbeat(WORKER, beats, 60, max(beat.epoch for beat in beats))
        assert (list(orders.lost), orders.returned) == ([], 0)


@pytest.mark.parametrize("ticket", [0, 5_000_000])
async def test_epochs_grow_in_the_order_of_delivery_near_and_far(tmp_path: Path, ticket: int) -> None:
    path = tmp_path / "jobs.db"
    async with SqliteBroker(url_of(path)) as broker:
        await broker.enqueue([job(name, priority=int(name[0])) for name in ("4a", "0b", "4c", "2d", "2e")], stamp())
        with raw(path) as db:
            db.execute("UPDATE meta SET ticket = ?", (ticket,))
        await broker.heartbeat(WORKER, (), 60)
        first = await broker.turn((), Claim("w", ("default",), 2))
        back = tuple(Released(delivery.job.id, delivery.epoch) for delivery in reversed(first.deliveries))
        await broker.turn(back, Claim("w", resume=first.resume))
        found = (await broker.turn((), Claim("w", ("default",), 10, resume=first.resume))).deliveries
        assert [delivery.job.id for delivery in found] == ["4a", "4c", "2d", "2e", "0b"]
        epochs = [first.resume, *(delivery.epoch for delivery in found)]
        assert epochs == sorted(set(epochs))
        with raw(path) as db:
            (last,) = db.execute("SELECT ticket FROM meta").fetchone()
        assert epochs[-1] <= last < ticket + 1000, "tickets must not be used up by places that are far apart"


def plan_of(db: sqlite3.Connection, sql: str) -> list[str]:
    shaped, _ = one_row([(1, 2, 3, 4, 5, 6, 7, 8)], sql)
    return [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {shaped}", [None] * shaped.count("?"))]


@pytest.mark.parametrize(
    ("sql", "index"),
    [
        (_turn._STATE, "INDEX ready (queue=? AND lane<?)"),
        (_turn._STATE, "INDEX held (worker=? AND epoch>?)"),
        (_turn._GLANCE, "INDEX ready (queue=? AND lane<?)"),
        (_turn._GLANCE, "INDEX held (worker=? AND epoch>?)"),
        (_turn._GLANCE, "INDEX scheduled"),
        (_turn._CLAIM, "INDEX ready (queue=? AND lane>? AND lane<?)"),
        (_turn._CLAIM, "PRIMARY KEY (rowid=?)"),
        (_found._FETCH, "INDEX held (worker=? AND epoch>?)"),
        (_turn._LOST_SUSPECTS, "INDEX held (worker=? AND epoch>?)"),
        (_turn._REMOVE, "PRIMARY KEY (rowid=?)"),
        (_turn._PUT_BACK, "PRIMARY KEY (rowid=?)"),
        (_turn._BURY, "PRIMARY KEY (rowid=?)"),
        (_enqueue._LIVE, "INDEX sqlite_autoindex_jobs_1 (id=?)"),
        (_enqueue._INSERT_NEW, "INDEX sqlite_autoindex_dead_1 (id=?)"),
        (_enqueue._FORGET_DEAD, "INDEX sqlite_autoindex_dead_1 (id=?)"),
        (_lease._HELD, "INDEX held (worker=? AND epoch=?)"),
        (_lease._CRASHED, "INDEX sqlite_autoindex_jobs_1 (id=?)"),
        (_lease._PROMOTE, "INDEX scheduled (due<?)"),
        (_lease._RECLAIM, "INDEX held (worker=?"),
        (_lease._GOOD_BYE, "INDEX held (worker=?"),
        (_lease._COUNT_DUE, "INDEX scheduled (due<?)"),
        (_watch._READY, "INDEX ready (queue=?)"),
    ],
)
def test_no_statement_looks_at_every_job(tmp_path: Path, sql: str, index: str) -> None:
    db = connect(Place(tmp_path / "jobs.db"))
    plan = plan_of(db, sql)
    db.close()
    assert any(index in step for step in plan), plan
    assert not [step for step in plan if step in {"SCAN jobs", "SCAN j", "SCAN dead"}], plan


def steps_of(db: sqlite3.Connection, act: Callable[[], object]) -> int:
    """How many hundreds of instructions SQLite has run."""
    steps = 0

    def step() -> int:
        nonlocal steps
        steps += 1
        return 0

    db.set_progress_handler(step, 100)
    act()
    db.set_progress_handler(None, 0)
    return steps


def plain_turn(tx: Tx, verb: TakeTurn) -> None:
    assert TakeTurn.at_once(tx, [verb])


def careful_turn(tx: Tx, verb: TakeTurn) -> None:
    TakeTurn.run_all(tx, [verb])


@pytest.mark.parametrize("take", [plain_turn, careful_turn])
def test_a_turn_costs_the_same_whatever_waits(tmp_path: Path, take: Callable[[Tx, TakeTurn], None]) -> None:
    db = connect(Place(tmp_path / "jobs.db", "off"), _turn.TURNS)
    db.execute("INSERT INTO workers (id, host, lease_end, info) VALUES ('w', 'h', 1e12, '')")
    received, outcomes = 0, list[Done]()

    def cost() -> int:
        nonlocal received, outcomes
        verb = TakeTurn(outcomes, Claim("w", ("other", "default"), 100, resume=received))
        steps = steps_of(db, lambda: take(Tx(db, 0), verb))
        found = verb.answer.turn()
        assert (len(found.deliveries), len(found.refused), found.next_due) == (100, 0, due)
        outcomes = list(map(done, found.deliveries))
        received = max(delivery.epoch for delivery in found.deliveries)
        return steps

    def fill(upto: int, due: object) -> None:
        db.execute(
            "WITH RECURSIVE c (i) AS ("
            "SELECT coalesce(max(n), 0) + 1 FROM jobs UNION ALL SELECT i + 1 FROM c WHERE i < ?) "
            "INSERT INTO jobs (n, id, queue, priority, lane, pos, due, envelope) "
            "SELECT i, 'job-' || i, 'default', 2, 2, i, ?, '{}' FROM c",
            (upto, due),
        )

    due = None
    fill(1000, due)
    cost()
    few = cost()
    fill(50_000, due)
    due = 1e12
    fill(100_000, due)
    many = cost()
    db.close()
    assert few > 0
    assert many <= few * 1.05


@pytest.mark.parametrize("module", [_enqueue, _found, _lease, _turn, _watch], ids=lambda module: module.__name__)
def test_no_statement_has_numbered_parameters_of_which_some_pythons_warn(module: ModuleType) -> None:
    statements = [value for value in vars(module).values() if isinstance(value, str)]
    assert statements
    assert [text for text in statements if re.search(r"\?\d", text)] == []
