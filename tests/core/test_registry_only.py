"""Nothing in a message makes a worker import, resolve or call what is not registered."""

import ast
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

import jobq
from jobq import App, Client, Job
from jobq.model import Stamp
from jobq.worker import Worker
from jobq_memory import MemoryBroker
from tests.core.bench import state_of

PACKAGE = Path(jobq.__file__).parent
SOURCES = [
    path
    for root in (PACKAGE, *sorted((PACKAGE.parent / "brokers").glob("jobq_*")))
    for path in sorted(root.rglob("*.py"))
]
WATCHED: list[str] = []
WATCHING = threading.Event()


def hook(event: str, args: tuple[Any, ...]) -> None:
    if WATCHING.is_set() and event in {
        "import",
        "exec",
        "pickle.find_class",
        "os.system",
        "subprocess.Popen",
        "open",
    }:
        WATCHED.append(f"{event} {args[0] if args else ''}"[:200])


sys.addaudithook(hook)


@pytest.fixture
def watched() -> Iterator[list[str]]:
    WATCHED.clear()
    WATCHING.set()
    yield WATCHED
    WATCHING.clear()


NAMES = [
    "os.system", "os:system", "builtins.eval", "subprocess.Popen", "__import__", "jobq.worker.Worker", "antigravity",
    "this", "..", "__class__", "work.__globals__", "work.function", "Work", "work ", "w\u043erk", "", "x" * 5000,
    "tests.core.test_registry_only.hook", "../../etc/passwd", "${jndi:ldap://x}", "work\n", "\x00", "; DROP TABLE jobs",
]  # fmt: skip
PAYLOADS = [
    b'{"args":[{"__reduce__":["os.system","true"]}]}',
    b'{"args":[{"__class__":"os.system","__args__":["true"]}]}',
    b'{"args":[{"py/object":"os.system"}]}',
    b'{"args":["!!python/object/apply:os.system [true]"]}',
    b"\x80\x04\x95\x1d\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94\x8c\x04true\x94\x85\x94R\x94.",
    b'{"kwargs":{"__globals__":1}}',
    b'{"args":["x"],"function":"os.system"}',
]


async def test_a_name_that_is_not_registered_is_never_imported_or_resolved(watched: list[str]) -> None:
    app, ran = App(), list[object]()

    @app.task(name="work")
    async def work(x: Any) -> None:
        ran.append(x)

    async with MemoryBroker() as broker, Client(broker) as client:
        await client.perform_async(work, 0)
        await Worker(app, broker, burst=True).run()  # whatever is imported late by itself
        modules = set(sys.modules)
        for n, name in enumerate(NAMES):
            await broker.enqueue(
                [Job(id=f"n{n}", task=name, body=msgspec.Raw(b'{"args":["true"]}'))], Stamp(f"c{n}", 1)
            )
        for n, payload in enumerate(PAYLOADS):
            await broker.enqueue([Job(id=f"p{n}", task="work", body=msgspec.Raw(payload))], Stamp(f"d{n}", 1))
        watched.clear()
        await Worker(app, broker, burst=True).run()
        seen = [event for event in watched if not event.startswith("open /proc/")]
        assert {f"n{n}" for n in range(len(NAMES))} <= set(state_of(broker).jobs)
    assert [event for event in seen if not event.startswith("open ")] == []
    assert set(sys.modules) == modules
    assert all(isinstance(value, (int, dict, str)) for value in ran), "what looks like code stays data"


def calls(tree: ast.AST) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node.lineno
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
            for alias in node.names:
                yield f"import {module}.{alias.name}".replace(" .", " "), node.lineno


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE.parent)))
def test_no_pickle_eval_exec_or_yaml_in_the_package(path: Path) -> None:
    forbidden = {"eval", "exec", "__import__"}
    modules = ("pickle", "marshal", "shelve", "dill", "cloudpickle", "yaml", "jsonpickle")
    for name, line in calls(ast.parse(path.read_text(encoding="utf-8"))):
        assert name not in forbidden, f"{path}:{line}: {name}"
        if name.startswith("import "):
            assert not name.removeprefix("import ").startswith(modules), f"{path}:{line}: {name}"


def test_importing_jobq_imports_no_broker_and_nothing_heavy() -> None:
    import subprocess  # noqa: PLC0415

    code = (
        "import sys, jobq, jobq.worker; "
        "print([m for m in sys.modules if m.split('.')[0] in "
        "{'jobq_memory','jobq_redis','jobq_sqlite','redis','sqlite3','pickle','click','rich','pydantic','pytest'}])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=50)
    assert done.stdout.strip() in {"[]", "['pickle']"}  # the standard library's own asyncio imports may differ
