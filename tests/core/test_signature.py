"""Arguments: refused where they are given, and back as what they were."""

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Literal, NamedTuple, NewType, NotRequired, TypedDict
from uuid import UUID

import msgspec
import pydantic
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from jobq import App, errors
from jobq._signature import MAX_PAYLOAD, Signature

UserId = NewType("UserId", int)
KEYWORDS = ("amount", "data", "numbers", "colour", "point")


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Level(IntEnum):
    LOW = 1


class Word(StrEnum):
    HERE = "here"


@dataclass(frozen=True)
class Point:
    x: int
    y: int = 0
    tags: frozenset[str] = field(default_factory=frozenset[str])


class Card(msgspec.Struct):
    name: str
    at: datetime | None = None


class Money(pydantic.BaseModel):
    amount: Decimal
    currency: str = pydantic.Field(default="EUR", alias="cur")


class Refusing(pydantic.BaseModel):
    """Raises what it is told to."""

    error: ClassVar[Exception]

    @pydantic.model_validator(mode="after")
    def refuse(self) -> "Refusing":
        raise self.error


class Movie(TypedDict):
    title: str
    year: NotRequired[int]


class Pair(NamedTuple):
    left: int
    right: str


def there_and_back(function: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[list[Any], dict[str, Any]]:
    signature = Signature(function, "task")
    got_args, got_kwargs = signature.decode(signature.encode(args, kwargs))
    return list(got_args), dict(got_kwargs)


VALUES: list[tuple[Any, Any]] = [
    (int, 0),
    (int, -(2**63)),
    (int, 2**64 - 1),
    (float, 0.1),
    (float, 1e300),
    (bool, True),
    (str, 'ü\u0000\n"\\ \U0001f600 </script>'),
    (None, None),
    (bytes, b"\x00\xff"),
    (datetime, datetime(2027, 1, 2, 3, 4, 5, 6, tzinfo=UTC)),
    (datetime, datetime(2027, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=2)))),
    (datetime, datetime(2027, 1, 2, 3, 4, 5)),  # noqa: DTZ001
    (date, date(2027, 1, 2)),
    (time, time(3, 4, 5)),
    (timedelta, timedelta(days=-1, microseconds=7)),
    (UUID, UUID("12345678-1234-5678-1234-567812345678")),
    (Decimal, Decimal("1.10")),
    (Colour, Colour.BLUE),
    (Level, Level.LOW),
    (Path, Path("/tmp/ü/x")),
    (PurePosixPath, PurePosixPath("a/b")),
    (list[int], [1, 2]),
    (set[int], {1, 2}),
    (frozenset[str], frozenset({"a"})),
    (tuple[int, str], (1, "a")),
    (tuple[int, ...], (1, 2, 3)),
    (dict[str, list[int]], {"a": [1]}),
    (dict[int, str], {1: "a"}),
    (dict[UUID, int], {UUID(int=7): 1}),
    (int | None, None),
    (int | str, "x"),
    (datetime | None, datetime(2027, 1, 1, tzinfo=UTC)),
    (Literal["a", 1], 1),
    (Point, Point(1, 2, frozenset({"t"}))),
    (list[Point], [Point(1)]),
    (dict[str, Point], {"p": Point(3)}),
    (Card, Card("x", datetime(2027, 1, 1, tzinfo=UTC))),
    (Movie, {"title": "t"}),
    (Pair, Pair(1, "r")),
    (Money, Money(amount=Decimal("1.50"), cur="USD")),
    (list[Money], [Money(amount=Decimal(2))]),
    (Money | None, Money(amount=Decimal(2))),
    (UserId, UserId(7)),
    (Any, {"a": [1, None, "x", 1.5, True]}),
    (object, [1, "x"]),
    (dict[str, object], {"a": [1], "b": None}),
    (list[object] | None, [1, "x"]),
    (int, 2**70),
]


