"""URLs: what may be in them, and what is said about those that are wrong."""

import pytest

from jobq.errors import ConfigError
from jobq_redis import RedisBroker
from jobq_redis._url import mask, parse


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
