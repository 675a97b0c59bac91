"""What the documentation says about the repository is so."""

import re
import tomllib
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import click
import msgspec
import pytest

import jobq.cli
from jobq import Retry
from jobq.model import Job
from jobq.plugins import _SCHEMES
from jobq.registry import TaskOptions
from jobq.worker import WorkerOptions
from jobq.worker.command import worker
from tests.docs.pages import PAGES, ROOT, name, prose

DOCS: Final = ROOT / "docs"
PROJECT: Final[dict[str, Any]] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS: Final[dict[str, list[str]]] = PROJECT["project"]["optional-dependencies"]
CONTRACT: Final = {"jobq.broker", "jobq.clock", "jobq.codec", "jobq.errors", "jobq.model"}
LINK: Final = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
PATH: Final = re.compile(r"`((?:jobq|brokers|tests|docs|benchmarks)/[\w./-]*)(?:::\w+)?`")
PROMISE: Final = re.compile(r"`(test_\w+)`")


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{name(page)} links to {target}"
        if anchor:
            assert anchor in _anchors(file), f"{name(page)} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_files_that_are_named_exist(page: Path) -> None:
    for path in PATH.findall(prose(page)):
        assert (ROOT / path).exists(), f"{name(page)} names {path}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_tests_that_are_named_exist(page: Path) -> None:
    tests = "".join(
        file.read_text(encoding="utf-8")
        for folder in (ROOT / "tests", ROOT / "jobq" / "testing")
        for file in folder.rglob("*.py")
    )
    for promise in PROMISE.findall(prose(page)):
        assert f"def {promise}(" in tests, f"{name(page)} names {promise}"


def test_every_page_can_be_found_from_the_index() -> None:
    linked = {(DOCS / target.partition("#")[0]).resolve() for target in LINK.findall(prose(DOCS / "index.md"))}
    assert {page for page in PAGES if page.parent == DOCS and page.name != "index.md"} <= linked


@pytest.mark.parametrize("option", [one for one in worker.params if isinstance(one, click.Option)], ids=str)
def test_every_option_of_the_worker_is_explained_with_its_variable(option: click.Option) -> None:
    rows = re.findall(r"^\| (`-.*?) \| (.*?) \|", (DOCS / "workers.md").read_text(encoding="utf-8"), re.MULTILINE)
    flags = ", ".join(f"`{flag}`" for flag in option.opts)
    variables = [option.envvar] if isinstance(option.envvar, str) else list(option.envvar or ())
    assert variables, f"no variable sets {flags}"
    assert (flags, ", ".join(f"`{variable}`" for variable in variables)) in rows


def test_the_defaults_of_the_workers_options_are_those_of_the_table() -> None:
    text = (DOCS / "workers.md").read_text(encoding="utf-8")
    for option in worker.params:
        if isinstance(option, click.Option) and not option.is_flag and isinstance(option.default, str | int | float):
            row = next(line for line in text.splitlines() if line.startswith("|") and f"`{option.opts[-1]}`" in line)
            default = f"{option.default:g}" if isinstance(option.default, float) else str(option.default)
            assert row.split(" | ")[2].strip("`") == default, row


def test_the_defaults_of_a_worker_object_are_those_of_the_table() -> None:
    text = (DOCS / "workers.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| (\S+) \|", text, re.MULTILINE))
    for option, value in asdict(WorkerOptions(queues=["default"])).items():
        if option in rows and isinstance(value, float):
            assert float(rows[option]) == value, option


def test_the_commands_of_the_readme_exist() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert 'python3 -m venv .venv && .venv/bin/pip install -q ".[cli]" && .venv/bin/jobq demo\n' in readme
    assert any(requirement.startswith("rich") for requirement in EXTRAS["cli"]), "the demo's bar"
    assert "\npython3 tests/run.py\n" in readme
    assert PROJECT["project"]["scripts"]["jobq"] == "jobq.cli:main"
    assert {"demo", "worker"} <= set(jobq.cli.main.commands)
    assert (ROOT / "tests" / "run.py").exists()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_extras_that_are_named_exist(page: Path) -> None:
    for extras in re.findall(r"(?:\.|\bjobq)\[([\w,]+)\]", page.read_text(encoding="utf-8")):
        assert set(extras.split(",")) <= set(EXTRAS), f"{name(page)} installs {extras}"


