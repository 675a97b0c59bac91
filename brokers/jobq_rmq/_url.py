"""What a broker URL says, checked before anything connects."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, cast
from urllib.parse import parse_qsl, quote, unquote, unquote_plus, urlencode

from jobq.errors import ConfigError
from jobq_rmq._topology import Delays, Kind

_PORTS: Final = {"amqp": 5672, "amqps": 5671}
_PREFIX: Final = re.compile(r"[A-Za-z0-9_-]{1,32}")
_HOST: Final = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]*)(?::(?P<port>\d{1,5}))?")
_LOGIN: Final = re.compile(r"[^@\[\]]*")
_WORD: Final = re.compile(r"[A-Za-z_]+")
_OURS: Final = frozenset({"prefix", "type", "delay", "declare", "heartbeat", "timeout", "handover"})
_TLS: Final = frozenset({"cafile", "capath", "certfile", "keyfile", "no_verify_ssl"})
_HIDDEN: Final = "***"
_HINT: Final = "; in a user or a password write '#', '/', '?', '@', '[' and ']' as %23, %2F, %3F, %40, %5B and %5D"
_STRAY: Final = "there is an '@' after the hosts, where it is written %40"
_DAY: Final = 86400.0
_LONGEST_HEARTBEAT: Final = 3600
_HIGHEST_PORT: Final = 65535


@dataclass(frozen=True, slots=True)
class Target:
    """Where the servers are, and how to talk to them."""

    url: str = field(repr=False)
    masked: str
    addresses: tuple[str, ...] = field(repr=False)
    """A URL for each server, in the client library's form."""
    vhost: str
    prefix: str
    kind: Kind
    delays: Delays
    declares: bool
    """Whether what is missing on the server is made, or left to an operator."""
    timeout: float
    handover: float
    """Seconds after which a message that is still held is changed for a new one."""


def parse(url: str) -> Target:
    """The target that `url` names. Raises `ConfigError` that says what is wrong with it."""
    try:
        return _parse(url)
    except ConfigError as exc:
        reason = str(exc)
    except ValueError:  # its words may repeat a password
        reason = "an option cannot be read"
    raise ConfigError(f"not a RabbitMQ URL: {mask(url)}: {reason}{_HINT if '@' in url else ''}")


def mask(url: str) -> str:
    """`url` without what is secret or may be a part of it, also when the rest is wrong."""
    scheme, slashes, rest = url.partition("://")
    if not slashes or scheme not in _PORTS:
        return _HIDDEN if url else ""
    place = re.split("[/?#]", rest, maxsplit=1)[0]
    if "@" in rest[len(place) :]:  # a '/', '?' or '#' in a login has cut it short
        return f"{scheme}://{_HIDDEN}"
    path, mark, query = rest[len(place) :].partition("?")
    login, at, hosts = place.rpartition("@")
    user, colon, _ = login.partition(":")
    return f"{scheme}://{user}{f':{_HIDDEN}' if colon else ''}{at}{hosts}{path}{mark}{_masked(query.split('&'))}"


def _masked(options: list[str]) -> str:
    """A query without secrets; beside one, whatever is not known may be the rest of it."""
    named = not any(_is_secret(option) for option in options)
    return "&".join(
        option if not option or _name(option) in _OURS | _TLS else _without_value(option, named=named)
        for option in options
    )


def _without_value(option: str, *, named: bool) -> str:
    name, equals, _ = option.partition("=")
    shown = _WORD.fullmatch(name) and (named or _is_secret(option))
    return f"{name}{equals}{_HIDDEN if equals else ''}" if shown else _HIDDEN


def _name(option: str) -> str:
    return unquote_plus(option.partition("=")[0])


def _is_secret(option: str) -> bool:
    return _name(option).lower().endswith(("password", "secret", "token"))


def _parse(url: str) -> Target:
    scheme, slashes, rest = url.partition("://")
    if not slashes or scheme not in _PORTS:
        raise ConfigError("the scheme is amqp or amqps")
    if "#" in rest:
        raise ConfigError("there is a '#' in it")
    where, _, text = rest.partition("?")
    query = dict(parse_qsl(text, keep_blank_values=True))
    _check_names(query, mask(url), tls=scheme == "amqps")
    prefix = query.pop("prefix", "jobq")
    if not _PREFIX.fullmatch(prefix):
        raise ConfigError("a prefix has 1 to 32 letters, digits, '_' or '-'")
    kind = cast("Kind", _one_of(query, "type", "quorum", "classic"))
    delays = cast("Delays", _one_of(query, "delay", "ttl", "plugin"))
    declares = _one_of(query, "declare", "yes", "no") == "yes"
    if query.get("no_verify_ssl", "0") not in {"0", "1"}:
        raise ConfigError("no_verify_ssl is 0 or 1")
    timeout = _seconds(query.pop("timeout", "5"), "timeout", _DAY)
    handover = _seconds(query.pop("handover", "600"), "handover", _DAY)
    query["heartbeat"] = str(max(1, round(_seconds(query.pop("heartbeat", "10"), "heartbeat", _LONGEST_HEARTBEAT))))
    if "@" in text:
        raise ConfigError(_STRAY)
    place, _, path = where.partition("/")
    if "@" in path:
        raise ConfigError(_STRAY)
    vhost = unquote(path)
    addresses = _addresses(scheme, place, vhost, query)
    return Target(url, mask(url), addresses, vhost or "/", prefix, kind, delays, declares, timeout, handover)


def _one_of(query: dict[str, str], name: str, usual: str, other: str) -> str:
    value = query.pop(name, usual)
    if value not in {usual, other}:
        raise ConfigError(f"{name} is {usual} or {other}")
    return value


def _addresses(scheme: str, place: str, vhost: str, query: dict[str, str]) -> tuple[str, ...]:
    login, at, hosts = place.rpartition("@")
    if not _LOGIN.fullmatch(login):
        raise ConfigError("the user and the password are named once, before all hosts")
    names = hosts.split(",")
    rest = f"/{quote(vhost, safe='')}?{urlencode(query)}"
    return tuple(f"{scheme}://{login}{at}{_address(name, scheme, alone=len(names) == 1)}{rest}" for name in names)


def _address(host: str, scheme: str, *, alone: bool) -> str:
    found = _HOST.fullmatch(host)
    if found is None or not (found["name"] or alone):
        raise ConfigError("a host or a port cannot be read: write host:port,host:port, and an IPv6 address in brackets")
    port = int(found["port"] or _PORTS[scheme])
    if not 0 < port <= _HIGHEST_PORT:
        raise ConfigError("a port is a number from 1 to 65535")
    return f"{found['name'] or 'localhost'}:{port}"


def _seconds(text: str, name: str, most: float) -> float:
    seconds = float(text)
    if not 0 < seconds <= most:
        raise ConfigError(f"{name} is a positive number of seconds, at most {most:g}")
    return seconds


def _check_names(names: Iterable[str], shown: str, *, tls: bool) -> None:
    for name in names:
        if name in _OURS or (tls and name in _TLS):
            continue
        if name == "store":
            raise ConfigError(
                "no broker can be a store yet, and no feature needs one: leave out store=. It is to keep what RabbitMQ "
                "cannot: unique keys, batches, results, cron"
            )
        if not re.search(rf"[?&]{re.escape(name)}(?:[=&]|$)", shown):
            raise ConfigError("there is an unknown option")
        raise ConfigError(f"there is no option {name!r}{' without TLS' if name in _TLS else ''}")
