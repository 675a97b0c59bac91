"""URLs: what may be in them, and what is said about those that are wrong."""

import logging

import pytest

from jobq import App
from jobq.errors import BrokerUnavailable, ConfigError
from jobq.plugins import open_broker
from jobq.worker import banner
from jobq.worker.settings import Settings
from jobq_redis import RedisBroker
from jobq_redis._url import mask, parse
from tests.servers import free_port


@pytest.mark.parametrize(
    ("url", "kind", "addresses", "namespace"),
    [
        ("redis://", "single", [("localhost", 6379)], "main"),
        ("redis://h", "single", [("h", 6379)], "main"),
        ("redis://h:1/2", "single", [("h", 1)], "main"),
        ("redis://[::1]:1", "single", [("::1", 1)], "main"),
        ("rediss://h?namespace=a.b-C_1&ssl_cert_reqs=none", "single", [("h", 6379)], "a.b-C_1"),
        ("unix:///run/redis.sock?db=1", "unix", [], "main"),
        ("redis+sentinel://h:1,i/mymaster", "sentinel", [("h", 1), ("i", 26379)], "main"),
        ("redis+cluster://h:1,i:2,j", "cluster", [("h", 1), ("i", 2), ("j", 6379)], "main"),
    ],
)
def test_addresses(url: str, kind: str, addresses: list[tuple[str, int]], namespace: str) -> None:
    target = parse(url)
    assert (target.kind, list(target.addresses), target.namespace) == (kind, addresses, namespace)


def test_everything_else_in_a_url() -> None:
    target = parse(
        "rediss+sentinel://u%40:p%2Fw@h,i/my%20master/3?sentinel_username=s&sentinel_password=t&socket_timeout=1.5"
        "&socket_connect_timeout=2&client_name=me"
    )
    assert target.service == "my master"
    assert target.tls
    assert target.options == {"username": "u@", "password": "p/w", "db": 3, "client_name": "me"}
    assert target.sentinel_options == {"username": "s", "password": "t"}
    assert (target.reply_timeout, target.connect_timeout) == (1.5, 2.0)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "the scheme is one of redis, rediss"),
        ("http://h", "the scheme is one of"),
        ("redis+magic://h", "the scheme is one of"),
        ("redis://h:port", "the host, the port or an option"),
        ("redis://h:99999", "the host, the port or an option"),
        ("redis://h/name", "the database is a number, not 'name'"),
        ("redis://h/1/2", "the database is a number"),
        ("redis://h,i", "several hosts need"),
        ("redis://h?namespace=", "a namespace has 1 to 64"),
        ("redis://h?namespace=a:b", "a namespace has 1 to 64"),
        (f"redis://h?namespace={'x' * 65}", "a namespace has 1 to 64"),
        ("redis://h?decode_responses", "there is no option 'decode_responses'"),
        ("redis://h?decode_responses=true", "there is no option 'decode_responses'"),
        ("redis://h?ssl_cert_reqs=none", "there is no option 'ssl_cert_reqs' without TLS"),
        ("rediss://h?ssl_cert_reqs=perhaps", "ssl_cert_reqs is none, optional or required"),
        ("redis://h?socket_timeout=0", "socket_timeout is a positive number"),
        ("redis://h?socket_timeout=soon", "the host, the port or an option"),
        ("redis+sentinel://h:1", "it needs the service"),
        ("redis+sentinel://h:1/master/x", "the database is a number"),
        ("redis+cluster://h/1", "only database 0"),
        ("unix://", "it needs the socket's file"),
        ("redis://h#x", "there is a '#' in it"),
    ],
)
def test_what_cannot_be_right_is_named(url: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RedisBroker(url)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://u:sec#ret@h",
        "redis://u:sec/ret@h",
        "redis://u:sec?ret@h",
        "redis://:sec@ret@h:x",
        "redis://h/x?password=sec%20ret",
        "redis+sentinel://:secret@h?sentinel_password=secret",
        "rediss://u:secret@h/0?ssl_password=secret&ssl_cert_reqs=x",
        "nonsense://u:secret@h",
    ],
)
def test_no_error_shows_a_password(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RedisBroker(url)
    assert "sec" not in str(caught.value).replace("percent", "")
    assert caught.value.__cause__ is None
    assert "***" in str(caught.value)


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("redis://h:1/0", "redis://h:1/0"),
        ("redis://u@h", "redis://u@h"),
        ("redis://u:p@h", "redis://u:***@h"),
        ("redis://:p@h?namespace=x", "redis://:***@h?namespace=x"),
        ("unix:///s?db=1&password=p", "unix:///s?db=1&password=***"),
        ("redis+sentinel://h/m?sentinel_password=p&db=0", "redis+sentinel://h/m?sentinel_password=***&db=0"),
        ("redis://h:1/0?password=p@ss&db=1", "redis://h:1/0?password=***&db=1"),
        ("redis://[::1]:1,h/0?password=p@ss", "redis://[::1]:1,h/0?password=***"),
        ("redis://u:p@h/0?PassWord=a/@b", "redis://u:***@h/0?PassWord=***"),
        ("redis://h?client_name=a@b&ssl_ca_certs=/x/@y", "redis://h?client_name=a@b&ssl_ca_certs=/x/@y"),
        ("unix:///run/@socket?db=1", "unix:///run/@socket?db=1"),
        ("redis://h?socket_timout=1", "redis://h?socket_timout=***"),
        ("redis://h?password=a&b=c&db=1", "redis://h?password=***&***&db=1"),
        ("redis://u:p@s/s@h", "redis://***"),
        ("redis://u:p?client_name=s@h", "redis://***"),
        ("redis://:p?password=s@h", "redis://***"),
        ("u:p@h", "***"),
        ("u:p@h://x", "***"),
    ],
)
def test_masking(url: str, masked: str) -> None:
    assert mask(url) == masked


