"""What a Postgres URL says is checked before anything connects, and no password is ever shown."""

import pytest

from jobq.errors import ConfigError
from jobq_postgres import PostgresBroker
from jobq_postgres._url import mask, parse


def test_what_is_not_said_is_as_usual() -> None:
    target = parse("postgresql://h/d")
    assert (target.schema, target.applies, target.listens, target.pooled) == ("jobq", True, True, False)
    assert (target.timeout, target.transactions, target.dsn) == (5.0, 10, "postgresql://h/d")


def test_what_is_ours_is_not_passed_on_and_the_rest_is() -> None:
    target = parse(
        "postgres://u:p@h1:1,h2:2/d?schema=s&notify=no&sslmode=require&apply=no&pooler=transaction&timeout=2"
    )
    assert target.dsn == "postgresql://u:p@h1:1,h2:2/d?sslmode=require"
    assert (target.schema, target.applies, target.listens, target.pooled) == ("s", False, False, True)
    assert target.timeout == 2.0


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://u:secret@h/d", "postgresql://u:***@h/d"),
        ("postgresql://u@h/d?schema=s", "postgresql://u@h/d?schema=s"),
        ("postgresql://h/d?password=secret", "postgresql://h/d?password=***"),
        ("postgresql://h/d?sslpassword=secret&x=secret", "postgresql://h/d?sslpassword=***&***"),
        ("postgresql://u:se/cret@h/d", "postgresql://***"),
        ("postgresql://u:se#cret@h/d", "postgresql://***"),
        ("postgresql://u:se?cret@h/d", "postgresql://***"),
        ("secret", "***"),
    ],
)
def test_no_password_is_shown(url: str, shown: str) -> None:
    assert mask(url) == shown
    assert "secret" not in mask(url)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("postgresql://h/d?schema=a-b", "a schema has 1 to 48 letters"),
        ("postgresql://h/d?schema=", "a schema has"),
        ('postgresql://h/d?schema="; DROP TABLE jobs; --', "a schema has"),
        ("postgresql://h/d?schema=pg_jobs", "a schema has"),
        ("postgresql://h/d?schema=" + "s" * 49, "a schema has"),
        ("postgresql://h/d?notify=perhaps", "notify is yes or no"),
        ("postgresql://h/d?pooler=session", "pooler is no or transaction"),
        ("postgresql://h/d?timeout=0", "timeout is a positive number of seconds"),
        ("postgresql://h/d?timeout=soon", "an option cannot be read"),
        ("postgresql://h/d?transactions=0", "transactions is a number from 1"),
        ("postgresql://h/d?statement_timeout=1", "there is no option 'statement_timeout'"),
        ("postgresql://h:port/d", "a host or a port cannot be read"),
        ("postgresql://u:se#cret@h/d", "there is a '#' in it"),
    ],
)
def test_what_cannot_be_right_is_said(url: str, message: str) -> None:
    with pytest.raises(ConfigError, match="not a Postgres URL") as caught:
        PostgresBroker(url)
    assert message in str(caught.value)
    assert "se#cret" not in str(caught.value)
