"""URLs: what may be in them, and what is said about those that are wrong."""

import logging
import re

import aiormq
import pytest

from jobq import App
from jobq.errors import BrokerUnavailable, ConfigError
from jobq.plugins import open_broker
from jobq.worker import banner
from jobq.worker.settings import Settings
from jobq_rmq import RmqBroker
from jobq_rmq._url import mask, parse
from tests.servers import free_port


@pytest.mark.parametrize(
    ("url", "addresses"),
    [
        ("amqp://", ["amqp://localhost:5672/"]),
        ("amqp://h", ["amqp://h:5672/"]),
        ("amqp://h/", ["amqp://h:5672/"]),
        ("amqp://h:1", ["amqp://h:1/"]),
        ("amqps://h", ["amqps://h:5671/"]),
        ("amqp://:1", ["amqp://localhost:1/"]),
        ("amqp://u:p@/v", ["amqp://u:p@localhost:5672/v"]),
        ("amqp://u:p@h,i:2/v", ["amqp://u:p@h:5672/v", "amqp://u:p@i:2/v"]),
        ("amqp://u:p,q@h", ["amqp://u:p,q@h:5672/"]),
        ("amqp://u@h", ["amqp://u@h:5672/"]),
        ("amqp://[::1]", ["amqp://[::1]:5672/"]),
        ("amqp://[::1]:1,[fe80::2],h", ["amqp://[::1]:1/", "amqp://[fe80::2]:5672/", "amqp://h:5672/"]),
        ("amqp://127.0.0.1,a-b.example.com:5/", ["amqp://127.0.0.1:5672/", "amqp://a-b.example.com:5/"]),
    ],
)
def test_addresses(url: str, addresses: list[str]) -> None:
    assert parse(url).addresses == tuple(f"{address}?heartbeat=10" for address in addresses)


@pytest.mark.parametrize(
    ("path", "vhost"),
    [("", "/"), ("/", "/"), ("/%2F", "/"), ("/v", "v"), ("/%2Fv", "/v"), ("/a/b", "a/b"), ("/my%20v", "my v")],
)
async def test_the_client_library_sees_the_login_and_the_virtual_host(path: str, vhost: str) -> None:
    (address,) = parse(f"amqp://u%40:p%2Fw%23@h{path}").addresses
    seen = aiormq.Connection(address)
    assert (seen.vhost, seen.url.user, seen.url.password, seen.url.host) == (vhost, "u@", "p/w#", "h")
    assert parse(f"amqp://h{path}").vhost == vhost
    assert seen.heartbeat_timeout == 10


async def test_the_client_library_sees_the_tls_options() -> None:
    (address,) = parse("amqps://h?cafile=/a%20b&capath=/c&certfile=/d&keyfile=/e&no_verify_ssl=1").addresses
    seen = aiormq.Connection(address).ssl_certs
    assert (seen.cafile, seen.capath, seen.cert, seen.key, seen.verify) == ("/a b", "/c", "/d", "/e", False)
    (address,) = parse("amqps://h").addresses
    assert aiormq.Connection(address).ssl_certs.verify


