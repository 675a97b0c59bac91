"""Annotations that are strings, and names that only a type checker knows."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from jobq import App, errors
from jobq._signature import Signature

if TYPE_CHECKING:
    from somewhere_else import Unknown  # type: ignore[import-not-found]

app = App()


@app.task
async def later(card: Card, at: datetime, *ids: UUID, flag: bool = False) -> None: ...


@app.task
async def partly_unknown(at: datetime, thing: Unknown, *, other: Unknown | None = None) -> None: ...  # pyright: ignore[reportUnknownParameterType]


@dataclass
class Card:  # defined after the task that names it
    name: str
    parent: Card | None = None


def test_string_annotations_are_resolved_when_they_are_needed() -> None:
    now = datetime(2027, 1, 1, tzinfo=timezone.utc)  # noqa: UP017 - any zone
    card = Card("a", Card("b"))
    call = later.call(card, now, UUID(int=1), UUID(int=2), flag=True)
    args, kwargs = later.signature.decode(call.body)
    assert list(args) == [card, now, UUID(int=1), UUID(int=2)]
    assert kwargs == {"flag": True}


def test_a_name_that_only_the_type_checker_knows_counts_as_any_and_the_others_keep_their_types() -> None:
    now = datetime(2027, 1, 1, tzinfo=timezone.utc)  # noqa: UP017
    task: Any = app.registry.tasks["partly_unknown"]
    call = task.call(now, {"a": 1}, other=[1])
    args, kwargs = task.signature.decode(call.body)
    assert list(args) == [now, {"a": 1}]
    assert kwargs == {"other": [1]}
    with pytest.raises(errors.EncodeError, match=r"'at'"):
        task.call("no date", 1)


def test_a_local_class_is_resolved_or_counts_as_any() -> None:
    @dataclass
    class Local:
        x: int

    def task(a: Local) -> None: ...

    args, _ = Signature(task, "task").decode(Signature(task, "task").encode((Local(1),), {}))
    assert args[0] in (Local(1), {"x": 1})


def test_no_annotations_at_all() -> None:
    def task(a: Any, b: Any = None, *c: Any, **d: Any) -> None: ...

    task.__annotations__ = {}
    signature = Signature(task, "task")
    args, kwargs = signature.decode(signature.encode((1, {"x": [2]}, 3), {"z": 4}))
    assert (list(args), dict(kwargs)) == ([1, {"x": [2]}, 3], {"z": 4})
