"""Drivers' exceptions in jobq's words."""

import os
import re
from socket import gaierror
from ssl import SSLError
from typing import Final

from redis.asyncio.sentinel import MasterNotFoundError
from redis.exceptions import AuthenticationError, AuthorizationError, BusyLoadingError, RedisError

from jobq.errors import BrokerError, BrokerFull, BrokerRefused, BrokerUnavailable, OutcomeUnknown

# Some codes arrive as a class that has dropped them from its text, others only in the text; within a script a 6.2
# server wraps the text in its own.
_CODES: Final = re.compile(
    r"\b(OOM|NOPERM|NOAUTH|WRONGPASS|READONLY|LOADING|CLUSTERDOWN|MASTERDOWN|TRYAGAIN|ASK|BUSY|MISCONF|NOREPLICAS)\b"
    r"|(can't run this command|can't access at least one of the keys)"
)
_REFUSED: Final = frozenset({"NOPERM", "NOAUTH", "WRONGPASS"})
_HINT: Final = "Is it running? Or use --broker sqlite:///jobq.db"


def unreachable(exc: BaseException, url: str) -> BrokerError:
    """What it means that a connection could not be made."""
    if isinstance(exc, AuthenticationError | AuthorizationError):
        return BrokerRefused(f"Redis at {url} does not accept the user or the password ({exc})")
    if isinstance(exc, BusyLoadingError):
        return BrokerUnavailable(f"Redis at {url} is still loading its data; try again")
    if isinstance(exc, MasterNotFoundError):
        return _no_master(exc, url)
    if _code(exc) in _REFUSED:
        return BrokerRefused(f"Redis at {url} refuses the connection ({exc})")
    return BrokerUnavailable(f"cannot reach Redis at {url} ({reason(exc)}). {_HINT}")


def _no_master(exc: MasterNotFoundError, url: str) -> BrokerError:
    """What was wrong with each Sentinel is to be had only as text, in which its client is described at length."""
    if "AuthenticationError" in str(exc) or "AuthorizationError" in str(exc):
        return BrokerRefused(
            f"the Sentinels of {url} do not accept the user or the password; "
            "theirs are sentinel_username and sentinel_password in the query"
        )
    silent = str(exc).count(" - ")
    return BrokerUnavailable(
        f"no Sentinel of {url} names a master ({silent} of them could not be reached). "
        "Are they running, and is the service's name right?"
    )


def lost(exc: BaseException, url: str) -> BrokerError:
    """What it means that a connection broke with a command on its way."""
    if isinstance(exc, AuthenticationError | AuthorizationError | BusyLoadingError):
        return unreachable(exc, url)  # an answer, if an unusual one
    return OutcomeUnknown(f"the connection to Redis at {url} was lost before the reply ({reason(exc)})")


def answered(exc: RedisError, url: str) -> BrokerError:
    """What an error reply means: the command was not executed."""
    match _code(exc):
        case "OOM":
            return BrokerFull(f"Redis at {url} has reached its maxmemory; nothing was stored")
        case code if code in _REFUSED:
            return BrokerRefused(
                f"Redis at {url} does not allow this user what jobq needs ({exc}); "
                "the ACL line is in the documentation of jobq_redis"
            )
        case "":
            return BrokerRefused(f"Redis at {url} cannot do this: {exc}")
        case _:
            return BrokerUnavailable(f"Redis at {url} cannot do this now: {exc}")


def reason(exc: BaseException) -> str:
    """The operating system's words for `exc`, or the driver's."""
    if isinstance(exc, TimeoutError):
        return "no answer in time"
    cause: BaseException | None = exc
    while cause is not None:
        if isinstance(cause, SSLError | gaierror):
            return str(cause.strerror)
        if isinstance(cause, OSError) and cause.errno:  # asyncio puts the address into its own text
            return os.strerror(cause.errno).lower()
        cause = cause.__cause__ or cause.__context__
    text = str(exc)
    return "connection refused" if "refused" in text else text or type(exc).__name__


def _code(exc: BaseException) -> str:
    code = getattr(exc, "status_code", None)
    if isinstance(code, str) and code != "ERR":
        return code
    found = _CODES.search(str(exc))
    return "" if found is None else found[1] or "NOPERM"
