"""The Lua scripts, and how to call one."""

import hashlib
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Final

_FILES: Final = files("jobq_redis")
_PRELUDE: Final = (_FILES / "prelude.lua").read_bytes()
_MOVES: Final = (_FILES / "moves.lua").read_bytes()
_HELD: Final = (_FILES / "held.lua").read_bytes()


@dataclass(frozen=True, slots=True)
class Script:
    """A script, complete."""

    source: bytes
    sha: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sha", hashlib.sha1(self.source).hexdigest())  # noqa: S324 - Redis's name for it


def _load(name: str, *before: bytes) -> Script:
    return Script(b"\n".join([_PRELUDE, *before, (_FILES / f"{name}.lua").read_bytes()]))


BOOT: Final = _load("boot")
ENQUEUE: Final = _load("enqueue")
TURN: Final = _load("turn", _MOVES)
HEARTBEAT: Final = _load("heartbeat", _MOVES, _HELD)
SWEEP: Final = _load("sweep", _MOVES, _HELD)
WAIT: Final = _load("wait")
DEAD: Final = _load("dead")
EXHUME: Final = _load("exhume")
PURGE: Final = _load("purge")
