"""Log lines, and the parts of the program that need no process of their own."""

import json
import logging
import sys
from collections.abc import Iterator
from io import StringIO

import pytest

from jobq.worker import logs
from jobq.worker.program import loop_factory


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch) -> Iterator[logging.Logger]:
    """The root logger, as it was before when the test is over."""
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", root.level)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    yield root
    logging.captureWarnings(capture=False)


def test_json_holds_everything_on_one_line(root: logging.Logger) -> None:
    out = StringIO()
    logs.configure("json", "info", out)
    try:
        raise ValueError("bad\x1b[2J\nnews\u2028\x9b")
    except ValueError:
        root.exception("it %s\n", "broke", stack_info=True)
    root.debug("too quiet")
    assert out.getvalue().isascii()
    assert out.getvalue().count("\n") == 1
    record = json.loads(out.getvalue())
    assert record["message"] == "it broke\n"
    assert record["level"] == "error"
    assert record["logger"] == "root"
    assert record["time"].endswith("+00:00")
    assert record["exception"].endswith("ValueError: bad\x1b[2J\nnews\u2028\x9b")
    assert record["stack"].startswith("Stack (most recent call last)")


def test_text_cannot_be_forged(root: logging.Logger) -> None:
    out = StringIO()
    logs.configure("text", "info", out)
    root.warning("a\n2026-01-01 00:00:00.000 ERROR   root: not me\r\x1b[31m")
    first, second = out.getvalue().splitlines()
    assert first.endswith(" WARNING root: a")
    assert second == "    2026-01-01 00:00:00.000 ERROR   root: not me\\x0d\\x1b[31m"


def test_color_only_for_those_who_want_it(root: logging.Logger, monkeypatch: pytest.MonkeyPatch) -> None:
    def said(stream: StringIO) -> str:
        logs.configure("text", "info", stream)
        root.error("no")
        return stream.getvalue()

    assert "\x1b[31mERROR" in said(Terminal())
    assert "\x1b" not in said(StringIO())
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in said(Terminal())


def test_warnings_are_log_records(root: logging.Logger) -> None:
    out = StringIO()
    logs.configure("json", "info", out)
    root.getChild("py.warnings").warning("deprecated")
    assert json.loads(out.getvalue())["logger"] == "py.warnings"


def test_the_loop_is_uvloops_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    uvloop = pytest.importorskip("uvloop")
    assert loop_factory() == (uvloop.new_event_loop, f"uvloop {uvloop.__version__}")
    monkeypatch.setitem(sys.modules, "uvloop", None)
    assert loop_factory() == (None, "asyncio")
