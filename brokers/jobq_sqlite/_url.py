"""What a `sqlite:` URL says."""

from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from jobq.errors import ConfigError

_SYNCHRONOUS = ("off", "normal", "full")
_SHAPE = "it is sqlite:///relative/path.db or sqlite:////absolute/path.db"


@dataclass(frozen=True, slots=True)
class Place:
    """A database file and how to use it.

    `synchronous`: full survives a power cut; normal may then lose the last moments, but never the file;
    off may damage the file too, and is for jobs that may all be lost.
    `timeout` is for how many seconds a call waits for other writers.
    """

    path: Path
    synchronous: str = "full"
    timeout: float = 5.0


def parse(url: str) -> Place:
    """The place that `url` names. Raises `ConfigError` for what cannot be right."""
    parts = urlsplit(url)
    if parts.scheme != "sqlite" or parts.netloc or parts.fragment:
        raise ConfigError(f"not a SQLite URL: {url!r}; {_SHAPE}")
    name = unquote(parts.path).removeprefix("/")
    if name in {"", ":memory:"}:
        raise ConfigError(f"{url!r} names no file; {_SHAPE}. For jobs in memory use memory://")
    if name.endswith("/") or "\0" in name:
        raise ConfigError(f"{url!r} is not the name of a file")
    return _with_options(Path(name), url, parts.query)


def _with_options(path: Path, url: str, query: str) -> Place:
    place = {"synchronous": "full", "timeout": "5"}
    try:
        given = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError:
        raise ConfigError(f"{url!r}: what follows the question mark is not name=value&name=value") from None
    for name, value in given:
        if name not in place:
            raise ConfigError(f"{url!r}: unknown option {name!r}; there are {', '.join(place)}")
        place[name] = value.lower()
    if place["synchronous"] not in _SYNCHRONOUS:
        raise ConfigError(f"{url!r}: synchronous is one of {', '.join(_SYNCHRONOUS)}")
    return Place(path, place["synchronous"], _seconds(url, place["timeout"]))


def _seconds(url: str, text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not isfinite(seconds) or seconds <= 0:
        raise ConfigError(f"{url!r}: timeout is a number of seconds, more than 0")
    return seconds
