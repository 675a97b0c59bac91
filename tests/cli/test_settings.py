"""Options as arguments, as environment variables, and as what a parent tells its children."""

import os
import sys
from dataclasses import fields

import pytest

from jobq.worker.command import worker
from jobq.worker.settings import Settings

NAMES = [field.name for field in fields(Settings)]
UNUSUAL = Settings(
    app="unusual:app",
    broker="amqp://unusual:1/7",
    store="redis://unusual:1/7",
    outbox="postgresql://unusual:1/7",
    queues=("mail:3", "other"),
    concurrency=3,
    processes=4,
    grace=0.1,
    burst=True,
    reload=True,
    log_format="json",
    log_level="error",
)


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("JOBQ_"):
            monkeypatch.delenv(name)


def parsed(*arguments: str) -> Settings:
    """What the command line makes of arguments, and of the environment."""
    return Settings(**worker.make_context("worker", list(arguments)).params)


def child_of(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """What a child understands that is started with these settings."""
    python, flag, module, *arguments = settings.command()
    assert [python, flag, module] == [sys.executable, "-m", "jobq.worker"]
    for name, value in settings.environ({}).items():
        monkeypatch.setenv(name, value)
    return parsed(*arguments)


def test_every_option_is_set_by_a_variable_with_its_name() -> None:
    assert {parameter.name for parameter in worker.params} == set(NAMES)
    for parameter in worker.params:
        words = parameter.opts[-1].removeprefix("--")
        variables = [parameter.envvar] if isinstance(parameter.envvar, str) else list(parameter.envvar or ())
        assert f"JOBQ_{words.replace('-', '_').upper()}" in variables, words


@pytest.mark.parametrize("field", NAMES)
def test_an_unusual_option_reaches_the_children(field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert getattr(parsed(), field) != getattr(UNUSUAL, field), "or the test would see nothing"
    assert getattr(child_of(UNUSUAL, monkeypatch), field) == getattr(UNUSUAL, field)


def test_the_usual_options_reach_the_children_whatever_the_parents_environment_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    usual = parsed()
    for name, value in UNUSUAL.environ({}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("JOBQ_QUEUE", "mail")
    assert child_of(usual, monkeypatch) == usual


def test_a_child_has_the_rest_of_its_parents_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PASSED_ON", "yes")
    assert UNUSUAL.environ()["PASSED_ON"] == "yes"
