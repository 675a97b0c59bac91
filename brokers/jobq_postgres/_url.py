"""What a broker URL says, checked before anything connects."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl, unquote_plus, urlencode

from jobq.errors import ConfigError

_SCHEMES: Final = ("postgresql", "postgres")
_SCHEMA: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,47}")
_HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._%-]*)(:\d{1,5})?")
_WORD: Final = re.compile(r"[A-Za-z_]+")
_OURS: Final = frozenset({"schema", "apply", "notify", "pooler", "timeout", "transactions", "keep_done"})
_DRIVERS: Final = frozenset(
    {"sslmode", "sslcert", "sslkey", "sslrootcert", "sslcrl", "ssl_min_protocol_version", "ssl_max_protocol_version"}
    | {"target_session_attrs", "host", "port", "user", "database", "dbname", "passfile", "service", "krbsrvname"}
)
"""Those of the library's that change nothing that the broker relies on."""
_SECRETS: Final = frozenset({"password", "sslpassword"})
_HIDDEN: Final = "***"
_HINT: Final = "; in a user or a password write '#', '/', '?', '@', '[' and ']' as %23, %2F, %3F, %40, %5B and %5D"
_DAY: Final = 86400.0
_CENTURY: Final = 36525 * _DAY
_MOST: Final = 1000


@dataclass(frozen=True, slots=True)
class Target:
    """Where the server is, and how to talk to it."""

    url: str = field(repr=False)
    masked: str
    dsn: str = field(repr=False)
    """What the client library gets."""
    schema: str
    applies: bool
    """Whether what is missing in the schema is made, or left to an operator."""
    listens: bool
    """Whether enqueues wake sleepers, or these look for themselves."""
    pooled: bool
    """Whether each transaction may be on another connection."""
    timeout: float
    transactions: int
    """How many jobs may have a transaction open at once."""
    keep_done: float
    """Seconds for which jobs are kept that are done."""


def mask(url: str) -> str:
    """`url` without what is secret or may be a part of it, also when the rest is wrong."""
    scheme, slashes, rest = url.partition("://")
    if not slashes or scheme not in _SCHEMES:
        return _HIDDEN if url else ""
    place = re.split("[/?#]", rest, maxsplit=1)[0]
    if "@" in rest[len(place) :]:  # a '/', '?' or '#' in a login has cut it short
        return f"{scheme}://{_HIDDEN}"
    path, mark, query = rest[len(place) :].partition("?")
    login, at, hosts = place.rpartition("@")
    user, colon, _ = login.partition(":")
    return f"{scheme}://{user}{f':{_HIDDEN}' if colon else ''}{at}{hosts}{path}{mark}{_masked(query.split('&'))}"


def parse(url: str) -> Target:
    """The target that `url` names. Raises `ConfigError` that says what is wrong with it."""
    try:
        return _parse(url)
    except ConfigError as exc:
        reason = str(exc)
    except ValueError:  # its words may repeat a password
        reason = "an option cannot be read"
    raise ConfigError(f"not a Postgres URL: {mask(url)}: {reason}{_HINT if '@' in url else ''}")


def _masked(options: list[str]) -> str:
    """A query without secrets; beside one, whatever is not known may be the rest of it."""
    named = not any(_name(option) in _SECRETS for option in options)
    return "&".join(
        option if not option or _name(option) in _OURS | _DRIVERS else _without_value(option, named=named)
        for option in options
    )


def _without_value(option: str, *, named: bool) -> str:
    name, equals, _ = option.partition("=")
    shown = _WORD.fullmatch(name) and (named or _name(option) in _SECRETS)
    return f"{name}{equals}{_HIDDEN if equals else ''}" if shown else _HIDDEN


def _name(option: str) -> str:
    return unquote_plus(option.partition("=")[0]).lower()


def _parse(url: str) -> Target:
    scheme, slashes, rest = url.partition("://")
    if not slashes or scheme not in _SCHEMES:
        raise ConfigError("the scheme is postgresql")
    if "#" in rest:
        raise ConfigError("there is a '#' in it")
    where, _, text = rest.partition("?")
    query = dict(parse_qsl(text, keep_blank_values=True))
    _check_names(query, mask(url))
    _check_hosts(where.partition("/")[0])
    schema = query.pop("schema", "jobq")
    if not _SCHEMA.fullmatch(schema) or schema.lower().startswith("pg_"):
        raise ConfigError("a schema has 1 to 48 letters, digits or '_', no digit first, and not pg_")
    applies = _one_of(query, "apply", "yes", "no") == "yes"
    pooled = _one_of(query, "pooler", "no", "transaction") == "transaction"
    listens = _one_of(query, "notify", "yes", "no") == "yes"
    timeout = _seconds(query.pop("timeout", "5"), "timeout", _DAY)
    transactions = _count(query.pop("transactions", "10"), "transactions")
    keep_done = _seconds(query.pop("keep_done", "0"), "keep_done", _CENTURY, zero=True)
    dsn = f"postgresql://{where}{'?' if query else ''}{urlencode(query)}"
    return Target(url, mask(url), dsn, schema, applies, listens, pooled, timeout, transactions, keep_done)


def _check_hosts(place: str) -> None:
    for host in place.rpartition("@")[2].split(","):
        if not _HOST.fullmatch(host):
            raise ConfigError(
                "a host or a port cannot be read: write host:port,host:port, and an IPv6 address in brackets"
            )


def _one_of(query: dict[str, str], name: str, usual: str, other: str) -> str:
    value = query.pop(name, usual)
    if value not in {usual, other}:
        raise ConfigError(f"{name} is {usual} or {other}")
    return value


def _seconds(text: str, name: str, most: float, *, zero: bool = False) -> float:
    seconds = float(text)
    if not 0 <= seconds <= most or (seconds == 0 and not zero):
        raise ConfigError(f"{name} is a {'' if zero else 'positive '}number of seconds, at most {most:g}")
    return seconds


def _count(text: str, name: str) -> int:
    if not 0 < (count := int(text)) <= _MOST:
        raise ConfigError(f"{name} is a number from 1 to {_MOST}")
    return count


def _check_names(names: Iterable[str], shown: str) -> None:
    for name in names:
        if name in _OURS | _DRIVERS | _SECRETS:
            continue
        if not re.search(rf"[?&]{re.escape(name)}(?:[=&]|$)", shown):
            raise ConfigError("there is an unknown option")
        raise ConfigError(f"there is no option {name!r}")
