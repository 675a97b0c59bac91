"""Which broker serves a URL: its scheme says it, up to a plus."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import cast

import pytest

from jobq import plugins
from jobq.clock import Clock
from jobq.testing import ManualClock

Opened = tuple[str, str, Clock | None]


def plugin(name: str) -> SimpleNamespace:
    """An entry point whose broker only says how it was opened."""

    def factory(url: str, *, clock: Clock | None) -> Opened:
        return name, url, clock

    return SimpleNamespace(load=lambda: factory)


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("acme", "memory", "postgres", "redis", "rmq", "sqlite")
    monkeypatch.setattr(plugins, "_installed", lambda: {name: plugin(name) for name in names})


open_broker = cast("Callable[..., Opened]", plugins.open_broker)


@pytest.mark.parametrize(
    ("url", "broker"),
    [
        ("memory://", "memory"),
        ("memory://shared", "memory"),
        ("sqlite:///jobs.db", "sqlite"),
        ("SQLite:///jobs.db", "sqlite"),
        ("redis://localhost:6379/0", "redis"),
        ("rediss://user:secret@localhost", "redis"),
        ("redis+sentinel://a,b:26379/service/0", "redis"),
        ("rediss+sentinel://a/service", "redis"),
        ("redis+cluster://a:1,b:2?namespace=n", "redis"),
        ("rediss+cluster://a", "redis"),
        ("unix:///run/redis.sock?db=0", "redis"),
        ("amqp://guest:guest@localhost:5672/", "rmq"),
        ("amqps://localhost/", "rmq"),
        ("postgres://localhost/jobs", "postgres"),
        ("postgresql://localhost/jobs", "postgres"),
        ("postgresql+fast://localhost/jobs", "postgres"),
        ("acme://localhost", "acme"),
        ("acme+fast://localhost", "acme"),
    ],
)
def test_a_scheme_leads_to_its_broker_which_gets_the_whole_url(url: str, broker: str) -> None:
    assert open_broker(url) == (broker, url, None)


def test_a_name_leads_to_its_broker_under_the_usual_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JOBQ_RMQ_URL", raising=False)
    assert open_broker("rmq") == ("rmq", "amqp://guest:guest@localhost:5672/", None)


def test_the_clock_is_passed_on() -> None:
    clock = ManualClock()
    assert open_broker("memory://", clock=clock) == ("memory", "memory://", clock)