@pytest.mark.parametrize(("kind", "value"), VALUES, ids=lambda v: str(v)[:40].encode("ascii", "replace").decode())
def test_an_annotated_value_comes_back_as_what_it_was(kind: Any, value: Any) -> None:
    def task(x: Any, *, y: Any = None) -> None: ...

    task.__annotations__ = {"x": kind, "y": kind}
    (x,), kwargs = there_and_back(task, value, y=value)
    assert (x, kwargs["y"]) == (value, value)
    assert (type(x), type(kwargs["y"])) == (type(value), type(value))


@pytest.mark.parametrize(("kind", "value"), VALUES, ids=lambda v: str(v)[:40].encode("ascii", "replace").decode())
def test_so_do_annotated_star_arguments(kind: Any, value: Any) -> None:
    def task(*xs: Any, **ys: Any) -> None: ...

    task.__annotations__ = {"xs": kind, "ys": kind}
    args, kwargs = there_and_back(task, value, value, a=value)
    assert (args, kwargs) == ([value, value], {"a": value})
    assert {type(x) for x in [*args, kwargs["a"]]} == {type(value)}


def shapes() -> list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]]:
    def none() -> None: ...
    def plain(a: int, b: int = 2) -> None: ...
    def positional(a: int, b: int = 2, /) -> None: ...
    def keyword(*, a: int, b: int = 2) -> None: ...
    def mixed(a: int, /, b: int, *, c: int = 3) -> None: ...
    def stars(a: int, *rest: int, k: int = 1, **more: str) -> None: ...
    def clash(a: int, /, **kwargs: int) -> None: ...

    return [
        (none, (), {}),
        (plain, (1,), {}),
        (plain, (1, 5), {}),
        (plain, (1,), {"b": 5}),
        (plain, (), {"a": 1}),
        (plain, (), {"b": 1, "a": 2}),
        (positional, (1,), {}),
        (positional, (1, 2), {}),
        (keyword, (), {"a": 1}),
        (keyword, (), {"b": 1, "a": 3}),
        (mixed, (1, 2), {}),
        (mixed, (1,), {"b": 2, "c": 4}),
        (stars, (1,), {}),
        (stars, (1, 2, 3), {"k": 4, "z": "z", "args": "x"}),
        (stars, (), {"a": 1, "self": "s"}),
        (clash, (1,), {"a": 2}),
    ]


@pytest.mark.parametrize(("function", "args", "kwargs"), shapes())
def test_every_shape_of_parameters_is_called_as_it_was(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    assert there_and_back(function, *args, **kwargs) == (list(args), kwargs)


def wrong_calls() -> list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], str]]:
    def two(a: int, b: int = 2) -> None: ...
    def keyword(*, a: int) -> None: ...
    def positional(a: int, /) -> None: ...

    return [
        (two, (), {}, "'a'"),
        (two, (1, 2, 3), {}, "too many positional"),
        (two, (1,), {"a": 1}, "multiple values.*'a'"),
        (two, (1,), {"c": 1}, "'c'"),
        (keyword, (1,), {}, "too many positional"),
        (keyword, (), {}, "'a'"),
        (positional, (), {"a": 1}, "'a'"),
    ]


@pytest.mark.parametrize(("function", "args", "kwargs", "message"), wrong_calls())
def test_arguments_that_do_not_fit_are_a_type_error_that_names_task_and_argument(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], message: str
) -> None:
    with pytest.raises(TypeError, match=rf"mail\(\): .*{message}"):
        Signature(function, "mail").encode(args, kwargs)


