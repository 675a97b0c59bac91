"""A worker's options: what cannot be right is refused when the worker is made."""

import pytest

from jobq import App
from jobq.errors import ConfigError
from jobq.worker import Worker, WorkerOptions


@pytest.mark.parametrize("name", ["grace", "park_grace", "lease", "renew", "sweep", "max_lag"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_a_time_that_is_no_time_is_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=name):
        WorkerOptions(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("queues", [["a b"], ["a", "a"], [], ["a:0"], ["a:x"], ["a:1001"], "abc"])
def test_queues_that_cannot_be_right_are_refused(queues: list[str]) -> None:
    with pytest.raises(ConfigError):
        WorkerOptions(queues=queues)


def test_without_queues_a_worker_serves_those_that_the_tasks_name() -> None:
    app = App()

    @app.task(queue="mail", retry_queue="mail-again")
    def send() -> None: ...

    assert [weight.name for weight in Worker(app, "memory://").options.weights] == ["default", "mail", "mail-again"]


def test_queues_that_are_given_are_the_only_ones() -> None:
    app = App()

    @app.task(queue="mail")
    def send() -> None: ...

    assert [weight.name for weight in Worker(app, "memory://", queues=["bulk"]).options.weights] == ["bulk"]
