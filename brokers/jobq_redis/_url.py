"""What a broker URL says, checked before anything connects."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final, Literal, cast
from urllib.parse import SplitResult, parse_qsl, unquote, unquote_plus, urlencode, urlsplit

from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection, parse_url

from jobq.errors import ConfigError

_SCHEMES: Final = (
    "redis",
    "rediss",
    "redis+sentinel",
    "rediss+sentinel",
    "redis+cluster",
    "rediss+cluster",
    "unix",
)
_NAMESPACE: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
_HOST: Final = r"(?:\[[0-9A-Fa-f:.]+\]|[^\[\]:,]+)(?::\d*)?"
_HOSTS: Final = re.compile(rf"{_HOST}(?:,{_HOST})*|")
_WORD: Final = re.compile(r"[A-Za-z_]+")
_HIDDEN: Final = "***"
_HINT: Final = "; in a user or a password write '#', '/', '?', '@', '[' and ']' as %23, %2F, %3F, %40, %5B and %5D"
_SENTINEL_PORT: Final = 26379
_DAY: Final = 86400

# What may be in a URL. redis-py's others would change what the broker relies on: encodings, retries, health checks.
_ANYWHERE: Final = frozenset({"db", "username", "password", "client_name"})
_TIMEOUTS: Final = frozenset({"socket_timeout", "socket_connect_timeout"})
_TCP: Final = frozenset({"socket_keepalive"})
_UNIX: Final = frozenset({"path"})
_TLS: Final = frozenset(
    {"ssl_keyfile", "ssl_certfile", "ssl_password", "ssl_cert_reqs", "ssl_check_hostname"}
    | {"ssl_ca_certs", "ssl_ca_path", "ssl_ca_data", "ssl_min_version", "ssl_ciphers"}
)
_HARMLESS: Final = frozenset({"namespace", "sentinel_username"}) | {
    name for name in _ANYWHERE | _TIMEOUTS | _TCP | _UNIX | _TLS if not name.endswith("password")
}

Options = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Target:
    """Where the server is, and how to talk to it; the options are those of redis-py's connections."""

    url: str = field(repr=False)
    masked: str
    namespace: str
    kind: str
    addresses: tuple[tuple[str, int], ...]
    service: str
    connection: type[AbstractConnection]
    options: Options = field(repr=False)
    sentinel_options: Options = field(repr=False)
    reply_timeout: float
    connect_timeout: float

    @property
    def tls(self) -> bool:
        return issubclass(self.connection, SSLConnection)


def mask(url: str) -> str:
    """`url` without what is secret or may be a part of it, also when the rest is wrong."""
    scheme, slashes, rest = url.partition("://")
    if not (slashes and _SCHEME.fullmatch(scheme)):
        return _HIDDEN if url else ""
    place = re.split("[/?#]", rest, maxsplit=1)[0]
    path, mark, query = rest[len(place) :].partition("?")
    options = query.split("&")
    if _is_cut(place, path, options):
        return scheme + slashes + _HIDDEN
    login, at, hosts = place.rpartition("@")
    user, colon, _ = login.partition(":")
    return scheme + slashes + user + (f":{_HIDDEN}" if colon else "") + at + hosts + path + mark + _masked(options)


def _is_cut(place: str, path: str, options: list[str]) -> bool:
    """Whether there is an '@' where none belongs: a '/', '?' or '#' of a login has cut it short."""
    strays = [option for option in options if _kind(option) is None] + ([path] if place else [])
    if any("@" in stray for stray in strays):
        return True
    return "@" not in place and not _HOSTS.fullmatch(place) and any("@" in option for option in options)


def _masked(options: list[str]) -> str:
    """A query without secrets; beside one, whatever is not known may be the rest of it."""
    kinds = [_kind(option) for option in options]
    named = "secret" not in kinds
    return "&".join(
        option if kind == "harmless" or not option else _without_value(option, named=named or kind == "secret")
        for option, kind in zip(options, kinds, strict=True)
    )


def _without_value(option: str, *, named: bool) -> str:
    name, equals, _ = option.partition("=")
    return f"{name}{equals}{_HIDDEN if equals else ''}" if named and _WORD.fullmatch(name) else _HIDDEN


def _kind(option: str) -> Literal["secret", "harmless"] | None:
    name = unquote_plus(option.partition("=")[0]).lower()
    return "harmless" if name in _HARMLESS else "secret" if name.endswith("password") else None