class Strange:
    pass


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (Strange(), "Strange"),
        (lambda: 1, "function"),
        (1j, "complex"),
        (iter([1]), "list_iterator"),
        ({("a", "b"): 1}, "tuple"),
        ("\ud800", "surrogate|utf-8"),
    ],
)
def test_what_cannot_be_stored_is_refused_by_the_name_of_its_argument(value: object, why: str) -> None:
    def task(a: int, bad: Any, *more: Any, **others: Any) -> None: ...

    signature = Signature(task, "task")
    for args, kwargs, name in (
        ((1, value), {}, "'bad'"),
        ((1,), {"bad": [value]}, "'bad'"),
        ((1, 2), {"other": {"deep": [value]}}, "'other'"),
        ((1, 2, value), {}, r"'\*'"),
    ):
        with pytest.raises(errors.EncodeError, match=rf"(?s)task\(\): .*{name}.*({why})"):
            signature.encode(args, kwargs)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_nan_and_infinity_are_refused_by_name_wherever_they_hide(value: float) -> None:
    def task(a: float = 0, b: Any = None, *more: Any, **others: Any) -> None: ...

    signature = Signature(task, "task")
    for args, kwargs, name in (
        ((value,), {}, "'a'"),
        ((1, [{"x": (1, value)}]), {}, "'b'"),
        ((1, Card("null")), {"c": value}, "'c'"),
        ((1, Point(value)), {}, "'b'"),  # type: ignore[arg-type]
        ((1, {value}), {}, "'b'"),
    ):
        with pytest.raises(errors.EncodeError, match=f"{name}.*NaN"):
            signature.encode(args, kwargs)


def test_the_word_null_and_the_value_none_are_no_nan() -> None:
    def task(a: Any) -> None: ...

    assert there_and_back(task, ["null", None, {"null": None}]) == ([["null", None, {"null": None}]], {})


@pytest.mark.parametrize(
    ("kind", "value"),
    [(int, "1"), (int, 1.5), (str, 1), (list[int], ["x"]), (Point, {"y": 1}), (Literal["a"], "b"), (Colour, "green")],
)
def test_a_value_of_another_type_than_annotated_is_refused_by_name_before_it_is_stored(kind: Any, value: Any) -> None:
    def task(a: int, x: Any) -> None: ...

    task.__annotations__ = {"a": int, "x": kind}
    signature = Signature(task, "task")
    with pytest.raises(errors.EncodeError, match=r"argument 'x'"):
        signature.encode((1, value), {})
    with pytest.raises(errors.EncodeError, match=r"argument 'x'"):
        signature.encode((1,), {"x": value})


def test_a_payload_may_be_as_large_as_the_limit_and_no_byte_larger() -> None:
    def task(x: str) -> None: ...

    signature = Signature(task, "task")
    overhead = len(signature.encode(("",), {}))
    signature.encode(("x" * (MAX_PAYLOAD - overhead),), {})
    with pytest.raises(errors.PayloadTooLarge, match=r"262,145 bytes, the limit is 262,144.*reference"):
        signature.encode(("x" * (MAX_PAYLOAD - overhead + 1),), {})


def test_nesting_is_limited_before_it_can_hurt() -> None:
    def task(x: Any) -> None: ...

    signature = Signature(task, "task")
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(errors.EncodeError):
        signature.encode((deep,), {})
    while deep:  # a chain this long must not be freed by recursion in the test's own teardown
        deep = deep[0]
    with pytest.raises(errors.DecodeError, match=r"nested deeper"):
        signature.decode(b'{"args":[' + b"[" * 100_000 + b"]" * 100_000 + b"]}")
    with pytest.raises(errors.DecodeError, match=r"nested deeper"):
        signature.decode(b'{"args":[' + b'{"a":' * 100 + b"1" + b"}" * 100 + b"]}")


def test_brackets_in_strings_are_not_nesting() -> None:
    def task(x: Any) -> None: ...

    value = ['[{"\\' * 500, "]}" * 500]
    assert there_and_back(task, value) == ([value], {})


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"null", b"{", b'{"args":1}', b'{"args":[1,2,3]}', b'{"kwargs":{"z":1}}', b'{"args":["x"]}',
     b'{"more":1}', b"\xff\xfe", b'{"args":[1' + b"0" * 5000 + b"]}", b'{"args":[NaN]}', b"{}"],
)  # fmt: skip
def test_a_body_that_does_not_fit_is_a_decode_error_and_nothing_else(body: bytes) -> None:
    def task(a: int, b: int = 1) -> None: ...
    def loose(a: int, *more: int) -> None: ...

    for function in (task, loose):
        if function is loose and body == b'{"args":[1,2,3]}':
            continue
        with pytest.raises(errors.DecodeError, match=r"task\(\)"):
            Signature(function, "task").decode(body)


