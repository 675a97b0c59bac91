"""The Lua scripts, and how to call one."""

import hashlib
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Final

_FILES: Final = files("jobq_redis")
_PRELUDE: Final = (_FILES / "prelude.lua").read_bytes()


@dataclass(frozen=True, slots=True)
class Script:
    """A script with the prelude in front of it."""

    source: bytes
    sha: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sha", hashlib.sha1(self.source).hexdigest())  # noqa: S324 - Redis's name for it


def _load(name: str) -> Script:
    return Script(_PRELUDE + b"\n" + (_FILES / f"{name}.lua").read_bytes())


ENQUEUE: Final = _load("enqueue")
TURN: Final = _load("turn")
HEARTBEAT: Final = _load("heartbeat")
SWEEP: Final = _load("sweep")
WAIT: Final = _load("wait")
