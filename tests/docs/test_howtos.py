"""The how-tos run as they are, on a database of their own, and print what their page says."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import psycopg
import pytest

from tests.docs.pages import ROOT, Block, blocks, environment

PAGE: Final = ROOT / "docs" / "howto.md"
FILES: Final = sorted((ROOT / "docs" / "howto").glob("*.py"))
PATIENCE: Final = 40.0

_LINK = re.compile(r"\]\((howto/\w+\.py)\)")

each_file = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)


@pytest.fixture(scope="module")
def database(postgres_url: str) -> Iterator[str]:
    """The URL of one that all how-tos share, in which somebody else has jobs."""
    name = f"howto_{os.getpid()}"
    execute(postgres_url, f"CREATE DATABASE {name}")
    url = urlsplit(postgres_url)._replace(path=f"/{name}").geturl()
    execute(url, "CREATE SCHEMA jobq")
    execute(url, "CREATE TABLE jobq.jobs AS SELECT 'yours' AS id")
    yield url
    execute(postgres_url, f"DROP DATABASE {name}")


def execute(url: str, sql: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(sql.encode())
        return cursor.fetchall() if cursor.description else []


def printed(file: Path, url: str, directory: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", str(file), url],
        cwd=directory, env=environment(), timeout=PATIENCE, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def promised(file: Path) -> str:
    """What the page says that it prints: in its section, or else for all."""
    outputs = [block for block in blocks(PAGE) if block.language == "text"]
    return next((block for block in outputs if shown(block) == file), outputs[0]).text


def shown(block: Block) -> Path | None:
    """The file of the section that the block is in."""
    before = PAGE.read_text(encoding="utf-8").splitlines()[: block.line]
    links = _LINK.findall("\n".join(before))
    return PAGE.parent / links[-1] if links else None


@each_file
def test_a_howto_prints_what_its_page_says_however_often_it_is_run(file: Path, database: str, tmp_path: Path) -> None:
    for _ in range(2):
        assert _plain(printed(file, database, tmp_path)) == _plain(promised(file))
    assert list(tmp_path.iterdir()) == []


@each_file
def test_a_howto_stores_a_row_with_its_job_or_neither_and_touches_nothing_else(
    file: Path, database: str, tmp_path: Path
) -> None:
    before = users(database)
    welcomed = re.findall(r"^welcome, (.*) \(user (\d+)\)$", printed(file, database, tmp_path), re.MULTILINE)
    assert [name for name, _ in welcomed] == (["Ada"] if file.stem.endswith("_transaction") else [])
    assert users(database) == before + [(int(number), name) for name, number in welcomed]
    assert execute(database, "SELECT (SELECT count(*) FROM howto.jobs), (SELECT count(*) FROM howto.dead)") == [(0, 0)]
    others = "SELECT relname FROM pg_stat_user_tables WHERE schemaname <> 'howto' AND relname NOT LIKE 'howto%'"
    assert execute(database, others) == [("jobs",)]
    assert execute(database, "SELECT id FROM jobq.jobs") == [("yours",)]


def users(database: str) -> list[tuple[Any, ...]]:
    ((made,),) = execute(database, "SELECT to_regclass('howto_users') IS NOT NULL")
    return execute(database, "SELECT id, name FROM howto_users ORDER BY id") if made else []


def test_every_howto_is_on_its_page_and_says_how_to_run_it() -> None:
    assert sorted(_LINK.findall(PAGE.read_text(encoding="utf-8"))) == [f"howto/{file.name}" for file in FILES]
    for file in FILES:
        explanation = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))
        assert f"    python docs/howto/{file.name} postgresql://" in (explanation or "")


def test_what_the_page_shows_of_a_howto_is_in_it() -> None:
    snippets = [block for block in blocks(PAGE) if block.language == "python"]
    assert {shown(block) for block in snippets} == set(FILES)
    for block in snippets:
        file = shown(block)
        assert file is not None
        assert f"\n{block.text}\n" in file.read_text(encoding="utf-8"), block.where


def _plain(output: str) -> str:
    """Without the ids, which differ from run to run."""
    return re.sub(r"user \d+", "user #", output)
