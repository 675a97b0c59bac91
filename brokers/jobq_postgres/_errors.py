"""The server's and the client library's errors in jobq's words."""

import os
from socket import gaierror
from ssl import SSLError
from typing import Final

from jobq.errors import BrokerError, BrokerFull, BrokerRefused, BrokerUnavailable, OutcomeUnknown

_HINT: Final = "Is it running? Or use --broker sqlite:///jobq.db"
_APPLY: Final = "jobq schema apply"

# By the first that a state begins with (PostgreSQL's documentation, appendix A).
_UNKNOWN: Final = ("08", "57P01", "57P02", "57P05", "25P03", "40003")
"""The connection has ended: with what was on its way, or after it."""
_NOT_NOW: Final = ("40", "55", "57", "25006", "25P02", "53300")
"""It was rolled back, and the next time may be better."""
_FULL: Final = ("53", "54")
_RIGHTS: Final = ("28", "42501", "3D000")
_SCHEMA: Final = ("42P01", "42883", "3F000", "42703", "42725")


def unreachable(exc: BaseException, url: str) -> BrokerError:
    """What it means that a connection could not be made."""
    state = state_of(exc)
    if state.startswith(_RIGHTS):
        return BrokerRefused(f"Postgres at {url} refuses the connection ({first_line(exc)})")
    if state.startswith(("53300", "57P03")):
        return BrokerUnavailable(f"Postgres at {url} takes no connection now ({first_line(exc)})")
    if state and not state.startswith(("08", "57")):
        return BrokerRefused(f"Postgres at {url} refuses the connection ({first_line(exc)})")
    return BrokerUnavailable(f"cannot reach Postgres at {url} ({reason(exc)}). {_HINT}")


def failed(exc: BaseException, url: str, schema: str) -> BrokerError:
    """What it means that a call failed which was on its way."""
    state = state_of(exc)
    if is_lost(exc):
        return OutcomeUnknown(f"the connection to Postgres at {url} was lost before the reply ({reason(exc)})")
    if state.startswith(_NOT_NOW):
        return BrokerUnavailable(f"Postgres at {url} cannot do this now: {first_line(exc)}")
    if state.startswith(_FULL):
        return BrokerFull(f"Postgres at {url} has no room left ({first_line(exc)}); nothing was stored")
    if state.startswith(_SCHEMA):
        return BrokerRefused(
            f'the schema "{schema}" of Postgres at {url} is not what this jobq needs ({first_line(exc)}): {_APPLY}'
        )
    if state.startswith(_RIGHTS):
        return BrokerRefused(
            f"Postgres at {url} does not allow this user what jobq needs ({first_line(exc)}); "
            "the grants are in docs/postgres.md"
        )
    return BrokerRefused(f"Postgres at {url} cannot do this: {first_line(exc)}")


def is_lost(exc: BaseException) -> bool:
    """Whether the connection has ended, so that nobody knows what became of a commit."""
    state = state_of(exc)
    return not state or state.startswith(_UNKNOWN)


def state_of(exc: BaseException) -> str:
    """The SQLSTATE; empty for what is not the server's word."""
    state = getattr(exc, "sqlstate", None)
    return state if isinstance(state, str) else ""


def first_line(exc: BaseException) -> str:
    """What the server says, without its hints."""
    return str(exc).partition("\n")[0]


def reason(exc: BaseException) -> str:
    """The operating system's words for `exc`, or the library's."""
    if isinstance(exc, TimeoutError):
        return "no answer in time"
    cause: BaseException | None = exc
    while cause is not None:
        if isinstance(cause, SSLError | gaierror):
            return str(cause.strerror)
        if isinstance(cause, OSError) and cause.errno:  # asyncio puts the address into its own text
            return os.strerror(cause.errno).lower()
        cause = cause.__cause__ or cause.__context__
    return first_line(exc) or type(exc).__name__