def test_everything_else_in_a_url() -> None:
    target = parse("amqp://h?prefix=my-jobs_2&type=classic&heartbeat=30&timeout=1.5&delay=plugin&declare=no")
    assert (target.prefix, target.kind, target.timeout) == ("my-jobs_2", "classic", 1.5)
    assert (target.delays, target.declares) == ("plugin", False)
    assert target.addresses == ("amqp://h:5672/?heartbeat=30",)
    usual = parse("amqp://h")
    assert (usual.prefix, usual.kind, usual.timeout) == ("jobq", "quorum", 5.0)
    assert (usual.delays, usual.declares) == ("ttl", True)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "the scheme is amqp or amqps"),
        ("h", "the scheme is amqp or amqps"),
        ("http://h", "the scheme is amqp or amqps"),
        ("amqp+magic://h", "the scheme is amqp or amqps"),
        ("amqp:/h", "the scheme is amqp or amqps"),
        ("amqp://h:port", "a host or a port cannot be read"),
        ("amqp://h:", "a host or a port cannot be read"),
        ("amqp://h:1:2", "a host or a port cannot be read"),
        ("amqp://::1", "an IPv6 address in brackets"),
        ("amqp://[::1", "a host or a port cannot be read"),
        ("amqp://h,", "a host or a port cannot be read"),
        ("amqp://,h", "a host or a port cannot be read"),
        ("amqp://h,,i", "a host or a port cannot be read"),
        ("amqp://h h", "a host or a port cannot be read"),
        ("amqp://h:0", "a port is a number from 1 to 65535"),
        ("amqp://h:99999", "a port is a number from 1 to 65535"),
        ("amqp://u:p@h,v:q@i", "named once"),
        ("amqp://h?prefix=", "a prefix has 1 to 32"),
        ("amqp://h?prefix=a.b", "a prefix has 1 to 32"),
        (f"amqp://h?prefix={'x' * 33}", "a prefix has 1 to 32"),
        ("amqp://h?type=stream", "type is quorum or classic"),
        ("amqp://h?delay=30", "delay is ttl or plugin"),
        ("amqp://h?declare=false", "declare is yes or no"),
        ("amqp://h?nonsense", "there is no option 'nonsense'"),
        ("amqp://h?store=redis://r", "no broker can be a store yet"),
        ("amqp://h?handover=0", "handover is a positive number of seconds"),
        ("amqp://h?auth=external", "there is no option 'auth'"),
        ("amqp://h?name=x", "there is no option 'name'"),
        ("amqp://h?cafile=/x", "there is no option 'cafile' without TLS"),
        ("amqps://h?cadata=x", "there is no option 'cadata'"),
        ("amqps://h?no_verify_ssl=perhaps", "no_verify_ssl is 0 or 1"),
        ("amqp://h?timeout=0", "timeout is a positive number"),
        ("amqp://h?timeout=nan", "timeout is a positive number"),
        ("amqp://h?timeout=inf", "timeout is a positive number"),
        ("amqp://h?timeout=soon", "an option cannot be read"),
        ("amqp://h?timeout", "an option cannot be read"),
        ("amqp://h?heartbeat=0", "heartbeat is a positive number"),
        ("amqp://h?heartbeat=65536", "heartbeat is a positive number of seconds, at most 3600"),
        ("amqp://h#x", "there is a '#' in it"),
    ],
)
def test_what_cannot_be_right_is_named(url: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RmqBroker(url)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "amqp://u:sec#ret@h",
        "amqp://u:sec/ret@h",
        "amqp://u:sec?ret@h",
        "amqp://:sec@ret@h:x",
        "amqp://h/x?password=sec%20ret",
        "amqp://h?timeout=0&password=sec&ret=1",
        "amqps://u:secret@h/?no_verify_ssl=x",
        "amqp://u:secret@h,u:secret@i",
        "amqp://u:secret@h:x,i",
        "nonsense://u:secret@h",
        "amqp:/u:secret@h",
    ],
)
def test_no_error_shows_a_password(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RmqBroker(url)
    assert "sec" not in str(caught.value).replace("seconds", "")
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)
    assert "***" in str(caught.value)


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("amqp://h:1/v", "amqp://h:1/v"),
        ("amqp://u@h", "amqp://u@h"),
        ("amqp://u:p@h", "amqp://u:***@h"),
        ("amqp://u:@h", "amqp://u:***@h"),
        ("amqp://:p@h?prefix=x", "amqp://:***@h?prefix=x"),
        ("amqp://u:p@h,i:2/v?type=classic&timeout=1", "amqp://u:***@h,i:2/v?type=classic&timeout=1"),
        ("amqp://u:p@[::1]:1,h", "amqp://u:***@[::1]:1,h"),
        ("amqps://h?cafile=/x/y&no_verify_ssl=1", "amqps://h?cafile=/x/y&no_verify_ssl=1"),
        ("amqp://h?delay=plugin&declare=no", "amqp://h?delay=plugin&declare=no"),
        ("amqp://h?heartbeet=1", "amqp://h?heartbeet=***"),
        ("amqp://h?password=p", "amqp://h?password=***"),
        ("amqp://h?passw%6Frd=p", "amqp://h?***"),
        ("amqp://h?password=a&b=c&timeout=1", "amqp://h?password=***&***&timeout=1"),
        ("amqp://h?PassWord=a/b", "amqp://h?PassWord=***"),
        ("amqp://h?password=a#b", "amqp://h?password=***"),
        ("amqp://h?password=a@b", "amqp://***"),
        ("amqp://u:p@s/s@h", "amqp://***"),
        ("amqp://u:p?prefix=s@h", "amqp://***"),
        ("amqp://:p#s@h", "amqp://***"),
        ("u:p@h", "***"),
        ("u:p@h://x", "***"),
        ("", ""),
    ],
)
def test_masking(url: str, masked: str) -> None:
    assert mask(url) == masked


