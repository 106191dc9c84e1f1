"""Where jobs are handed in and asked for: every one is in the store before its id is given out."""

import asyncio
import json
import logging
import re
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from starlette.requests import Request

from planner.server.crew import Cancelled, Crew, Done, Failed, Lane, Outcome, Refused, Stopped, Task
from planner.server.database import StoreError
from planner.server.job import JobKind, JobStatus
from planner.server.metrics import Metrics
from planner.server.problem import Fault, Problem, Refusal, refusal
from planner.server.record import Record, new_id
from planner.server.settings import Settings
from planner.server.store import Store
from planner.server.ticket import Ticket
from planner.server.work import QUICK, SOLVE, Arguments

LOG = logging.getLogger("cleave.server")
MOST_ATTEMPTS = 2
"""A job that was running when the server was killed is run once more; it may have been what killed it."""
RETRY_S = 1.0
"""Wait between attempts to save a job while the store is away."""
RETRY_AFTER_S = 5
RETRY = {"Retry-After": str(RETRY_AFTER_S)}
CANCEL_LIMIT_S = 10.0
"""How long a client waits for its cancellation while the store is away."""
UNWELL_S = 10.0
"""How long the server says of itself that it cannot take jobs after one could not be stored."""
JOB_ID = re.compile(r"[0-9a-z]{26}")
LANES = {JobKind.PLAN: SOLVE, JobKind.COMPARISON: SOLVE, JobKind.PREDICTION: QUICK}
PARAMETERS = {"--to": "target", "--engine-version": "engine_version"}
"""Options of the command line, which errors name, as they are called here."""
WORK = {JobKind.PLAN: "plan", JobKind.COMPARISON: "compare", JobKind.PREDICTION: "predict"}


@dataclass(frozen=True)
class Question:
    """What a job is to find out.

    Args:
        kind: of the job.
        arguments: of its work: plain data. Plans and comparisons have a `time_limit_s`.
    """

    kind: JobKind
    arguments: Arguments

    def text(self) -> str:
        """The question as JSON; the same text for the same question."""
        return json.dumps(self.arguments, sort_keys=True)

    @classmethod
    def of(cls, record: Record) -> "Question":
        """The question of a stored job."""
        return cls(record.kind, json.loads(record.question))

    def limit_s(self, settings: Settings) -> float:
        """Time after which its worker counts as stuck."""
        time_limit_s = self.arguments.get("time_limit_s")
        return settings.call_limit_s if time_limit_s is None else float(time_limit_s) + settings.grace_s


