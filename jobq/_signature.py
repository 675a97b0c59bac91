"""A function's arguments as a JSON body and back: checked against its signature, decoded to its annotated types."""

import inspect
import math
import re
import traceback
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import PurePath
from typing import Any, Final, cast

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from jobq.codec import check_limits
from jobq.errors import ConfigError, DecodeError, EncodeError, PayloadTooLarge

MAX_PAYLOAD: Final = 256 * 1024
"""Bytes of encoded arguments that a client accepts unless told otherwise."""

_SIMPLE: Final = (int, str, float, bool)
"""What is of such a type, and can be written as JSON, can be read as that type."""
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_KEYWORD = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_STARS: Final[dict[Any, str]] = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
_WHERE = re.compile(r" - at `\$(?:\.args\[(\d+)\]|\.kwargs\.?([^`.\[]*))?([^`]*)`$")


class _Body(Struct, omit_defaults=True):
    """What is stored of a call; empty parts are left out."""

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}


class _LooseBody(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a call of a function with `*args` or `**kwargs`: its parts are decoded one by one."""

    args: tuple[Raw, ...] = ()
    kwargs: dict[str, Raw] = {}


def _to_wire(value: Any) -> Any:
    if isinstance(value, PurePath):
        return str(value)
    if callable(dump := getattr(value, "model_dump", None)):  # pydantic, without importing it
        return dump(mode="json", by_alias=True, round_trip=True)
    raise NotImplementedError(f"a {type(value).__name__} cannot be stored as JSON")


def _from_wire(kind: type[Any], value: Any) -> Any:
    if kind is object:  # as good as Any
        return value
    if issubclass(kind, PurePath):
        return kind(value)
    if callable(validate := getattr(kind, "model_validate", None)):
        return validate(value)
    raise NotImplementedError(f"no way is known to make a {getattr(kind, '__name__', kind)} from JSON")


_encoder = msgspec.json.Encoder(enc_hook=_to_wire)
_WRONG = (msgspec.MsgspecError, NotImplementedError, TypeError, ValueError, RecursionError, OverflowError)


class Signature:
    """What one function accepts. Annotations are resolved at first use, because they may name what comes later."""

    def __init__(self, function: Callable[..., object], name: str) -> None:
        self.name = name
        self._function = function
        self._signature = inspect.signature(function)
        parameters = self._signature.parameters.values()
        self._positional = [p for p in parameters if p.kind in _POSITIONAL]
        self._required = {p.name for p in parameters if p.default is p.empty and p.kind in (*_POSITIONAL, *_KEYWORD)}
        self._keywords = {p.name for p in parameters if p.kind in _KEYWORD}
        self._sorted_keywords = sorted(self._keywords)
        self._loose = any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters)
        names = [p.name for p in self._positional]
        self._names = names
        # args of this count alone satisfy the signature, which is the common case
        self._enough = len(names) if not self._required - set(names) else -1
        self._least = max((i + 1 for i, name in enumerate(names) if name in self._required), default=0)

    def prepare(self) -> None:
        """Resolve the annotations now. Raises `ConfigError` for one that cannot be decoded from JSON."""
        self._types if self._loose else self._decoder  # noqa: B018 - both are made at first use

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Raise `TypeError`, as the call itself would, unless the arguments fit."""
        try:
            self._fit(args, kwargs)
        except TypeError as exc:
            raise TypeError(f"{self.name}(): {exc}") from None

    def _fit(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        given = len(args)
        if not self._loose and not kwargs and self._least <= given <= self._enough:
            return
        if not self._loose and given <= len(self._names):
            missing = self._required.difference(self._names[:given], kwargs)
            if not missing and kwargs.keys() <= self._keywords and kwargs.keys().isdisjoint(self._names[:given]):
                return
        self._signature.bind(*args, **kwargs)

    def encode(self, args: tuple[Any, ...], kwargs: dict[str, Any], limit: int = MAX_PAYLOAD) -> Raw:
        """The body of a call. Raises `TypeError` (`EncodeError` for values), naming the argument.

        The body is decoded again at once, unless its values are just what the parameters say, and simple: what a client
        accepts, a worker with the same code can read.
        """
        simple = not kwargs and self._least <= len(args) <= self._enough and self._are_simple(args)
        if not simple:
            self.bind(args, kwargs)
        try:
            body = _encoder.encode(_Body(args, kwargs))
        except _WRONG as exc:
            raise EncodeError(self._blame(args, kwargs, exc)) from None
        self.check_size(len(body), limit)
        if b"null" in body:
            self._refuse_nan(args, kwargs)
        if not simple:
            self._check_readable(body)
        return Raw(body)

    def _are_simple(self, args: tuple[Any, ...]) -> bool:
        return list(map(type, args)) == self._simple[: len(args)]

    def check_body(self, body: Raw, limit: int) -> None:
        """Raise `EncodeError` for a body, whoever made it, that is too large or that no worker could read."""
        self.check_size(len(memoryview(body)), limit)
        self._check_readable(body)

    def check_size(self, size: int, limit: int) -> None:
        """Raise `PayloadTooLarge` for a body of more than `limit` bytes."""
        if size > limit:
            raise PayloadTooLarge(
                f"{self.name}(): the arguments take {size:,} bytes, the limit is {limit:,}. "
                "Store the data elsewhere and pass a reference to it"
            )

    def _check_readable(self, body: bytes | Raw) -> None:
        self.prepare()  # if this fails, the task is wrong, and not this call
        try:
            self.decode(body)
        except DecodeError as exc:
            raise EncodeError(str(exc)) from None

    def decode(self, body: bytes | Raw) -> tuple[Sequence[Any], Mapping[str, Any]]:
        """The arguments of a stored call, as the annotated types.

        Raises `DecodeError` and no other error, naming the argument where it is known.
        """
        try:
            check_limits(memoryview(body))
            return self._decode_loose(body) if self._loose else self._decode_typed(body)
        except _WRONG as exc:
            raise DecodeError(f"{self.name}(): {self._explain(exc)}") from None
        except Exception as exc:  # a __post_init__ or a validator of the user's: its traceback says where
            said = "".join(traceback.format_exception_only(exc)).strip()  # also if it has no words
            raise DecodeError(f"{self.name}(): {said}") from exc

    def _decode_typed(self, body: bytes | Raw) -> tuple[Sequence[Any], Mapping[str, Any]]:
        decoded = self._decoder.decode(body)
        args: Sequence[Any] = ()
        kwargs: Mapping[str, Any] = {}
        if decoded.args is not UNSET:
            args = msgspec.structs.astuple(decoded.args)
            if args and args[-1] is UNSET:
                args = [value for value in args if value is not UNSET]
        if decoded.kwargs is not UNSET:
            values = msgspec.structs.astuple(decoded.kwargs)
            kwargs = {k: v for k, v in zip(self._sorted_keywords, values, strict=True) if v is not UNSET}
        self._fit(args, kwargs)
        return args, kwargs

    def _decode_loose(self, body: bytes | Raw) -> tuple[Sequence[Any], Mapping[str, Any]]:
        loose = msgspec.json.decode(body, type=_LooseBody)
        bound = self._signature.bind_partial(*loose.args, **loose.kwargs)
        names = self._names_of(len(loose.args))
        args = [self._decode_one(name, raw) for name, raw in zip(names, loose.args, strict=True)]
        kwargs = {k: self._decode_one(k if k in bound.arguments else "**", raw) for k, raw in loose.kwargs.items()}
        self._fit(args, kwargs)
        return args, kwargs

    def _names_of(self, count: int) -> list[str]:
        """What the first `count` positional arguments are called; `*` stands for those beyond the named ones."""
        return [*self._names[:count], *["*"] * (count - len(self._names))]

    def _decode_one(self, name: str, raw: Raw) -> Any:
        try:
            return msgspec.json.decode(raw, type=self._types.get(name, Any), dec_hook=_from_wire)
        except msgspec.ValidationError as exc:
            raise TypeError(f"{exc} - at argument {name!r}") from None

    @cached_property
    def _types(self) -> dict[str, Any]:
        hints = _hints(self._function)
        types: dict[str, Any] = {}
        for parameter in self._signature.parameters.values():
            hint = hints.get(parameter.name, Any)
            types[_STARS.get(parameter.kind, parameter.name)] = self._checked(parameter.name, hint)
        return types

    @cached_property
    def _simple(self) -> list[Any]:
        """The types of the positional parameters that take whatever is of that type; None for the others."""
        self.prepare()
        hints = [self._types[parameter.name] for parameter in self._positional]
        return [next((kind for kind in _SIMPLE if hint is kind), None) for hint in hints]

    @cached_property
    def _decoder(self) -> "msgspec.json.Decoder[Any]":
        types = self._types
        args = msgspec.defstruct(
            "args",
            [(f"a{i}", types[p.name], UNSET) for i, p in enumerate(self._positional)],
            array_like=True,
            forbid_unknown_fields=True,
        )
        kwargs = msgspec.defstruct(
            "kwargs",
            [(f"k{i}", types[name], UNSET) for i, name in enumerate(self._sorted_keywords)],
            rename={f"k{i}": name for i, name in enumerate(self._sorted_keywords)},
            forbid_unknown_fields=True,
        )
        body = msgspec.defstruct(
            "body",
            [("args", args | UnsetType, UNSET), ("kwargs", kwargs | UnsetType, UNSET)],
            forbid_unknown_fields=True,
        )
        return msgspec.json.Decoder(body, dec_hook=_from_wire)

    def _checked(self, parameter: str, hint: Any) -> Any:
        try:
            msgspec.json.Decoder(hint, dec_hook=_from_wire)
        except _WRONG as exc:
            raise ConfigError(
                f"task {self.name!r}: the annotation of {parameter!r} cannot be decoded from JSON ({exc}). "
                "Annotate it with one unambiguous type, or with Any and convert it inside"
            ) from None
        return hint

    def _blame(self, args: tuple[Any, ...], kwargs: dict[str, Any], exc: Exception) -> str:
        for name, value in [*zip(self._names_of(len(args)), args, strict=False), *kwargs.items()]:
            try:
                _encoder.encode(value)
            except _WRONG as why:
                return f"{self.name}(): argument {name!r} cannot be stored as JSON: {why}"
        return f"{self.name}(): the arguments cannot be stored as JSON: {exc}"

    def _refuse_nan(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        for name, value in [*zip(self._names_of(len(args)), args, strict=False), *kwargs.items()]:
            if _has_nan(msgspec.to_builtins(value, enc_hook=_to_wire)):
                raise EncodeError(f"{self.name}(): argument {name!r} holds NaN or infinity, which JSON cannot store")

    def _explain(self, exc: Exception) -> str:
        text = str(exc)
        found = _WHERE.search(text)
        if found is None:
            return text
        index, keyword, rest = found.groups()
        name = self._names_of(int(index) + 1)[int(index)] if index else keyword
        return f"{text[: found.start()]} - at argument {name!r}{rest}"


def _has_nan(value: object) -> bool:
    match value:
        case float():
            return not math.isfinite(value)
        case dict():
            return any(_has_nan(item) for item in cast("dict[object, object]", value).values())
        case list() | tuple() | set() | frozenset():  # to_builtins leaves some collections as they are
            return any(_has_nan(item) for item in cast("Iterable[object]", value))
        case _:
            return False


def _hints(function: Callable[..., object]) -> dict[str, Any]:
    """Annotations with their names resolved; one that cannot be (imported for checkers only) counts as Any."""
    try:
        return typing.get_type_hints(function)
    except (NameError, AttributeError, TypeError):
        return {name: _hint(function, name) for name in inspect.get_annotations(function)}


def _hint(function: Callable[..., object], name: str) -> Any:
    def alone() -> None: ...

    alone.__annotations__ = {name: inspect.get_annotations(function)[name]}
    try:
        return typing.get_type_hints(alone, globalns=getattr(function, "__globals__", {}))[name]
    except (NameError, AttributeError, TypeError):
        return Any
