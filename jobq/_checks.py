"""What a job may say of itself, whoever says it: a task's options, those of a call, or an enqueue middleware."""

import difflib
import math
import re
from collections.abc import Iterable
from datetime import timedelta
from typing import Final, cast

from msgspec import MsgspecError, Raw

from jobq.codec import decode_job, encode_job
from jobq.errors import FAR, ConfigError, DecodeError
from jobq.model import PRIORITIES, Job

MAX_HEADERS: Final = 8 * 1024
"""Characters, all names and values together; even escaped they fit into an envelope beside its arguments."""

_NAME = re.compile(r"[A-Za-z0-9_.:<>-]{1,200}")
_QUEUE = re.compile(r"[A-Za-z0-9_.-]{1,128}")


def nearest(word: str, words: Iterable[str]) -> str:
    """The end of an error about `word`, if one of `words` is what was meant."""
    near = difflib.get_close_matches(word, list(words), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def check_queue(name: object) -> str:
    """`name`, if it can name a queue. Raises `ConfigError`."""
    if isinstance(name, str) and _QUEUE.fullmatch(name):
        return name
    raise ConfigError(f"{name!r} cannot name a queue: 1 to 128 of A-Z a-z 0-9 _ . -")


def check_name(name: object) -> None:
    """Raise `ConfigError` unless `name` can be a task's."""
    if not (isinstance(name, str) and _NAME.fullmatch(name)):
        raise ConfigError(f"{name!r} cannot name a task: 1 to 200 of A-Z a-z 0-9 _ . : < > -")


def check_priority(priority: object) -> int:
    """`priority`, if it is one. Raises `ConfigError`."""
    if isinstance(priority, int) and not isinstance(priority, bool) and priority in PRIORITIES:
        return priority
    raise ConfigError(f"priority is {priority!r}; it is a whole number from 0 to 4, and higher runs first")


def check_id(job_id: object) -> None:
    """Raise `ConfigError` unless `job_id` can be a job's id."""
    if not (isinstance(job_id, str) and _NAME.fullmatch(job_id)):
        raise ConfigError(f"{job_id!r} cannot be a job id: 1 to 200 of A-Z a-z 0-9 _ . : < > -")


def check_headers(headers: object) -> None:
    """Raise `ConfigError` unless `headers` is a dict of strings of a size that envelopes have room for."""
    if not isinstance(headers, dict):
        raise ConfigError(f"headers is {headers!r}; it is a dict of strings")
    texts = [text for pair in cast("dict[object, object]", headers).items() for text in pair]
    if not all(isinstance(text, str) and _is_text(text) for text in texts):
        raise ConfigError(f"headers is {headers!r}; it is a dict of strings that UTF-8 can hold")
    if (size := sum(map(len, cast("list[str]", texts)))) > MAX_HEADERS:
        raise ConfigError(f"headers have {size:,} characters, the limit is {MAX_HEADERS:,}")


def check_whole(name: str, value: object, least: int) -> None:
    """Raise `ConfigError` unless the option's value is a whole number of at least `least`."""
    if not (isinstance(value, int) and not isinstance(value, bool) and value >= least):
        raise ConfigError(f"{name} is {value!r}; it is a whole number, at least {least}")


def check_seconds(name: str, value: object, *, zero: bool = False) -> None:
    """Raise `ConfigError` unless the option's value is a finite number of seconds, above 0 or, if `zero`, 0."""
    number = value if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan
    if not (0 < number < math.inf or (zero and number == 0)):  # NaN is neither above nor below anything
        raise ConfigError(f"{name} is {value!r}; it is a number of seconds, {'0 or more' if zero else 'above 0'}")


def check_flag(name: str, value: object) -> None:
    """Raise `ConfigError` unless the option's value is True or False."""
    if not isinstance(value, bool):
        raise ConfigError(f"{name} is {value!r}; it is True or False")


def _is_text(text: str) -> bool:
    """Whether UTF-8 can hold it: Python's strings may have lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def seconds(delay: object) -> float:
    """A delay in seconds. Raises `TypeError` for what is none, `ValueError` for one that never ends."""
    if isinstance(delay, timedelta):
        delay = delay.total_seconds()
    if isinstance(delay, bool) or not isinstance(delay, (int, float)):
        raise TypeError(f"the delay is {delay!r}; it is a number of seconds or a timedelta, and comes first")
    if not -math.inf < delay <= FAR:
        raise ValueError(f"the delay is {delay!r} seconds; it must be a finite number of seconds")
    return float(delay)


def check_job(job: object) -> None:
    """Raise unless every worker could read `job`, and read of it what it says."""
    if not isinstance(job, Job):
        raise TypeError(f"an enqueue middleware passed on {job!r}; call_next takes the job, or a changed copy of it")
    if not isinstance(job.body, Raw):
        raise TypeError(f"an enqueue middleware made the body a {type(job.body).__name__}; it is JSON in a msgspec.Raw")
    check_id(job.id)
    check_queue(job.queue)
    check_priority(job.priority)
    if job.headers is not None:
        check_headers(job.headers)
    if job.delay is not None:
        seconds(job.delay)
        if job.due is not None:
            raise ConfigError(f"the job has both a delay ({job.delay}) and a due time ({job.due})")
    _check_envelope(job)


def _check_envelope(job: Job) -> None:
    try:
        read = decode_job(encode_job(job))
    except (DecodeError, MsgspecError, TypeError, ValueError) as exc:
        raise ConfigError(f"an enqueue middleware passed on a job that no worker could read: {exc}") from None
    for name in reversed(Job.__struct_fields__):  # the body first: it may bring fields along
        if (said := getattr(job, name)) != getattr(read, name):  # NaN, for one, which JSON does not have
            raise ConfigError(f"an enqueue middleware made {name} {said!r}, which cannot be stored")
