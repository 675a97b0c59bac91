"""The client library's exceptions in jobq's words."""

import os
from socket import gaierror
from ssl import SSLError

from aiormq.exceptions import (
    AuthenticationError,
    ChannelAccessRefused,
    ChannelPreconditionFailed,
    ConnectionNotAllowed,
    ProbableAuthenticationError,
)

from jobq.errors import BrokerError, BrokerRefused, BrokerUnavailable


def unreachable(exc: BaseException, url: str) -> BrokerError:
    """What it means that a connection could not be made."""
    if isinstance(exc, AuthenticationError | ProbableAuthenticationError):
        return BrokerRefused(f"RabbitMQ at {url} does not accept the user or the password ({_said(exc)})")
    if isinstance(exc, ConnectionNotAllowed):
        return BrokerRefused(f"RabbitMQ at {url} does not let this user into this virtual host ({_said(exc)})")
    hint = "Is it running? Or use --broker sqlite:///jobq.db"
    return BrokerUnavailable(f"cannot reach RabbitMQ at {url} ({reason(exc)}). {hint}")


def undeclared(exc: BaseException, url: str) -> BrokerError:
    """What it means that an exchange, a queue or a binding could not be declared."""
    if isinstance(exc, ChannelPreconditionFailed):
        return BrokerRefused(
            f"RabbitMQ at {url} has something of the same name with other properties ({_said(exc)}). "
            "Use the type that is there (?type=classic or ?type=quorum) or another ?prefix=, or drain and delete it"
        )
    if isinstance(exc, ChannelAccessRefused):
        return BrokerRefused(f"RabbitMQ at {url} does not give this user the rights that jobq needs ({_said(exc)})")
    return BrokerUnavailable(f"RabbitMQ at {url} could not be set up ({reason(exc)})")


def reason(exc: BaseException) -> str:
    """The operating system's words for `exc`, or the driver's."""
    if isinstance(exc, TimeoutError):
        return "no answer in time"
    if isinstance(exc, SSLError | gaierror):
        return str(exc.strerror)
    if isinstance(exc, OSError) and exc.errno:
        return os.strerror(exc.errno).lower()
    return _said(exc)


def _said(exc: BaseException) -> str:
    return " ".join(str(part) for part in exc.args if part) or type(exc).__name__
