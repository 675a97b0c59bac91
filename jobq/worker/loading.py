"""From `module:app` to the App; whatever is wrong with it is said in words."""

import importlib
import os
import sys
import tomllib
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any, Final, cast

from jobq._checks import nearest
from jobq.app import App
from jobq.errors import AppNotFound

__all__ = ["app_name", "load_app"]

_FRAMES: Final = 4
_SYNTAX: Final = "an app is named as module:app, e.g. myproject.jobs:app"


def app_name(given: str | None) -> str:
    """The app to run: `given`, else `[tool.jobq] app` of the pyproject.toml here. Raises `AppNotFound`."""
    name = given or _from_pyproject(Path("pyproject.toml"))
    if not name:
        raise AppNotFound(
            "no app was named. Type python -m jobq.worker module:app, set JOBQ_APP=module:app, "
            'or write app = "module:app" under [tool.jobq] in pyproject.toml'
        )
    return name


def load_app(name: str) -> App:
    """Import the App that `name` (`module:app`) says. Raises `AppNotFound`."""
    module_name, colon, path = name.partition(":")
    if not module_name or (colon and not path) or "/" in module_name or module_name.endswith(".py"):
        raise AppNotFound(f"{name!r} names no app: {_SYNTAX}{_instead_of_file(name)}")
    _see_working_directory()
    module = _import(module_name, name)
    if not colon:
        return _only_app(module)
    found: Any = module
    for part in path.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise AppNotFound(_no_such_attribute(module, path)) from None
    if not isinstance(found, App):
        raise AppNotFound(f"{name!r} is no jobq.App but {_a(type(found).__name__)}. {_apps_in(module)}")
    return found


def _from_pyproject(file: Path) -> str | None:
    if not file.is_file():
        return None
    try:
        with file.open("rb") as stream:
            document = tomllib.load(stream)
    except (OSError, tomllib.TOMLDecodeError) as exc:
        raise AppNotFound(f"no app was named, and {file} cannot be read: {exc}") from exc
    name: object = document
    for key in ("tool", "jobq", "app"):
        name = cast("dict[str, object]", name).get(key) if isinstance(name, dict) else None
    if name is None or isinstance(name, str):
        return name
    raise AppNotFound(f"[tool.jobq] app in {file} is {name!r}; {_SYNTAX}")


def _instead_of_file(name: str) -> str:
    file, _, path = name.partition(":")
    if not file.endswith(".py"):
        return ""
    module = file.removesuffix(".py").removeprefix("./").replace("/", ".")
    return f". Did you mean {module}:{path or 'app'}?"


def _see_working_directory() -> None:
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)


def _import(module: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as exc:
        if exc.name is None or not f"{module}.".startswith(f"{exc.name}."):
            raise AppNotFound(_broken(module, exc)) from exc
        raise AppNotFound(
            f"cannot load {name!r}: there is no module {exc.name!r}, neither here ({Path.cwd()}) "
            f"nor installed.{nearest(exc.name.rpartition('.')[2], _modules_beside(exc.name))}"
        ) from None
    except (Exception, SystemExit) as exc:
        raise AppNotFound(_broken(module, exc)) from exc


def _broken(module: str, exc: BaseException) -> str:
    """The module's own mistake: its last frames, without ours and those of the import system."""
    frames = [f for f in traceback.extract_tb(exc.__traceback__) if not _is_machinery(f.filename)]
    lines = traceback.format_list(frames[-_FRAMES:]) + traceback.format_exception_only(exc)
    return f"importing {module!r} failed:\n\n" + "".join(lines).rstrip()


def _is_machinery(filename: str) -> bool:
    return filename == __file__ or filename.startswith("<frozen") or filename == importlib.__file__


def _modules_beside(name: str) -> list[str]:
    folder = Path(*name.split(".")[:-1])
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return []
    return [e.name.removesuffix(".py") for e in entries if e.name.endswith(".py") or e.is_dir()]


def _only_app(module: ModuleType) -> App:
    apps = _apps(module)
    if len(apps) == 1:
        return cast("App", getattr(module, apps[0]))
    raise AppNotFound(f"{module.__name__!r} does not say which app: {_SYNTAX}. {_apps_in(module)}")


def _apps(module: ModuleType) -> list[str]:
    return [name for name, value in vars(module).items() if isinstance(value, App)]


def _apps_in(module: ModuleType) -> str:
    apps = ", ".join(f"{module.__name__}:{name}" for name in _apps(module))
    return f"Apps in that module: {apps}" if apps else "That module holds no App; make one with app = jobq.App()"


def _no_such_attribute(module: ModuleType, path: str) -> str:
    near = nearest(path, _apps(module)) or nearest(path, list(vars(module)))
    return f"the module {module.__name__!r} has no {path!r}. {_apps_in(module)}.{near}"


def _a(noun: str) -> str:
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"
