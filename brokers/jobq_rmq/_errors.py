"""The client library's exceptions in jobq's words."""

import os
from socket import gaierror
from ssl import SSLError

from aiormq.exceptions import (
    AuthenticationError,
    ChannelAccessRefused,
    ChannelPreconditionFailed,
    ConnectionNotAllowed,
    DeliveryError,
    ProbableAuthenticationError,
    PublishError,
)

from jobq.errors import BrokerError, BrokerFull, BrokerRefused, BrokerUnavailable, OutcomeUnknown


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


def unpublished(exc: BaseException, url: str) -> BrokerError:
    """What it means that a message was not confirmed."""
    if isinstance(exc, PublishError):
        return BrokerUnavailable(f"RabbitMQ at {url} has lost a queue while jobs were being stored; they were not")
    if isinstance(exc, DeliveryError):
        return BrokerFull(f"RabbitMQ at {url} did not accept a job: its queue is full, or has no majority")
    return OutcomeUnknown(f"RabbitMQ at {url} did not confirm a job ({reason(exc)}); it may have stored it or not")


def unreachable_dead(exc: BaseException, url: str) -> BrokerError:
    """What it means that the dead letters could not be reached, or no longer."""
    if isinstance(exc, ChannelAccessRefused):
        return BrokerRefused(f"RabbitMQ at {url} does not let this user at the dead jobs ({_said(exc)})")
    return BrokerUnavailable(f"RabbitMQ at {url} was lost among the dead jobs ({reason(exc)}); none is lost. Try again")


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