class Desk:
    """Takes questions, keeps the jobs that are not finished, and finds the others in the store.

    Args:
        store: of all jobs.
        crew: does the work.
        settings: limits.
        metrics: counts.
    """

    def __init__(self, store: Store, crew: Crew, settings: Settings, metrics: Metrics) -> None:
        self.crew = crew
        self.closing = False
        """Whether the server is about to end: nobody is kept waiting any longer."""
        self._store = store
        self._settings = settings
        self._metrics = metrics
        self._live: dict[str, Ticket] = {}
        self._unsaved: set[str] = set()
        """Jobs that the store does not take at the moment."""
        self._refused_s = -UNWELL_S
        """When the store last refused a new job."""
        self._attending: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Open the store.

        Raises:
            SpecError: it is refused.
            StoreError: it cannot be reached.
        """
        await self._store.open()

    async def start(self) -> None:
        """Open the store, take up what was not finished, and start the workers."""
        await self.open()
        for record in await self._store.unfinished():
            ticket = Ticket(record)
            if record.attempts < MOST_ATTEMPTS:
                ticket.update(replace(record, status=JobStatus.QUEUED, started_at=None))
                await self._store.save(ticket.record)
                self._attend(ticket)
            else:
                reason = f"the server was restarted {MOST_ATTEMPTS} times while the job ran"
                await self._store.save(_finished(record, JobStatus.FAILED, error=Problem.of(500, reason)))
        self.crew.start()

    async def stop(self) -> None:
        """Stop the workers; jobs that are not finished are queued for the next start."""
        self.release()
        await self.crew.stop()
        await asyncio.gather(*self._attending, return_exceptions=True)
        await self._store.close()

    def release(self) -> None:
        """Let everybody go who waits for a job."""
        self.closing = True
        for ticket in self._live.values():
            ticket.ring()

    async def submit(self, question: Question, key: str | None) -> Ticket:
        """Take a question; one that was asked under the same key before has its job already.

        Raises:
            Refusal: another question was asked under the key, or too many jobs wait.
        """
        text = question.text()
        if key is not None and (earlier := await self._store.by_key(question.kind, key)) is not None:
            return await self._repeated(earlier, text)
        self._check_room(self.crew.lanes[LANES[question.kind]])
        ticket = Ticket(Record(new_id(), question.kind, JobStatus.QUEUED, time.time(), text, key))
        self._live[ticket.record.id] = ticket
        try:
            taken = await self._store.insert(ticket.record)
        except StoreError:
            del self._live[ticket.record.id]
            self._refused_s = time.monotonic()
            raise
        if taken is not None:
            del self._live[ticket.record.id]
            return await self._repeated(taken, text)
        self._attend(ticket)
        return ticket

    async def find(self, kind: JobKind, job_id: str) -> Ticket:
        """The job of an id.

        Raises:
            Refusal: there is none.
        """
        ticket = self._live.get(job_id)
        if ticket is None and JOB_ID.fullmatch(job_id):
            record = await self._store.get(kind, job_id)
            # The job may have finished, or begun, while the store was asked.
            ticket = self._live.get(job_id) or (None if record is None else Ticket(record))
        if ticket is None or ticket.record.kind is not kind:
            raise refusal(404, f"there is no {kind.value} {job_id[:100]!r}")
        return ticket

    async def newest(self, kind: JobKind, limit: int) -> list[dict[str, Any]]:
        """Heads of the last jobs of a kind."""
        records = await self._store.newest(kind, limit)
        return [self._live[each.id].record.head() if each.id in self._live else each.head() for each in records]

    async def cancel(self, ticket: Ticket) -> None:
        """End a job; one that is finished stays as it is.

        Raises:
            Refusal: the store does not take the end of the job, which will be saved as cancelled when it does.
        """
        end = time.monotonic() + CANCEL_LIMIT_S
        while not ticket.record.status.finished and not self.closing:
            if ticket.task is not None:
                self.crew.cancel(ticket.task)
            if time.monotonic() > end:
                raise refusal(
                    503, "the store cannot be reached to save the cancellation; ask again later", headers=RETRY
                )
            await ticket.change(RETRY_S)

    async def wait(self, ticket: Ticket, wait_s: float) -> None:
        """Wait for the end of a job, so long at most."""
        end = time.monotonic() + wait_s
        while not ticket.record.status.finished and not self.closing and (left := end - time.monotonic()) > 0.0:
            await ticket.change(left)

    async def call(self, request: Request, lane_name: str, work: str, arguments: Arguments) -> Arguments:
        """Have something done at once, without a job; nothing more is done for a client that has gone.

        Args:
            request: whose client waits; its body has been read.
            lane_name: where it is done.
            work: what is done.
            arguments: of the work.

        Raises:
            Refusal: it was refused, or could not be done.
        """
        lane = self.crew.lanes[lane_name]
        self._check_room(lane)
        task = Task(work, arguments, self._settings.call_limit_s)
        lane.put(task)
        gone = asyncio.ensure_future(_gone(request))
        try:
            ends: set[asyncio.Future[Any]] = {task.outcome, gone}
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            if not task.outcome.done():
                self.crew.cancel(task)
        match await task.outcome:
            case Done(result):
                return result
            case Refused() as refused:
                raise Refusal(_refused(refused))
            case Failed(reason, status):
                raise refusal(status, reason)
            case Cancelled():
                raise refusal(400, "the client has gone")
        raise refusal(503, "the server is about to end", headers=RETRY)

    def document(self, ticket: Ticket) -> dict[str, Any]:
        """The job as clients see it."""
        lane = self.crew.lanes[LANES[ticket.record.kind]]
        return ticket.document(lane.position(ticket.task) if ticket.task is not None else None)

    async def check(self) -> str | None:
        """Say what keeps the server from working, if anything does."""
        try:
            await self._store.check()
        except StoreError as error:
            LOG.error("the store: %s", error)
            return "the store cannot be reached"
        if self._unsaved or time.monotonic() - self._refused_s < UNWELL_S:
            return "the store takes no jobs at the moment"
        if self.crew.failing:
            return "a worker process does not start; the log of the server says more"
        return None

    def _check_room(self, lane: Lane) -> None:
        if len(lane) >= self._settings.max_queued:
            raise refusal(
                429,
                f"{len(lane)} jobs wait already, the most that are accepted; ask again later",
                headers=RETRY,
            )

    async def _repeated(self, record: Record, text: str) -> Ticket:
        if record.question != text:
            raise refusal(
                422,
                f"was used for another question, job {record.id}; accepted: the same question, or a key of its own",
                field="Idempotency-Key",
            )
        return await self.find(record.kind, record.id)

    def _attend(self, ticket: Ticket) -> None:
        """Queue a job and see it through."""
        question = Question.of(ticket.record)
        limit_s = question.limit_s(self._settings)
        ticket.task = Task(WORK[question.kind], question.arguments, limit_s, lambda: self._started(ticket), ticket.add)
        self._live[ticket.record.id] = ticket
        self.crew.lanes[LANES[question.kind]].put(ticket.task)
        attendance = asyncio.create_task(self._see_through(ticket, ticket.task))
        self._attending.add(attendance)
        attendance.add_done_callback(self._attending.discard)

    async def _started(self, ticket: Ticket) -> None:
        ticket.restart()
        attempts = ticket.record.attempts + 1
        running = replace(ticket.record, status=JobStatus.RUNNING, started_at=time.time(), attempts=attempts)
        await self._save(running)
        ticket.update(running)

    async def _see_through(self, ticket: Ticket, task: Task) -> None:
        outcome = await task.outcome
        try:
            record = _ended(ticket, outcome)
            await self._save(record)
        except Exception:  # a defect of ours ends the job, which nobody would ever see finished otherwise
            LOG.exception("the end of job %s", ticket.record.id)
            reason = "internal error at the end of the job; the log of the server says more"
            record = _finished(ticket.record, JobStatus.FAILED, error=Problem.of(500, reason))
            with suppress(Exception):
                await self._save(record)
        ticket.task = None
        del self._live[record.id]
        ticket.update(record)
        if record.status.finished:
            self._metrics.jobs.labels(record.kind.value, record.status.value).inc()
            if record.started_at is not None and record.finished_at is not None:
                self._metrics.job_seconds.labels(record.kind.value).observe(
                    max(0.0, record.finished_at - record.started_at)
                )

    async def _save(self, record: Record) -> None:
        """Save a job, however long the store is away; without it nobody is told what may be lost again."""
        try:
            while True:
                try:
                    await self._store.save(record)
                    return
                except StoreError as error:
                    LOG.error("job %s is not saved yet: %s", record.id, error)
                    if self.closing:
                        return
                    self._unsaved.add(record.id)
                    await asyncio.sleep(RETRY_S)
        finally:
            self._unsaved.discard(record.id)


async def _gone(request: Request) -> None:
    """Wait until the client has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _ended(ticket: Ticket, outcome: Outcome) -> Record:
    """The record of a job whose work has come to an end."""
    record = replace(ticket.record, progress=ticket.progress_json())
    match outcome:
        case Done({"status": status, **result}):
            return _finished(record, JobStatus(status), result=json.dumps(result))
        case Refused():
            return _finished(record, JobStatus.FAILED, error=_refused(outcome))
        case Failed(reason, status):
            return _finished(record, JobStatus.FAILED, error=Problem.of(status, reason))
        case Cancelled():
            return _finished(record, JobStatus.CANCELLED)
        case Stopped():  # an orderly end is no fault of the job
            attempts = record.attempts - (record.status is JobStatus.RUNNING)
            return replace(record, status=JobStatus.QUEUED, started_at=None, attempts=attempts, progress="[]")
    raise AssertionError(f"no end of a job: {outcome}")


def _finished(record: Record, status: JobStatus, *, result: str | None = None, error: Problem | None = None) -> Record:
    problem = None if error is None else json.dumps(error.document())
    return replace(record, status=status, finished_at=time.time(), result=result, error=problem)


def _refused(outcome: Refused) -> Problem:
    """The problem of a refusal by the planner, whose options are parameters here."""
    field = PARAMETERS.get(outcome.field or "", outcome.field)
    parts = tuple(Fault.model_validate(part) for part in outcome.parts) or None
    return Problem.of(422, outcome.detail, field=field, line=outcome.line, errors=parts)