def test_a_broker_never_shows_its_password() -> None:
    broker = RmqBroker("amqp://u:secret@h:1/v?prefix=n")
    assert broker.url == "amqp://u:***@h:1/v?prefix=n"
    assert broker.twin().url == broker.url
    for shown in (broker, parse("amqp://u:secret@h")):
        assert "secret" not in repr(shown)


CUT = [
    "amqp://:q7/zx@host/v",
    "amqp://:q7?zx@host:1/v",
    "amqp://:q7?zx=w@host:1/v",
    "amqp://:q7#zx@host/v",
    "amqp://:q7[zx@host/v",
    "amqp://:q7]zx@host/v",
    "amqp://:q7@zx@host/v",
    "amqp://:q7\u2100zx@ho st/v",
    "amqp://u:98/zx@host",
    "amqp://u:98?zx@host/v",
    "amqp://u:q7@zx/zx@host/v",
    "amqp://u:q7/zx@host,i",
    "amqp://h?Password=q7",
    "amqp://h?PASSWORD=q7@zx",
    "amqp://h?password=q7&ss=w",
    "amqp://h?passwd=q7@zx",
    "amqp://h/v?password=q7#zx",
]


@pytest.mark.parametrize("opener", [open_broker, RmqBroker])
@pytest.mark.parametrize("url", CUT)
def test_no_error_shows_a_part_of_a_secret(url: str, opener: type[RmqBroker]) -> None:
    with pytest.raises(ConfigError) as caught:
        opener(url)
    assert [part for part in ("q7", "zx", "98", "'ss'", "=w") if part in str(caught.value)] == []
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)


@pytest.mark.parametrize(
    "url",
    [
        "amqp://u:q7zx@localhost:{port}/v",
        "amqp://u:q7zx@localhost:{port},127.0.0.1:{port}",
        "amqps://u:q7zx@localhost:{port}",
    ],
)
async def test_no_secret_shows_in_a_broker_s_url_its_repr_the_banner_the_log_or_an_error(
    url: str, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    url = url.format(port=free_port())
    broker = RmqBroker(url)
    banner.show(Settings(app="m:app", broker=url, queues=("default",)), App(), broker.url, "asyncio")
    with pytest.raises(BrokerUnavailable, match="connection refused") as caught:
        async with broker:
            pass
    shown = [broker.url, repr(broker), str(caught.value), capsys.readouterr().err, caplog.text]
    assert [text for text in shown if re.search("q7|zx", text)] == []


@pytest.mark.parametrize("character", "#/?@[]")
def test_what_a_password_needs_escaped_is_named(character: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RmqBroker(f"amqp://:pa{character}ss@@h:x/v")
    assert f"'{character}'" in str(caught.value)
    assert f"%{ord(character):X}" in str(caught.value)


def test_an_unknown_option_is_named_also_beside_a_login() -> None:
    with pytest.raises(ConfigError, match="there is no option 'heartbeet'"):
        RmqBroker("amqp://u:secret@h?heartbeet=1")
