"""What a broker URL says, checked before anything connects."""

import re
from dataclasses import dataclass, field
from typing import Final, cast
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from jobq.errors import ConfigError
from jobq_rmq._topology import Kind

_PORTS: Final = {"amqp": 5672, "amqps": 5671}
_PREFIX: Final = re.compile(r"[A-Za-z0-9_-]{1,32}")
_TLS: Final = frozenset({"cafile", "capath", "certfile", "keyfile", "no_verify_ssl"})
_HINT: Final = "; in a user or a password write '#', '/', '?', '@', '[' and ']' as %23, %2F, %3F, %40, %5B and %5D"
_DAY: Final = 86400.0


@dataclass(frozen=True, slots=True)
class Target:
    """Where the servers are, and how to talk to them."""

    url: str = field(repr=False)
    masked: str
    addresses: tuple[str, ...] = field(repr=False)
    """A URL for each server, in the client library's form."""
    prefix: str
    kind: Kind
    timeout: float


def parse(url: str) -> Target:
    """The target that `url` names. Raises `ConfigError` that says what is wrong with it."""
    try:
        return _parse(url)
    except ConfigError as exc:
        reason = str(exc)
    except ValueError:  # its words may repeat a password
        reason = "the host, the port or an option cannot be read"
    raise ConfigError(f"not a RabbitMQ URL: {mask(url)}: {reason}{_HINT if '@' in url else ''}")


def mask(url: str) -> str:
    """`url` without what is secret or may be a part of it, also when the rest is wrong."""
    scheme, slashes, rest = url.partition("://")
    if not slashes or scheme not in _PORTS:
        return "***" if url else ""
    place = re.split("[/?#]", rest, maxsplit=1)[0]
    if "@" in rest[len(place) :]:  # a '/', '?' or '#' in a login has cut it short
        return f"{scheme}://***"
    login, at, hosts = place.rpartition("@")
    user, colon, _ = login.partition(":")
    return f"{scheme}://{user}{':***' if colon else ''}{at}{hosts}{rest[len(place) :]}"


def _parse(url: str) -> Target:
    parts = urlsplit(url)
    if parts.scheme not in _PORTS:
        raise ConfigError("the scheme is amqp or amqps")
    if parts.fragment:
        raise ConfigError("there is a '#' in it")
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    prefix, kind = query.pop("prefix", "jobq"), query.pop("type", "quorum")
    if not _PREFIX.fullmatch(prefix):
        raise ConfigError("a prefix has 1 to 32 letters, digits, '_' or '-'")
    if kind not in {"quorum", "classic"}:
        raise ConfigError("the type is quorum or classic")
    timeout = _seconds(query.pop("timeout", "5"), "timeout")
    heartbeat = round(_seconds(query.pop("heartbeat", "10"), "heartbeat"))
    _check_rest(query, tls=parts.scheme == "amqps")
    login, at, hosts = parts.netloc.rpartition("@")
    rest = urlencode({**query, "heartbeat": max(1, heartbeat)})
    path = f"/{quote(unquote(parts.path[1:]), safe='')}" if parts.path not in {"", "/"} else "/"
    addresses = [
        f"{parts.scheme}://{login}{at}{_address(host, parts.scheme)}{path}?{rest}" for host in hosts.split(",")
    ]
    return Target(url, mask(url), tuple(addresses), prefix, cast("Kind", kind), timeout)


def _address(host: str, scheme: str) -> str:
    one = urlsplit(f"//{host}")
    name = one.hostname or "localhost"
    return f"{f'[{name}]' if ':' in name else name}:{one.port or _PORTS[scheme]}"


def _seconds(text: str, name: str) -> float:
    seconds = float(text)
    if not 0 < seconds <= _DAY:
        raise ConfigError(f"{name} is a positive number of seconds")
    return seconds


def _check_rest(query: dict[str, str], *, tls: bool) -> None:
    for name in query:
        if name not in _TLS:
            raise ConfigError(f"there is no option {name!r}")
        if not tls:
            raise ConfigError(f"there is no option {name!r} without TLS")