class Mute(Exception):
    """One that cannot even say what it is."""

    def __str__(self) -> str:
        raise ValueError("no words")


@pytest.mark.parametrize(
    ("error", "text"),
    [(KeyError("b"), "KeyError: 'b'"), (AttributeError("kind"), "AttributeError: kind"),
     (AssertionError("no order"), "no order"), (errors.ConfigError("no such kind"), "no such kind"),
     (LookupError("x"), "LookupError: x"), (Mute(), "Mute: <exception str() failed>")],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
@pytest.mark.parametrize("base", ["dataclass", "struct", "pydantic"])
@pytest.mark.parametrize("loose", [False, True], ids=["typed", "loose"])
def test_whatever_an_argument_s_own_checks_raise_is_an_error_that_says_what(
    error: Exception, text: str, base: str, *, loose: bool
) -> None:
    def refuse(self: object, _: object = None) -> None:
        raise error

    kinds = {
        "dataclass": dataclass(type("Order", (), {"__annotations__": {"kind": str}, "__post_init__": refuse})),
        "struct": msgspec.defstruct("Order", [("kind", str)], namespace={"__post_init__": refuse}),
        "pydantic": pydantic.create_model("Order", __base__=Refusing, kind=(str, ...)),
    }
    Refusing.error = error

    def task(order: Any) -> None: ...
    def loose_task(order: Any, *more: Any) -> None: ...

    function = loose_task if loose else task
    function.__annotations__["order"] = kinds[base]
    signature = Signature(function, "task")
    with pytest.raises(errors.DecodeError, match=rf"(?s)task\(\): .*{re.escape(text)}"):
        signature.decode(b'{"args":[{"kind":"b"}]}')
    with pytest.raises(errors.EncodeError, match=rf"(?s)task\(\): .*{re.escape(text)}"):
        signature.encode(({"kind": "b"},), {})


def test_an_annotation_that_json_cannot_fill_is_the_task_s_mistake_for_the_client_and_unreadable_for_a_worker() -> None:
    def task(a: dict[str, int] | Point) -> None: ...

    with pytest.raises(errors.ConfigError, match=r"annotation of 'a'"):
        Signature(task, "task").encode(({},), {})
    with pytest.raises(errors.DecodeError, match=r"annotation of 'a'"):
        Signature(task, "task").decode(b'{"args":[{}]}')


@given(st.binary(max_size=200))
def test_random_bytes_are_a_decode_error_or_arguments_that_fit(data: bytes) -> None:
    def task(a: int, *rest: Any, k: str = "") -> None: ...

    try:
        args, kwargs = Signature(task, "task").decode(data)
    except errors.DecodeError:
        return
    task(*args, **kwargs)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


@given(st.lists(json_values, max_size=4), st.dictionaries(st.text(max_size=8), json_values, max_size=4))
def test_whatever_json_value_is_accepted_comes_back_equal(args: list[Any], kwargs: dict[str, Any]) -> None:
    def task(*args: Any, **kwargs: Any) -> None: ...

    signature = Signature(task, "task")
    try:
        body = signature.encode(tuple(args), kwargs)
    except errors.EncodeError as exc:
        assert "surrogate" in str(exc) or "utf-8" in str(exc)  # noqa: PT017 - the only thing JSON cannot say
        return
    got_args, got_kwargs = signature.decode(body)
    assert (list(got_args), dict(got_kwargs)) == (args, kwargs)
    json.loads(bytes(body))  # readable by any other language


@given(
    st.tuples(
        st.datetimes(timezones=st.just(UTC)),
        st.timedeltas(min_value=timedelta(days=-9999), max_value=timedelta(days=9999)),
        st.uuids(),
        st.decimals(allow_nan=False, allow_infinity=False),
        st.binary(max_size=64),
        st.sets(st.integers(-5, 5)),
        st.sampled_from(Colour),
        st.none() | st.builds(Point, st.integers(-9, 9), st.integers(-9, 9), st.frozensets(st.text(max_size=3))),
    )
)
def test_whatever_annotated_value_is_accepted_comes_back_equal(values: tuple[Any, ...]) -> None:
    def task(
        at: datetime,
        pause: timedelta,
        uuid: UUID,
        *,
        amount: Decimal,
        data: bytes,
        numbers: set[int],
        colour: Colour,
        point: Point | None = None,
    ) -> None: ...

    try:
        args, kwargs = there_and_back(task, *values[:3], **dict(zip(KEYWORDS, values[3:], strict=True)))
    except errors.EncodeError as exc:
        assert "surrogate" in str(exc) or "utf-8" in str(exc)  # noqa: PT017
        return
    assert [*args, *(kwargs[name] for name in KEYWORDS)] == list(values)


@given(st.tuples(st.integers(), st.text(st.characters(), max_size=200), st.booleans(), st.floats()))
@example((2**64 - 1, "[" * 2000, True, -0.0))
@example((-(2**63), "", False, 5e-324))
@example((2**64, "", False, 0.0))
@example((10**400, "\ud800", False, 0.0))
def test_whatever_simple_value_is_accepted_comes_back_equal(values: tuple[int, str, bool, float]) -> None:
    def task(a: int, b: str, c: bool, d: float = 0.5, e: str = "") -> None: ...  # noqa: FBT001

    whole, text, _, fraction = values
    try:
        args, kwargs = there_and_back(task, *values)
    except errors.EncodeError:
        assert not math.isfinite(fraction) or not -(2**63) <= whole < 2**64 or not text.isascii()
        return
    assert (args, kwargs) == (list(values), {})
    assert [type(value) for value in args] == [int, str, bool, float]


@pytest.mark.parametrize(
    ("kind", "value"), [(int, True), (float, 1), (int, "1"), (str, 1), (bool, 1), (int, Level.LOW), (str, Word.HERE)]
)
def test_a_value_of_nearly_the_simple_type_is_accepted_only_if_it_can_be_read(kind: Any, value: Any) -> None:
    def task(a: Any) -> None: ...

    task.__annotations__ = {"a": kind}
    signature = Signature(task, "task")
    try:
        body = signature.encode((value,), {})
    except errors.EncodeError:
        with pytest.raises(errors.DecodeError):
            signature.decode(json.dumps({"args": [value]}).encode())
    else:
        assert type(signature.decode(body)[0][0]) is kind


def test_an_annotation_that_cannot_be_decoded_is_an_error_with_the_name_and_a_way_out() -> None:
    def task(a: Callable[[], int]) -> None: ...

    with pytest.raises(errors.JobqError, match=r"'a'.*(?:Any|cannot)"):
        Signature(task, "task").encode((print,), {})

    def ambiguous(a: Point | Card) -> None: ...

    with pytest.raises(errors.JobqError, match=r"'ambiguous'.*'a'.*unambiguous"):
        Signature(ambiguous, "ambiguous").encode((Point(1),), {})


async def test_a_bound_method_and_a_callable_object_are_tasks_like_functions() -> None:
    app = App()

    class Service:
        async def send(self, to: int) -> None: ...

        def __call__(self, to: int) -> int:
            return to

    service = Service()
    send = app.task(name="send")(service.send)
    call = app.task(name="call")(service)
    assert list(send.signature.decode(send.call(5).body)[0]) == [5]
    assert list(call.signature.decode(call.call(to=5).body)[1].values()) == [5]
    assert call(7) == 7
