"""Records to script arguments, and replies to records. `turn.lua` and its siblings say which is where."""

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, Final, cast

import hiredis

from jobq.codec import Deliveries, decode_delivery, encode_job, encode_trail
from jobq.errors import ConfigError
from jobq.model import (
    DEFAULT_QUEUE,
    PRIORITIES,
    Again,
    Answer,
    Cancelled,
    Claim,
    Dead,
    Delivery,
    Done,
    Fate,
    Job,
    Outcome,
    Released,
    Stamp,
    Token,
    Turn,
)
from jobq_redis._wire import Reply

Arg = bytes | str | int
_pack: Final = cast("Any", hiredis).pack_command  # whose annotation says a tuple of one
_NOTHING: Final[tuple[bytes | None, bytes | None]] = (None, None)


def milliseconds(seconds: float) -> int:
    """`seconds` rounded up, so that nothing is early, but not for a float's last digits."""
    return math.ceil(round(seconds * 1000, 2))


@lru_cache(1024)
def queue_key(queue: str) -> bytes:
    """A queue's name as part of a key or of a stored job, where a line ends."""
    return queue.replace("%", "%25").replace("\n", "%0A").encode()


@lru_cache(1024)
def _prefix(priority: int, queue: str) -> bytes:
    if priority not in PRIORITIES:
        raise ConfigError(f"the priority is {priority}, it must be 0 to {PRIORITIES[-1]}")
    return b"%d%b\n" % (priority, queue_key(queue))


@lru_cache(1024)
def _queue(head: bytes) -> str | None:
    """The queue in a stored job's first line; None for what is no such line."""
    if not head[:1].isdigit() or int(head[:1]) not in PRIORITIES:
        return None
    return head[1:].decode("utf-8", "replace").replace("%0A", "\n").replace("%25", "%")


def split(blob: bytes, queue: str) -> tuple[str, bytes]:
    """The queue and the envelope of a stored job; of what is none, `queue` and all of it."""
    head, _, envelope = blob.partition(b"\n")
    named = _queue(head)
    return (queue, blob) if named is None else (named, envelope)


def id_bytes(job_id: str) -> bytes:
    """The id as stored; one that is no UTF-8 came out of the server as surrogates."""
    return job_id.encode("utf-8", "surrogateescape")


def id_text(stored: bytes) -> str:
    """The inverse of `id_bytes`."""
    return str(stored, "utf-8", "surrogateescape")


def pack(*command: Arg) -> bytes:
    """A command as Redis reads it."""
    return cast("bytes", _pack(command))


def enqueue_args(jobs: Sequence[Job], stamp: Stamp) -> list[Arg]:
    """For enqueue.lua."""
    args: list[Arg] = [stamp.client, stamp.number, len(jobs)]
    due: list[Arg] = []
    for number, job in enumerate(jobs, 1):
        args += (job.id, _prefix(job.priority, job.queue) + encode_job(job))
        if job.due is not None:
            due += (number, "at", milliseconds(job.due))
        elif job.delay is not None:
            due += (number, "in", milliseconds(job.delay))
    return args + due


def answers(reply: bytes, jobs: Sequence[Job]) -> list[Answer]:
    """Of enqueue.lua."""
    if len(reply) != len(jobs):
        return [Answer(job.id) for job in jobs]
    fates = (Fate.STORED if letter == ord("S") else Fate.DUPLICATE for letter in reply)
    return [Answer(job.id, fate) for job, fate in zip(jobs, fates, strict=True)]


def turn_args(outcomes: Sequence[Outcome], claim: Claim) -> list[Arg]:
    """For turn.lua."""
    suspects = "1" if claim.suspects else ""
    args: list[Arg] = [claim.worker, claim.limit, suspects, claim.resume, len(claim.queues)]
    args += map(queue_key, claim.queues)
    if not outcomes:
        return [*args, ""]
    extras: list[Arg] = []
    # nearly all are done, and to match them first against what else they might be takes a while
    args.append("".join(["D" if type(outcome) is Done else _letter(outcome, extras) for outcome in outcomes]))
    args += [id_bytes(outcome.id) for outcome in outcomes]
    args += [outcome.epoch for outcome in outcomes]
    return args + extras


def _letter(outcome: Outcome, extras: list[Arg]) -> str:
    match outcome:
        case Done() | Cancelled():
            return "D"
        case Again(trail=trail, delay=delay, queue=queue):
            extras += (encode_trail(trail), milliseconds(delay), queue_key(queue or ""))
            return "A"
        case Released(delay=delay):
            extras.append(milliseconds(delay))
            return "R"
        case Dead(trail=trail, keep=True):
            extras.append(encode_trail(trail))
            return "K"
        case Dead():
            return "X"


def read_turn(reply: list[Reply], outcomes: Sequence[Outcome], claim: Claim) -> Turn:
    """Of turn.lua."""
    leased, due = reply[0] == 1, reply[1]
    at = 3 + reply[2]
    refused = [Token(outcomes[i - 1].id, outcomes[i - 1].epoch) for i in cast("list[int]", reply[3:at])]
    next_due = None if due < 0 else due / 1000
    count, resume = _claimed(reply, at) if leased else (0, 0)
    if not count:
        return Turn((), refused, next_due, leased)
    deliveries = Deliveries(count, lambda: [*_lost(reply, at, claim), *_fresh(reply, at, claim)])
    return Turn(deliveries, refused, next_due, leased, resume)


def _claimed(reply: list[Reply], at: int) -> tuple[int, int]:
    """How many jobs there are, those lost on the way and those newly claimed, and their highest epoch."""
    lost, top = reply[at], at + 1 + 5 * reply[at]
    if top < len(reply) and reply[top + 1]:
        return lost + reply[top + 1], reply[top] + reply[top + 1] - 1
    return lost, max(reply[at + 2 : top : 5], default=0)


def _lost(reply: list[Reply], at: int, claim: Claim) -> Iterator[Delivery]:
    for i in range(at + 1, at + 1 + 5 * reply[at], 5):
        job_id, epoch, blob, trail, crashes = reply[i : i + 5]
        yield _delivery(job_id, blob, epoch, claim, (trail, crashes))


def _fresh(reply: list[Reply], at: int, claim: Claim) -> list[Delivery]:
    at += 1 + 5 * reply[at]
    if at >= len(reply):
        return []
    epoch, end = reply[at], at + 2 + 2 * reply[at + 1]
    pairs = zip(reply[at + 2 : end : 2], reply[at + 3 : end : 2], strict=True)
    if end == len(reply):
        return [_delivery(job_id, blob, number, claim) for number, (job_id, blob) in enumerate(pairs, epoch)]
    extras = {reply[i]: (reply[i + 1], reply[i + 2]) for i in range(end, len(reply), 3)}
    return [
        _delivery(job_id, blob, epoch + i, claim, extras.get(i + 1, _NOTHING)) for i, (job_id, blob) in enumerate(pairs)
    ]


def _delivery(
    job_id: bytes, blob: bytes, epoch: int, claim: Claim, extras: tuple[bytes | None, bytes | None] = _NOTHING
) -> Delivery:
    queue, envelope = split(blob, claim.queues[0] if claim.queues else DEFAULT_QUEUE)
    return decode_delivery(id_text(job_id), envelope, epoch=epoch, queue=queue, trail=extras[0], crashes=extras[1])
