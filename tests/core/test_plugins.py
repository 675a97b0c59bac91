"""Brokers by name or URL: found through entry points, and what is wrong is said with the way out."""

import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace

import pytest

from jobq import errors, plugins
from jobq.plugins import open_broker, resolve_url, with_store
from jobq_memory import MemoryBroker

Install = Callable[..., None]

INSTALLED = "memory, postgres, redis, rmq, sqlite"


def only(monkeypatch: pytest.MonkeyPatch, *entries: EntryPoint) -> None:
    """Have these plug-ins installed and no others."""

    def entry_points(*, group: str) -> list[EntryPoint]:
        return [entry for entry in entries if entry.group == group]

    monkeypatch.setattr(plugins, "entry_points", entry_points)


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Have one plug-in installed, with this source."""
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])

    def install(name: str, source: str, *, distribution: str = "jobq") -> None:
        (tmp_path / "a_plugin.py").write_text(source)
        monkeypatch.delitem(sys.modules, "a_plugin", raising=False)
        entry = EntryPoint(name, "a_plugin:make", plugins.GROUP)
        vars(entry).update(dist=SimpleNamespace(name=distribution))
        only(monkeypatch, entry)

    return install


@pytest.mark.parametrize(
    ("given", "environ", "url"),
    [
        ("redis://h/1", {"JOBQ_REDIS_URL": "redis://other"}, "redis://h/1"),
        ("redis", {"JOBQ_REDIS_URL": "rediss://h/1"}, "rediss://h/1"),
        ("redis", {}, "redis://localhost:6379/0"),
        ("redis", {"JOBQ_REDIS_URL": ""}, "redis://localhost:6379/0"),
        ("SQLite", {}, "sqlite:///jobq.db"),
        ("rmq", {}, "amqp://guest:guest@localhost:5672/"),
        ("postgres", {}, "postgresql://localhost/postgres"),
        ("memory", {}, "memory://"),
        ("acme", {"JOBQ_ACME_URL": "acme://h"}, "acme://h"),
    ],
)
def test_a_short_name_stands_for_its_variable_or_the_usual_address(
    given: str, environ: dict[str, str], url: str
) -> None:
    assert resolve_url(given, environ) == url


@pytest.mark.parametrize(
    ("given", "store", "url"),
    [
        (
            "amqp://h/?type=classic",
            "redis://:p@r/1?a=b",
            "amqp://h/?type=classic&store=redis%3A%2F%2F%3Ap%40r%2F1%3Fa%3Db",
        ),
        ("amqps://h", "sqlite", "amqps://h?store=sqlite%3A%2F%2F%2Fjobq.db"),
    ],
)
def test_a_store_is_an_option_of_its_brokers_url(given: str, store: str, url: str) -> None:
    assert with_store(given, store) == url


@pytest.mark.parametrize("given", ["sqlite:///jobs.db", "redis", "memory://"])
def test_a_broker_that_keeps_everything_itself_has_no_store(given: str) -> None:
    with pytest.raises(errors.ConfigError, match="keeps everything itself"):
        with_store(given, "redis")


def test_the_environment_is_looked_at_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBQ_ACME_URL", "acme://here")
    assert resolve_url("acme") == "acme://here"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            "redsi",
            "'redsi' is no broker: give a URL, or one of memory, postgres, redis, rmq, sqlite. Did you mean 'redis'?",
        ),
        ("kafka", r"'kafka' is no broker: .*sqlite\.$"),
        ("", "'' is no broker"),
        ("jobs.db", r"'jobs.db' is no broker: .* A file is sqlite:///jobs.db$"),
        ("/var/Jobs.sqlite3", r"A file is sqlite:////var/Jobs.sqlite3$"),
        ("redsi://localhost", "no installed broker serves 'redsi://'; installed are: .*. Did you mean 'redis'?"),
        ("redisss://localhost", "Did you mean 'rediss'?"),
        ("sqlite3:///jobs.db", "Did you mean 'sqlite'?"),
        (
            "kafka://localhost",
            r"no installed broker serves 'kafka://'; installed are: memory, postgres, redis, rmq, sqlite\.$",
        ),
        ("://x", "no installed broker serves '://'"),
    ],
)
def test_an_unknown_broker_is_answered_with_those_there_are_and_the_nearest(given: str, message: str) -> None:
    with pytest.raises(errors.UnknownBroker, match=message.replace("?", r"\?")):
        open_broker(given)


@pytest.mark.parametrize(
    "url",
    [
        "redsi://me:hunter2@h/0",
        "me:hunter2@h",
        "redis:hunter2@h:6379",
        "redis:/x:hunter2@h",
        "localhost:6379?password=hunter2",
        "redis:localhost?password=x@hunter2",
        "me:x?hunter2@h",
        "me:hunter2@h/jobs.db",
    ],
)
def test_no_password_is_shown(url: str) -> None:
    with pytest.raises(errors.UnknownBroker) as caught:
        open_broker(url)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["redis://:hunter2[x@h/0", "redis://:x]hunter2@h", "redis://me:hunter2\u2100@h", "nosuch://[hunter2"]
)
def test_a_url_that_cannot_be_split_is_an_error_that_says_why_and_shows_no_password(url: str) -> None:
    with pytest.raises(errors.ConfigError, match=r"'\[' and '\]' .*%5B and %5D") as caught:
        open_broker(url)
    assert "hunter2" not in str(caught.value)
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)


def test_a_driver_after_the_plus_is_the_broker_s_business() -> None:
    with pytest.raises(errors.UnknownBroker, match=r"serves 'nosuch\+fast://'"):
        open_broker("nosuch+fast://h")


def test_a_plugin_of_somebody_else_is_found_by_its_scheme(install: Install) -> None:
    install("acme", "from jobq_memory import MemoryBroker\ndef make(url, *, clock): return MemoryBroker('memory://')\n")
    assert isinstance(open_broker("acme://h"), MemoryBroker)


def test_a_missing_library_is_answered_with_the_line_that_installs_it(install: Install) -> None:
    install("redis", "import no_such_library.inside\n")
    with pytest.raises(errors.MissingExtra) as caught:
        open_broker("redis://h")
    assert str(caught.value) == (
        "the redis broker needs 'no_such_library', which is not installed: pip install \"jobq[redis]\""
    )
    assert isinstance(caught.value, ImportError)


def test_a_missing_library_of_somebody_else_s_plugin_is_no_extra_of_ours(install: Install) -> None:
    install("acme", "import no_such_library\n", distribution="acme-jobq")
    with pytest.raises(errors.MissingExtra, match=r"not installed: pip install no_such_library$"):
        open_broker("acme://h")


@pytest.mark.parametrize("source", ["import jobq_acme_gone\n", "from jobq import no_such_name\n", "make = unknown\n"])
def test_a_plugin_that_is_itself_broken_is_no_missing_extra(install: Install, source: str) -> None:
    install("acme", source)
    with pytest.raises((ImportError, NameError)) as caught:
        open_broker("acme://h")
    assert not isinstance(caught.value, errors.JobqError)


def test_an_entry_point_that_makes_nothing_is_named(install: Install) -> None:
    install("acme", "make = 5\n")
    with pytest.raises(errors.ConfigError, match=r"the entry point acme = a_plugin:make is not callable"):
        open_broker("acme://h")


def test_without_any_plugin_it_asks_whether_jobq_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch)
    with pytest.raises(errors.UnknownBroker, match=r"installed are: none \(is jobq itself installed"):
        open_broker("sqlite:///x.db")