def test_a_broker_never_shows_its_password() -> None:
    broker = RedisBroker("redis://u:secret@h:1/0?namespace=n")
    assert broker.url == "redis://u:***@h:1/0?namespace=n"
    assert "secret" not in repr(broker)
    assert "secret" not in repr(parse("redis://u:secret@h"))
    assert broker.twin().url == broker.url


SECRETS = [
    "redis://u:q7zx@localhost:{port}/0",
    "redis://localhost:{port}/0?password=q7zx",
    "redis://localhost:{port}/0?password=q7@zx",
    "redis://localhost:{port}/0?password=q7@zx@w&db=1",
    "redis://localhost:{port}/0?username=u&password=q7/zx&namespace=n",
    "redis://u:q7zx@localhost:{port}/0?password=q7@zx",
    "redis://localhost:{port}/0?passw%6Frd=q7@zx",
    "rediss://localhost:{port}?ssl_password=q7@zx",
    "unix:///no/such/socket?password=q7@zx",
    "redis+cluster://localhost:{port},127.0.0.1:{port}?password=q7@zx",
    "redis+sentinel://localhost:{port}/svc?sentinel_password=q7@zx",
    "redis+sentinel://localhost:{port}/svc?sentinel_username=u&sentinel_password=q7@zx&password=q7@zx",
]


@pytest.mark.parametrize("url", SECRETS)
async def test_no_secret_shows_in_a_broker_s_url_its_repr_the_banner_or_an_error(
    url: str, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "jobq.worker")
    url = url.format(port=free_port())
    broker, target = RedisBroker(url), parse(url)
    banner.show(Settings(app="m:app", broker=url, queues=("default",)), App(), broker.url, "asyncio")
    with pytest.raises(BrokerUnavailable) as caught:
        async with broker:
            pass
    shown = [broker.url, repr(broker), repr(target), str(caught.value), capsys.readouterr().err, caplog.text]
    assert [text for text in shown if any(part in text for part in ("q7", "zx", "@w"))] == []
    assert all("***" in text for text in (broker.url, repr(target), str(caught.value)))


CUT = [
    "redis://:q7/zx@host/0",
    "redis://:q7?zx@host:1/0",
    "redis://:q7?zx=w@host:1/0",
    "redis://:q7#zx@host/0",
    "redis://:q7[zx@host/0",
    "redis://:q7]zx@host/0",
    "redis://:q7\u2100zx@host/0",
    "redis://u:98/zx@host",
    "redis://u:98?zx@host/0",
    "redis://u:q7@zx/zx@host/0",
    "redis+sentinel://u:q7/zx@host/svc",
    "redis+cluster://u:q7/zx@host,i",
    "redis://h?Password=q7",
    "redis://h?PASSWORD=q7@zx",
    "redis://h?password=q7&ss=w",
    "redis://h?passwd=q7@zx",
    "redis://h/0?password=q7#zx",
]


@pytest.mark.parametrize("opener", [open_broker, RedisBroker])
@pytest.mark.parametrize("url", CUT)
def test_no_error_shows_a_part_of_a_secret(url: str, opener: type[RedisBroker]) -> None:
    with pytest.raises(ConfigError) as caught:
        opener(url)
    text = str(caught.value)
    assert [part for part in ("q7", "zx", "98", "'ss'", "=w") if part in text] == []
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)


@pytest.mark.parametrize("character", "#/?@[]")
def test_what_a_password_needs_escaped_is_named(character: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RedisBroker(f"redis://:pa{character}ss@@h:x/0")
    assert f"'{character}'" in str(caught.value)
    assert f"%{ord(character):X}" in str(caught.value)


def test_an_unknown_option_is_named_also_beside_a_login() -> None:
    with pytest.raises(ConfigError, match="there is no option 'socket_timout'"):
        RedisBroker("redis://u:secret@h?socket_timout=1")
