"""Brokers by name or URL, through the entry-point group `jobq.brokers`."""

import os
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Final, cast
from urllib.parse import quote, urlsplit

from jobq._checks import nearest
from jobq.broker import Broker, BrokerFactory
from jobq.clock import Clock
from jobq.errors import ConfigError, MissingExtra, UnknownBroker

__all__ = ["broker_of", "open_broker", "resolve_url", "with_store"]

GROUP: Final = "jobq.brokers"
_DEFAULT_URLS: Final = {
    "memory": "memory://",
    "postgres": "postgresql://localhost/postgres",
    "redis": "redis://localhost:6379/0",
    "rmq": "amqp://guest:guest@localhost:5672/",
    "sqlite": "sqlite:///jobq.db",
}
_SCHEMES: Final = {"rediss": "redis", "unix": "redis", "amqp": "rmq", "amqps": "rmq", "postgresql": "postgres"}
_WITH_STORES: Final = ("rmq",)
_FILES: Final = (".db", ".sqlite", ".sqlite3")


def resolve_url(name_or_url: str, environ: Mapping[str, str] | None = None) -> str:
    """The URL that a short name stands for: `JOBQ_<NAME>_URL`, else that broker's usual local address."""
    if "://" in name_or_url:
        return name_or_url
    name = name_or_url.lower()
    environ = os.environ if environ is None else environ
    url = environ.get(f"JOBQ_{name.upper()}_URL") or _DEFAULT_URLS.get(name)
    if url is None:
        names = sorted(_installed())
        shown = _masked(name_or_url)
        near = f" A file is sqlite:///{shown}" if name.endswith(_FILES) else nearest(name, names)
        raise UnknownBroker(f"{shown!r} is no broker: give a URL, or one of {', '.join(names)}.{near}")
    return url


def with_store(name_or_url: str, store: str) -> str:
    """The URL of a broker that is to have another one beside it, for what it cannot do itself.

    Raises `ConfigError` for a broker that keeps everything itself, and what `resolve_url` raises.
    """
    url = resolve_url(name_or_url)
    if _name(url) not in _WITH_STORES:
        raise ConfigError(f"{_name(url)} keeps everything itself: leave out the store, which is for RabbitMQ")
    return f"{url}{'&' if '?' in url else '?'}store={quote(resolve_url(store), safe='')}"


def broker_of(broker: object, *, clock: Clock | None = None) -> Broker:
    """`broker` if it is one, or the one that it names. Raises as `open_broker` does."""
    if isinstance(broker, str):
        return open_broker(broker, clock=clock)
    if hasattr(type(broker), "enqueue"):
        return cast("Broker", broker)
    what = "bytes" if isinstance(broker, bytes | bytearray) else repr(broker)  # those may be a URL's
    raise ConfigError(f"the broker is {what}; it is a URL, e.g. sqlite:///jobs.db, or a broker object")


def open_broker(name_or_url: str, *, clock: Clock | None = None) -> Broker:
    """A broker for a URL or a short name, not yet entered.

    Raises `UnknownBroker`, `MissingExtra` (with the line to install it), or `ConfigError` for a bad URL.
    """
    url = resolve_url(name_or_url)
    installed = _installed()
    entry = installed.get(_name(url))
    if entry is None:
        scheme = _scheme(url)
        base = scheme.partition("+")[0]
        names = ", ".join(sorted(installed)) or "none (is jobq itself installed? try: pip install jobq)"
        near = nearest(base, [*installed, *(alias for alias, name in _SCHEMES.items() if name in installed)])
        raise UnknownBroker(f"no installed broker serves {scheme + '://'!r}; installed are: {names}.{near}")
    return _load(entry)(url, clock=clock)


def _installed() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}


def _name(url: str) -> str:
    """Of the broker that serves it."""
    base = _scheme(url).partition("+")[0]
    return _SCHEMES.get(base, base)


def _scheme(url: str) -> str:
    try:
        return urlsplit(url).scheme.lower()
    except ValueError:  # its words may repeat a password
        pass
    raise ConfigError(
        "the broker's URL cannot be read: '[' and ']' are for an IPv6 address, e.g. [::1]; in a user or a password "
        "write them as %5B and %5D"
    )


def _masked(text: str) -> str:
    """A URL without its `://` may hold a password all the same, before an '@' or behind a '?'."""
    before, at, after = text.rpartition("@")
    if "?" in text:
        return "***"
    return f"***@{after}" if at and before else text


def _load(entry: EntryPoint) -> BrokerFactory:
    try:
        loaded = entry.load()
    except ImportError as exc:
        if exc.name is None or exc.name.split(".")[0].startswith("jobq"):
            raise  # the plug-in itself is broken: advice to install something would be wrong
        extra = f'"jobq[{entry.name}]"' if entry.dist is None or entry.dist.name == "jobq" else exc.name
        raise MissingExtra(
            f"the {entry.name} broker needs {exc.name!r}, which is not installed: pip install {extra}"
        ) from exc
    if not callable(loaded):
        raise ConfigError(f"the entry point {entry.name} = {entry.value} is not callable")
    return cast("BrokerFactory", loaded)
