"""What strangers write into a broker: each job ends with a reason, and costs nobody else."""

import json
import pickle
import random
from pathlib import Path
from typing import Any

from tests.faults.app import nap
from tests.faults.conftest import everywhere
from tests.faults.field import Field, until
from tests.faults.stores import OpenStore, RedisStore

MEGABYTE = 1 << 20


class Loot:
    """Does something when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("/tmp/jobq-was-here"),)


def envelope(task: str = "nap", body: object = None, **fields: object) -> bytes:
    """A sound one, but for what is given. Its id is filled in later."""
    return json.dumps({"id": "$ID", "task": task, "body": {"args": [0]} if body is None else body} | fields).encode()


DEEP = b"[" * 10_000 + b"]" * 10_000
UNREADABLE = {
    "nothing": b"",
    "random-bytes": random.Random(7).randbytes(500),
    "zeros": bytes(100),
    "truncated": envelope()[:-9],
    "no-object": b"[1, 2]",
    "no-utf-8": envelope().replace(b"nap", b"\xff\xfe"),
    "surrogate": envelope().replace(b"nap", b"\\ud800"),
    "version-99": envelope(v=99),
    "version-text": envelope(v="1"),
    "another-id": envelope().replace(b"$ID", b"another"),
    "deep": envelope().replace(b'{"args": [0]}', DEEP),
    "deep-argument": envelope().replace(b"[0]", b"[" + DEEP + b"]"),
    "digits": envelope().replace(b"[0]", b"[" + b"7" * 10**6 + b"]"),
    "5-mb": envelope(body={"args": ["x" * 5 * MEGABYTE]}),
    "nan": envelope().replace(b"[0]", b"[NaN]"),
    "pickle": pickle.dumps(Loot()),
    "arity": envelope(body={"args": [0, 1, 2]}),
    "no-arguments": envelope(body={}),
    "wrong-type": envelope(body={"args": ["x"]}),
    "unknown-keyword": envelope(body={"kwargs": {"seconds": 0, "__class__": "os.system"}}),
    "dunder": envelope(body={"__class__": "subprocess.Popen", "args": [0], "__reduce__": ["os.system", "id"]}),
    "body-text": envelope(body="nap"),
    "body-list": envelope(body=[0]),
}
UNKNOWN = [
    "os.system",
    "builtins.eval",
    "subprocess:Popen",
    "antigravity",
    "../nap",
    "nap\nnap",
    "__import__",
    "",
    "n\u0430p",
]


@everywhere
async def test_hostile_jobs_end_with_a_reason_and_cost_nobody_else(field: Field, tmp_path: Path) -> None:
    await field.enqueue(nap, 0, count=10)
    hostile = {f"bad-{name}": data.replace(b"$ID", f"bad-{name}".encode()) for name, data in UNREADABLE.items()}
    for number, task in enumerate(UNKNOWN):
        hostile[f"who{number}"] = envelope(task, id=f"who{number}")
    for name, data in hostile.items():
        field.store.put(name, data)
    await field.enqueue(nap, 0, count=10)
    audit = tmp_path / "audit"
    worker = field.worker(audit=str(audit), park_grace=0.0)
    await field.quiet()
    assert worker.ended is None
    await field.settled()

    dead = field.store.dead()
    assert set(dead) == set(hostile)
    for name, trail in dead.items():
        assert trail.failure is not None
        assert trail.attempt == 0
        assert trail.failure.message, name
        assert trail.failure.kind == ("TaskUnknown" if name.startswith("who") else "DecodeError")
    assert len(field.ledger.ended()) == 20
    assert len(field.ledger.runs()) == 20
    assert not Path("/tmp/jobq-was-here").exists()
    watched = audit.read_text()
    assert "import" in watched, "the hook was not there"
    for word in ("os.system", "find_class", "antigravity", "Popen", "os.exec"):
        assert word not in watched.replace("('subprocess'", "")
    assert "\nnap" not in worker.log
    assert len(worker.log) < MEGABYTE


async def test_a_job_of_an_unknown_task_waits_for_a_worker_that_knows_it(field: Field) -> None:
    store = field.store
    assert isinstance(store, OpenStore)
    await field.client()
    await field.enqueue(nap, 0)
    store.put("who", envelope("os.system", id="who"))
    field.worker()
    await until(lambda: store.trail("who").parked, "it is put aside")
    assert store.trail("who").attempt == 0
    assert "who" in store.live()
    await field.stop()


async def test_redis_values_with_a_broken_head_are_dead(on_redis: Field) -> None:
    store = on_redis.store
    assert isinstance(store, RedisStore)
    heads = [b"", b"\n", b"9default\n", b"2\n", b"2" + b"q" * 10_000, b"\xff\xff\n"]
    for number, head in enumerate(heads):
        store.put_raw(f"bad{number}", head + b"{}")
    await on_redis.enqueue(nap, 0)
    on_redis.worker()
    await on_redis.settled()
    assert len(store.dead()) == len(heads)
    assert all(trail.failure for trail in store.dead().values())
