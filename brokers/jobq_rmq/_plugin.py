"""Whether a server can delay messages by its plug-in."""

import asyncio
import re
from contextlib import suppress
from typing import Any, Final, cast

from aiormq import Connection
from aiormq.exceptions import ChannelAccessRefused, ChannelPreconditionFailed, ConnectionCommandInvalid

from jobq.errors import BrokerRefused
from jobq_rmq._declare import BROKEN
from jobq_rmq._errors import reason, unreachable
from jobq_rmq._topology import DELAYED
from jobq_rmq._url import Target

_FIRST_WITHOUT: Final = (4, 3)
"""The version that no longer has the database in which the plug-in keeps its messages."""
_GOODBYE: Final = 1.0
_INSTEAD: Final = "Use ?delay=ttl, the default, which needs no plug-in"


async def probe(connection: Connection, target: Target) -> None:
    """Raise `BrokerRefused` unless the server of `connection` can delay messages by its plug-in."""
    check_version(str(connection.server_properties.get("version")), target.masked)
    try:
        async with asyncio.timeout(target.timeout):
            await _ask(connection)
    except (ConnectionCommandInvalid, ChannelPreconditionFailed) as exc:  # the latter since 4.0
        raise BrokerRefused(
            f"RabbitMQ at {target.masked} has no plug-in for delayed messages that is enabled ({reason(exc)}). "
            f"{_INSTEAD}, or: rabbitmq-plugins enable rabbitmq_delayed_message_exchange"
        ) from exc
    except BROKEN as exc:
        raise unreachable(exc, target.masked) from exc


def check_version(version: str, url: str) -> None:
    """Raise `BrokerRefused` if no server of this version can run the plug-in."""
    found = re.match(r"(\d+)\.(\d+)", version)
    if found is not None and (int(found[1]), int(found[2])) >= _FIRST_WITHOUT:
        raise BrokerRefused(
            f"RabbitMQ {version} at {url} cannot delay messages by its plug-in: 4.2 is the last that can. {_INSTEAD}"
        )


async def _ask(connection: Connection) -> None:
    """Ask for the default exchange to be of the plug-in's type, which no server allows, whatever the user's rights.

    It looks at the type first, and if there is none such, it ends the channel or, before 4.0, the connection; also if
    an exchange of that type was left behind. So this is done on another connection, and makes nothing.
    """
    other = Connection(connection.url, client_properties={"connection_name": "jobq probing"})
    try:
        await cast("Any", other).connect()  # partly untyped
        channel = await other.channel()
        with suppress(ChannelAccessRefused):
            await channel.exchange_declare("", exchange_type=DELAYED)
    finally:
        with suppress(*BROKEN):
            await other.close(timeout=_GOODBYE)
