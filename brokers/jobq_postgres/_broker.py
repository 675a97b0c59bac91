"""The protocol: each verb is one function of the schema's, called on a connection that nobody else uses meanwhile."""

from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Self, cast

from jobq.broker import Capability, DeadLetters
from jobq.clock import SYSTEM_CLOCK, Clock
from jobq.model import Answer, Beat, Claim, Job, Orders, Outcome, Stamp, Swept, Turn, WorkerInfo
from jobq_postgres import _records, _schema
from jobq_postgres._bell import EVERYBODY, Bell
from jobq_postgres._dead import PostgresDeadLetters
from jobq_postgres._driver import Row
from jobq_postgres._enlist import PostgresTransactions
from jobq_postgres._lines import Lines
from jobq_postgres._marks import Marks
from jobq_postgres._migrate import PostgresSchema
from jobq_postgres._records import TurnCall, moment
from jobq_postgres._settlement import Bench
from jobq_postgres._url import parse
from jobq_postgres._wakes import Wakes

Rows = Sequence[Row]


class PostgresBroker:
    """Jobs in one schema of a Postgres database; the package explains the URL."""

    capabilities = Capability.ALL
    ahead = 3

    def __init__(self, url: str, *, clock: Clock | None = None) -> None:
        self._target = parse(url)
        self._clock = clock
        """That replaces the server's, if any."""
        self._time = clock or SYSTEM_CLOCK
        self._marks = Marks(self._time)
        self._lines = Lines(self._target)
        self._bench = Bench(self._lines, self._target.transactions)
        self._statements = {sql: _schema.quoted(self._target.schema, sql) for sql in _records.STATEMENTS}
        self._bell = Bell(self._ring)
        hears = self._target.listens and not self._target.pooled
        self._wakes = Wakes(self._time, self._lines, self._target.schema, self._look, hears=hears)
        self._entered = 0

    @property
    def url(self) -> str:
        return self._target.masked

    @property
    def dead_letters(self) -> DeadLetters:
        return PostgresDeadLetters(self._run, self._wake, lambda: moment(self._clock))

    @property
    def transactions(self) -> PostgresTransactions:
        return PostgresTransactions(self._target, self._bench)

    @property
    def schema(self) -> PostgresSchema:
        return PostgresSchema(self._target)

    def twin(self) -> "PostgresBroker":
        return PostgresBroker(self._target.url, clock=self._clock)

    async def __aenter__(self) -> Self:
        """May be entered several times, by a client and a worker for instance; the last to leave closes it."""
        self._entered += 1
        if self._entered == 1:
            self._bench.open()
            try:
                await self._lines.open()
            except BaseException:
                await self._leave()
                raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None, /
    ) -> None:
        await self._leave()

    async def enqueue(self, jobs: Sequence[Job], stamp: Stamp) -> Sequence[Answer]:
        if _records.is_plain(jobs, stamp) and await self._stored_one(jobs[0], stamp):
            return [Answer(jobs[0].id)]
        args = _records.enqueue_args(jobs, stamp, moment(self._clock))
        ((duplicates, woken),) = await self._run(_records.ENQUEUE, *args)
        if woken:
            self._wake({job.queue for job in jobs})
        return _records.answers(jobs, duplicates)

    async def turn(self, outcomes: Sequence[Outcome], claim: Claim) -> Turn:
        call = TurnCall(outcomes, claim, self._target.keep_done)
        known = self._marks.known()
        rows = await self._run(_records.TURN, *call.args(moment(self._clock), known, self._marks.ceiling()))
        turn = call.read(rows)
        self._marks.learn(known, claim.queues, *rows[-1][-3:])
        if call.puts_back:
            self._wake()
        return turn

    async def wait(self, queues: Sequence[str], timeout: float) -> None:  # noqa: ASYNC109 - the protocol's word
        await self._wakes.wait(queues, timeout)

    async def heartbeat(self, worker: WorkerInfo, beats: Sequence[Beat], lease: float, resume: int = 0) -> Orders:
        args = _records.heartbeat_args(worker, beats, lease, resume, moment(self._clock))
        (row,) = await self._run(_records.HEARTBEAT, *args)
        orders = _records.orders(row, beats)
        if orders.returned:
            self._wake()
        return orders

    async def sweep(self, host: str, limit: int, dead: Sequence[str] = ()) -> Swept:
        (row,) = await self._run(_records.SWEEP, host, limit, list(dead), moment(self._clock))
        swept = _records.swept(row)
        if swept.promoted or swept.reclaimed:
            self._wake()
        return swept

    async def _run(self, sql: str, *args: object) -> Rows:
        statement = self._statements.get(sql) or _schema.quoted(self._target.schema, sql)
        return await self._lines.call(statement, args)

    async def _stored_one(self, job: Job, stamp: Stamp) -> bool:
        """Whether it was; if not, nothing has happened."""
        args = _records.enqueue_one_args(job, stamp, moment(self._clock))
        stored = await self._lines.change(self._statements[_records.ENQUEUE_ONE], args)
        if stored:
            self._wake([job.queue])
        return bool(stored)

    async def _look(self, queues: Sequence[str]) -> float | None:
        known = self._marks.known()
        marks = None if known is None else known.flat(queues)
        ((due,),) = await self._run(_records.LOOK, list(queues), marks, moment(self._clock))
        if known is None:
            return cast("float | None", due)
        again = max(0.0, known.until - self._time.monotonic())  # without marks
        return again if due is None else min(due, again)

    def _wake(self, queues: Iterable[str] = (EVERYBODY,)) -> None:
        if self._target.listens:
            self._bell.ring(queues)

    async def _ring(self, queues: list[str]) -> bool:
        ((heard,),) = await self._run(_records.RING, queues)
        return bool(heard)

    async def _leave(self) -> None:
        self._entered -= 1
        if self._entered == 0:
            await self._bell.close()
            await self._wakes.close()
            await self._bench.close()
            await self._lines.close()