def parse(url: str) -> Target:
    """The target that `url` names. Raises `ConfigError` that says what is wrong with it."""
    try:
        return _parse(url)
    except ConfigError as exc:
        reason = str(exc)
    except ValueError:  # its words may repeat a password
        reason = "the host, the port or an option cannot be read"
    raise ConfigError(f"not a Redis URL: {mask(url)}: {reason}{_HINT if '@' in url else ''}")


def _parse(url: str) -> Target:
    parts = urlsplit(url)
    if parts.scheme not in _SCHEMES:
        raise ConfigError(f"the scheme is one of {', '.join(_SCHEMES)}")
    if parts.fragment:
        raise ConfigError("there is a '#' in it")
    base, _, kind = parts.scheme.partition("+")
    kind = kind or ("unix" if base == "unix" else "single")
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    namespace = query.pop("namespace", "main")
    if not _NAMESPACE.fullmatch(namespace):
        raise ConfigError("a namespace has 1 to 64 letters, digits, '_', '.' or '-'")
    sentinel = {
        name.removeprefix("sentinel_"): query.pop(name) for name in tuple(query) if name.startswith("sentinel_")
    }
    shown = mask(url)
    _check_names(query, kind, shown, tls=base == "rediss")
    service, path = _path(kind, parts.path, shown)
    login, at, hosts = parts.netloc.rpartition("@")
    first = f"{base}://{login}{at}{hosts.split(',')[0]}{path}"
    options = cast("Options", parse_url(f"{first}?{urlencode(query)}"))
    return Target(
        url=url,
        masked=shown,
        namespace=namespace,
        kind=kind,
        addresses=_addresses(kind, hosts),
        service=service,
        reply_timeout=_seconds(options, "socket_timeout"),
        connect_timeout=_seconds(options, "socket_connect_timeout"),
        connection=options.pop("connection_class", Connection),
        options=_checked(options, kind),
        sentinel_options=sentinel,
    )


def _path(kind: str, path: str, shown: str) -> tuple[str, str]:
    """A Sentinel's service, and the rest of the path: the database, or a socket's file."""
    service = ""
    if kind == "sentinel":
        service, _, path = path.strip("/").partition("/")
        if not service:
            raise ConfigError("it needs the service: redis+sentinel://host:26379/service")
        path = path and f"/{path}"
    db = path.strip("/")
    if kind != "unix" and db and not db.isdecimal():
        raise ConfigError(f"the database is a number{f', not {db!r}' if f'/{db}' in shown else ''}")
    if kind == "cluster" and db not in {"", "0"}:
        raise ConfigError("a cluster has only database 0")
    return unquote(service), path


def _addresses(kind: str, hosts: str) -> tuple[tuple[str, int], ...]:
    if kind == "unix":
        return ()
    found = [urlsplit(f"//{host}") for host in hosts.split(",")]
    if kind == "single" and len(found) > 1:
        raise ConfigError("several hosts need redis+sentinel:// or redis+cluster://")
    return tuple(_address(kind, one) for one in found)


def _address(kind: str, host: SplitResult) -> tuple[str, int]:
    port = host.port if host.port is not None else _SENTINEL_PORT if kind == "sentinel" else 6379
    return unquote(host.hostname or "localhost"), port


def _seconds(options: Options, name: str) -> float:
    seconds = float(options.pop(name, 5.0))
    if not 0 < seconds <= _DAY:
        raise ConfigError(f"{name} is a positive number of seconds")
    return seconds


def _checked(options: Options, kind: str) -> Options:
    """The options, without the address. Raises for what cannot be given."""
    if kind == "unix" and not options.get("path"):
        raise ConfigError("it needs the socket's file: unix:///run/redis.sock")
    if options.get("ssl_cert_reqs", "none") not in {"none", "optional", "required"}:
        raise ConfigError("ssl_cert_reqs is none, optional or required")
    return {name: value for name, value in options.items() if name not in {"host", "port"}}


def _check_names(names: Iterable[str], kind: str, shown: str, *, tls: bool) -> None:
    allowed = _ANYWHERE | _TIMEOUTS | (_UNIX if kind == "unix" else _TCP) | (_TLS if tls else set[str]())
    for name in names:
        if name in allowed:
            continue
        if not re.search(rf"[?&]{re.escape(name)}(?:[=&]|$)", shown):
            raise ConfigError("there is an unknown option")
        raise ConfigError(f"there is no option {name!r}{' without TLS' if name in _TLS else ''}")
