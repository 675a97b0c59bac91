"""From `module:app` to the App."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobq.errors import AppNotFound
from jobq.worker.loading import app_name, load_app

ONE = "from jobq import App\napp = App()\n"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working directory; modules imported from it are forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def why(name: str) -> str:
    with pytest.raises(AppNotFound) as caught:
        load_app(name)
    return str(caught.value)


def test_a_module_with_one_app_needs_no_name(here: Path) -> None:
    (here / "only_one.py").write_text(ONE)
    assert load_app("only_one") is load_app("only_one:app")
    assert sys.path[0] == str(here)


def test_apps_may_be_attributes_of_objects_in_packages(here: Path) -> None:
    (here / "pack").mkdir()
    (here / "pack" / "inner.py").write_text(ONE + "class Holder:\n    kept = app\n")
    assert load_app("pack.inner:Holder.kept") is load_app("pack.inner:app")
    assert "there is no module 'pack.iner', neither here" in why("pack.iner:app")
    assert why("pack.iner:app").endswith("Did you mean 'inner'?")
    assert "has no 'Holder.keep'" in why("pack.inner:Holder.keep")


def test_a_module_without_apps(here: Path) -> None:
    (here / "bare.py").write_text("thing = 1\n")
    assert why("bare:thing").endswith(
        "is no jobq.App but an int. That module holds no App; make one with app = jobq.App()"
    )
    assert why("bare:thin").endswith("Did you mean 'thing'?")
    assert "does not say which app" in why("bare")


@pytest.mark.parametrize("name", ["", ":app", "mod:", "a/b.py:app", "./x.py"])
def test_what_names_nothing(name: str) -> None:
    assert "names no app: an app is named as module:app" in why(name)


def test_files_are_turned_into_modules() -> None:
    assert why("./src/jobs.py:queue").endswith("Did you mean src.jobs:queue?")


@pytest.mark.parametrize(
    ("source", "last"),
    [
        ("import nowhere_to_be_found", "ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("def f(:", "SyntaxError: invalid syntax"),
    ],
)
def test_modules_that_fail(here: Path, source: str, last: str) -> None:
    (here / "failing.py").write_text(source)
    lines = why("failing:app").splitlines()
    assert lines[0] == "importing 'failing' failed:"
    assert lines[-1] == last


def test_the_name_comes_from_pyproject(here: Path) -> None:
    with pytest.raises(AppNotFound, match="no app was named"):
        app_name(None)
    file = here / "pyproject.toml"
    file.write_text('[tool.jobq]\napp = "x:app"\n')
    assert app_name(None) == "x:app"
    assert app_name("y:app") == "y:app"
    file.write_text("[tool]\njobq = 3\n")
    with pytest.raises(AppNotFound, match="no app was named"):
        app_name(None)
    file.write_text("[tool.jobq]\napp = 3\n")
    with pytest.raises(AppNotFound, match=r"\[tool.jobq\] app in pyproject.toml is 3; an app is named"):
        app_name(None)
    file.write_text("[tool")
    with pytest.raises(AppNotFound, match=r"no app was named, and pyproject.toml cannot be read"):
        app_name(None)
