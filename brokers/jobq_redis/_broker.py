"""The verbs: each packs its records, runs its script and reads the reply."""

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import msgspec
from redis.exceptions import NoScriptError, ResponseError

from jobq.broker import Capability, DeadLetters
from jobq.clock import SYSTEM_CLOCK, Clock
from jobq.errors import BrokerError, BrokerRefused
from jobq.model import Answer, Beat, Claim, Job, Orders, Outcome, Stamp, Swept, Token, Turn, WorkerInfo
from jobq_redis import _boot, _records, _scripts
from jobq_redis._dead import RedisDeadLetters
from jobq_redis._errors import answered
from jobq_redis._lines import Lines, Route
from jobq_redis._records import Arg, pack
from jobq_redis._scripts import Script
from jobq_redis._url import parse
from jobq_redis._wakes import BLOCK, Wakes
from jobq_redis._wire import Reply


class RedisBroker:
    """Jobs in one namespace of a Redis server, Sentinel service or Cluster; the package explains the URL."""

    capabilities = Capability.ALL
    ahead = 1

    def __init__(self, url: str, *, clock: Clock | None = None) -> None:
        self._target = parse(url)
        self._clock = clock
        self._base = f"jobq:{{{self._target.namespace}}}:".encode()
        self._route = Route(self._target)
        self._commands = Lines(self._route, self.url, self._target.reply_timeout)
        self._reads = Lines(self._route, self.url, self._target.reply_timeout + BLOCK)
        self._wakes = Wakes(clock or SYSTEM_CLOCK, self._pop_token, self._work_in, self._put_token)
        self._entered = 0

    @property
    def url(self) -> str:
        return self._target.masked

    @property
    def dead_letters(self) -> DeadLetters:
        return RedisDeadLetters(self._run, self._size)

    @property
    def transactions(self) -> None:
        return None

    @property
    def schema(self) -> None:
        return None

    def twin(self) -> "RedisBroker":
        return RedisBroker(self._target.url, clock=self._clock)

    async def __aenter__(self) -> Self:
        """May be entered several times, by a client and a worker for instance; the last to leave closes it."""
        self._entered += 1
        self._commands.open()
        self._reads.open()
        try:
            await self._run(_scripts.BOOT, ())  # on a cluster, this also finds the node
            _boot.check(await self._info(), self.url)
        except BaseException:
            await self._leave()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None, /
    ) -> None:
        await self._leave()

    async def enqueue(self, jobs: Sequence[Job], stamp: Stamp) -> Sequence[Answer]:
        reply = await self._run(_scripts.ENQUEUE, _records.enqueue_args(jobs, stamp))
        return _records.answers(reply, jobs)

    async def turn(self, outcomes: Sequence[Outcome], claim: Claim) -> Turn:
        reply = await self._run(_scripts.TURN, _records.turn_args(outcomes, claim))
        return _records.read_turn(reply, outcomes, claim)

    async def wait(self, queues: Sequence[str], timeout: float) -> None:  # noqa: ASYNC109 - the protocol's word
        await self._wakes.wait(tuple(queues), timeout)

    async def heartbeat(self, worker: WorkerInfo, beats: Sequence[Beat], lease: float, resume: int = 0) -> Orders:
        info = worker.host.encode() + b"\n" + msgspec.json.encode(worker)
        args: list[Arg] = [worker.id, _records.milliseconds(lease), info, resume, len(beats)]
        args += [_records.id_bytes(beat.id) for beat in beats]
        args += [beat.epoch for beat in beats]
        reply: list[int] = await self._run(_scripts.HEARTBEAT, args)
        now, returned, *lost = reply
        return Orders(now / 1000, [Token(beats[i - 1].id, beats[i - 1].epoch) for i in lost], returned=returned)

    async def sweep(self, host: str, limit: int, dead: Sequence[str] = ()) -> Swept:
        reply = await self._run(_scripts.SWEEP, [host, limit, *dead])
        due, promoted, reclaimed, more, *peers = reply
        return Swept(None if due < 0 else due / 1000, promoted, reclaimed, more == 1, [peer.decode() for peer in peers])

    async def _run(self, script: Script, args: Sequence[Arg]) -> Reply:
        now = "" if self._clock is None else int(round(self._clock.time() * 1000, 2))
        rest = (1, self._base, now, *args)
        try:
            return await self._commands.call(pack("EVALSHA", script.sha, *rest))
        except NoScriptError:  # a new server, or SCRIPT FLUSH; nothing was executed
            return await self._call(self._commands, "EVAL", script.source, *rest)
        except ResponseError as exc:
            raise answered(exc, self.url) from exc

    async def _call(self, lines: Lines, *command: Arg) -> Reply:
        try:
            return await lines.call(pack(*command))
        except ResponseError as exc:
            raise answered(exc, self.url) from exc

    async def _info(self) -> bytes:
        try:
            info = await self._call(self._commands, "INFO")
        except BrokerRefused:  # a user without this right
            return b""
        return bytes(info)

    async def _work_in(self, queues: Sequence[str]) -> float | None:
        due = await self._run(_scripts.WAIT, [_records.queue_key(queue) for queue in queues])
        return None if due < 0 else due / 1000

    async def _pop_token(self, queues: Sequence[str], seconds: float) -> bytes | None:
        keys = (self._base + b"wake:" + _records.queue_key(queue) for queue in queues)
        popped = await self._call(self._reads, "BLPOP", *keys, f"{seconds:.3f}")
        return None if popped is None else bytes(popped[0])

    async def _size(self, key: bytes) -> int:
        return int(await self._call(self._commands, "ZCARD", self._base + key))

    async def _put_token(self, key: bytes) -> None:
        await self._call(self._commands, "RPUSH", key, "1")

    async def _leave(self) -> None:
        self._entered -= 1
        if self._entered == 0:
            await self._aclose()

    async def _aclose(self) -> None:
        await self._wakes.aclose()
        await asyncio.gather(self._commands.aclose(), self._reads.aclose())
        try:
            await self._route.aclose()
        except (BrokerError, OSError):
            return
