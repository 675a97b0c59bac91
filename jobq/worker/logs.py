"""Logging for the worker program: set up here and never by the library."""

import json
import logging
import os
import sys
from datetime import UTC, datetime
from typing import Any, Final, TextIO

__all__ = ["FORMATS", "LEVELS", "configure", "printable"]

FORMATS: Final = ("text", "json")
LEVELS: Final = ("debug", "info", "warning", "error", "critical")

_COLORS: Final = {"WARNING": "\x1b[33m", "ERROR": "\x1b[31m", "CRITICAL": "\x1b[1;31m"}
_RESET: Final = "\x1b[0m"
# What a job wrote must neither move the cursor of whoever reads the log nor look like a line of ours.
_ESCAPES: Final = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\t\n"}


def configure(form: str, level: str, stream: TextIO | None = None) -> None:
    """Send every log record to `stream` (standard error), as text or as JSON lines."""
    out: TextIO = stream or sys.stderr
    handler = logging.StreamHandler(out)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter(color=_wants_color(out)))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(capture=True)


def printable(text: str) -> str:
    """`text` with control characters escaped, and lines after the first indented."""
    return text.translate(_ESCAPES).replace("\n", "\n    ")


class TextFormatter(logging.Formatter):
    """`time LEVEL logger: message`; further lines are indented."""

    def __init__(self, *, color: bool) -> None:
        super().__init__()
        self._color = color

    def format(self, record: logging.LogRecord) -> str:
        """One record, on one line or several."""
        time = datetime.fromtimestamp(record.created).astimezone().isoformat(" ", "milliseconds")[:23]
        level = f"{record.levelname:<7}"
        if self._color and (color := _COLORS.get(record.levelname)):
            level = f"{color}{level}{_RESET}"
        parts = [record.getMessage(), *_tracebacks(self, record).values()]
        return f"{time} {level} {record.name}: {printable(chr(10).join(parts))}"


class JsonFormatter(logging.Formatter):
    """One JSON object on one line: time, level, logger, message, pid, and exception and stack if there are any."""

    def format(self, record: logging.LogRecord) -> str:
        """One record on one line."""
        fields: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "pid": record.process,
            **_tracebacks(self, record),
        }
        return json.dumps(fields)


def _tracebacks(formatter: logging.Formatter, record: logging.LogRecord) -> dict[str, str]:
    found = dict[str, str]()
    if record.exc_info and record.exc_info[0] is not None:
        found["exception"] = formatter.formatException(record.exc_info)
    if record.stack_info:
        found["stack"] = formatter.formatStack(record.stack_info)
    return found


def _wants_color(stream: TextIO) -> bool:
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb" and stream.isatty()