def test_every_option_of_a_worker_object_is_explained() -> None:
    text = (DOCS / "workers.md").read_text(encoding="utf-8")
    for option in set(WorkerOptions.__dataclass_fields__) - {"weights", "worker_id"}:
        assert f"`{option}`" in text, f"workers.md does not explain {option}"


def test_every_option_of_a_task_is_explained() -> None:
    text = (DOCS / "tasks.md").read_text(encoding="utf-8")
    for option in (*TaskOptions.__dataclass_fields__, *Retry.__dataclass_fields__, "name"):
        assert f"`{option}`" in text, f"tasks.md does not explain {option}"


def test_every_field_of_the_envelope_is_explained() -> None:
    text = (DOCS / "wire-format.md").read_text(encoding="utf-8")
    for field in msgspec.structs.fields(Job):
        assert f"`{field.name}`" in text, f"wire-format.md does not explain {field.name}"


def test_the_table_of_brokers_is_that_of_the_project() -> None:
    entries: dict[str, str] = PROJECT["project"]["entry-points"]["jobq.brokers"]
    packages = {path.parent.name for path in (ROOT / "brokers").glob("*/__init__.py")}
    assert {value.partition(":")[0] for value in entries.values()} == packages
    for page in (ROOT / "README.md", DOCS / "brokers.md"):
        rows = re.findall(r"^\| (?:\[[^\]]*\]\([^)]*\)|[^|]*) \| `([a-z]+)[:+]", page.read_text("utf-8"), re.MULTILINE)
        assert {_SCHEMES.get(row, row) for row in rows} == set(entries), f"{name(page)} has a table of {rows}"


def test_a_broker_may_import_the_contract_and_nothing_else_of_jobq() -> None:
    rules = {rule["name"]: rule for rule in PROJECT["tool"]["importlinter"]["contracts"]}
    rule = rules["brokers see only the contract"]
    modules = {path.stem for path in (ROOT / "jobq").glob("*.py")} - {"__init__"}
    modules |= {path.parent.name for path in (ROOT / "jobq").glob("*/__init__.py")}
    assert {f"jobq.{module}" for module in modules} - CONTRACT == set(rule["forbidden_modules"])
    assert set(rule["source_modules"]) == {path.parent.name for path in (ROOT / "brokers").glob("*/__init__.py")}


def test_the_rights_in_the_docs_are_those_that_are_tested() -> None:
    documented = (DOCS / "brokers.md").read_text(encoding="utf-8")
    tested = (ROOT / "brokers" / "jobq_redis" / "__init__.py").read_text(encoding="utf-8")
    line = re.compile(r"ACL SETUSER.*?\+select", re.DOTALL)
    ours, theirs = line.search(documented), line.search(tested)
    assert ours is not None
    assert theirs is not None
    assert ours[0].split() == theirs[0].split()


def test_decisions_are_numbered_without_gaps_and_listed() -> None:
    adrs = sorted((DOCS / "adr").glob("*.md"))
    assert [int(adr.name[:4]) for adr in adrs] == list(range(1, len(adrs) + 1))
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    for adr in adrs:
        text = adr.read_text(encoding="utf-8")
        assert text.startswith(f"# {adr.name[:4]} "), adr.name
        assert [line for line in text.splitlines() if line.startswith("## ")] == [
            "## Decision",
            "## Rationale",
            "## Avoided designs",
        ], adr.name
        assert f"adr/{adr.name}" in index, f"index.md does not list {adr.name}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_nothing_of_this_machine_is_told(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for word in ("/work/", "/tmp/", "/root/", "/home/"):
        assert word not in text, f"{name(page)} names {word}"


def _anchors(file: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", prose(file), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}
