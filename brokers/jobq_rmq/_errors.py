"""The client library's exceptions in jobq's words."""

import os
import re
import shlex
from socket import gaierror
from ssl import SSLError
from typing import Final

from aiormq.exceptions import (
    AuthenticationError,
    ChannelAccessRefused,
    ChannelNotFoundEntity,
    ChannelPreconditionFailed,
    ConnectionNotAllowed,
    ProbableAuthenticationError,
)

from jobq.errors import BrokerError, BrokerFull, BrokerRefused, BrokerUnavailable, OutcomeUnknown
from jobq_rmq._confirms import Fate
from jobq_rmq._messages import Message
from jobq_rmq._url import Target

_MISMATCH: Final = re.compile(
    r"inequivalent arg '(?P<argument>[^']*)' for (?P<what>queue|exchange) '(?P<name>[^']*)' in vhost '.*': "
    r"received (?P<wanted>.*) but current is (?P<found>.*)"
)
_VALUE: Final = re.compile(r"(?:the value )?'(?P<value>.*?)'(?: of type '\w+')?")
_MISSING: Final = re.compile(r"no (?:queue|exchange) '[^']*'")


def unreachable(exc: BaseException, url: str) -> BrokerError:
    """What it means that a connection could not be made."""
    if isinstance(exc, AuthenticationError | ProbableAuthenticationError):
        return BrokerRefused(f"RabbitMQ at {url} does not accept the user or the password ({_said(exc)})")
    if isinstance(exc, ConnectionNotAllowed):
        return BrokerRefused(f"RabbitMQ at {url} does not let this user into this virtual host ({_said(exc)})")
    hint = "Is it running? Or use --broker sqlite:///jobq.db"
    return BrokerUnavailable(f"cannot reach RabbitMQ at {url} ({reason(exc)}). {hint}")


def undeclared(exc: BaseException, target: Target) -> BrokerError:
    """What it means that an exchange, a queue or a binding could not be declared, or a queue not be consumed."""
    url = target.masked
    if isinstance(exc, ChannelPreconditionFailed):
        return BrokerRefused(_different(_said(exc), url))
    if isinstance(exc, ChannelAccessRefused):
        return BrokerRefused(_forbidden(_said(exc), target))
    missing = _MISSING.search(_said(exc))
    if isinstance(exc, ChannelNotFoundEntity) and missing and not target.declares:
        return BrokerRefused(_missing(missing[0], target))
    return BrokerUnavailable(f"RabbitMQ at {url} could not be set up ({reason(exc)})")


def unpublished(fate: Fate, why: BaseException | None, message: Message, target: Target) -> BrokerError:
    """What it means that a message was not confirmed: by one mistake all lose their channel, and only one is clear."""
    url = target.masked
    match fate:
        case "returned" if not target.declares:
            return BrokerRefused(_missing(f"no queue for {message.key!r} at the exchange {message.exchange!r}", target))
        case "returned":
            return BrokerUnavailable(f"RabbitMQ at {url} has lost a queue while jobs were being stored; they were not")
        case "refused":
            return BrokerFull(f"RabbitMQ at {url} did not accept a job: its queue is full, or has no majority")
        case _:
            return _unknown(why, message, target)


def _unknown(why: BaseException | None, message: Message, target: Target) -> BrokerError:
    if why is not None and f"exchange {message.exchange!r}" in _said(why):
        if isinstance(why, ChannelAccessRefused):
            return BrokerRefused(_forbidden(_said(why), target))
        if isinstance(why, ChannelNotFoundEntity) and not target.declares:
            return BrokerRefused(_missing(f"no exchange {message.exchange!r}", target))
    said = "in time" if why is None else f"({reason(why)})"
    return OutcomeUnknown(f"RabbitMQ at {target.masked} did not confirm a job {said}; it may have stored it or not")


def _different(said: str, url: str) -> str:
    found = _MISMATCH.search(said)
    if found is None:
        return (
            f"RabbitMQ at {url} has something of the same name with other properties ({said}). "
            "Ways out: another ?prefix=, or to drain and delete it"
        )
    argument, there = found["argument"], _value(found["found"])
    return (
        f"RabbitMQ at {url} has the {found['what']} {found['name']!r} with {_with(argument, there)}, and not with "
        f"{_with(argument, _value(found['wanted']))}. Ways out: {_way_out(found['what'], argument, there)}another "
        "?prefix=, or to drain and delete it"
    )


def _way_out(what: str, argument: str, there: str | None) -> str:
    """The one that only some differences leave: jobs can live with most arguments of a queue."""
    if argument == "x-queue-type":
        return f"the type that is there (?type={there}), " if there in {"quorum", "classic"} else ""
    tolerable = what == "queue" and argument.startswith("x-")
    return "to use it as it is, if that is meant (?declare=no), " if tolerable else ""


def _value(text: str) -> str | None:
    """A value as the server reports it; None for none."""
    found = _VALUE.fullmatch(text)
    return found["value"] if found else None


def _with(argument: str, value: str | None) -> str:
    return f"no {argument}" if value is None else f"the {argument} {value!r}"


def _forbidden(said: str, target: Target) -> str:
    names = rf"'^{target.prefix}\.'"
    if not target.declares:
        return (
            f"RabbitMQ at {target.masked} does not give this user the rights that jobq needs ({said}). "
            f"With ?declare=no those are to write and to read {names}"
        )
    return (
        f"RabbitMQ at {target.masked} does not give this user the rights that jobq needs ({said}): to configure, write "
        f"and read {names}. Or use ?declare=no, when somebody else has made what {_command(target)} prints"
    )


def _missing(what: str, target: Target) -> str:
    return (
        f"RabbitMQ at {target.masked} has {what}, and with ?declare=no nothing is made. "
        f"An operator has to import what this prints: {_command(target)}"
    )


def _command(target: Target) -> str:
    return f"`python -m jobq_rmq {shlex.quote(target.masked)} QUEUE…`"


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
