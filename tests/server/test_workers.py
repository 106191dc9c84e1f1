"""Workers that die, get stuck or are refused memory cost one job, and never the server."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from typing import Any, Self

import pytest

from planner.server import crew as crew_module
from planner.server import desk as desk_module
from planner.server import process as process_module
from planner.server.crew import Crew
from planner.server.desk import Desk, Question
from planner.server.job import JobKind, JobStatus, ProgressPoint
from planner.server.metrics import Metrics
from planner.server.record import Record, new_id
from planner.server.settings import Settings
from planner.server.store import Store
from planner.server.ticket import MOST_POINTS, Ticket
from specs.load import parse_scenario
from tests.server.live import LONG, SCENARIO


def question(text: str = SCENARIO, time_limit_s: float = 30.0) -> Question:
    arguments = {
        "scenario": parse_scenario(text).model_dump(mode="json", by_alias=True, exclude_none=True),
        "gap": 1e-3,
        "time_limit_s": time_limit_s,
        "formulation": "columns",
        "explain": "none",
        "alternatives": None,
    }
    return Question(JobKind.PLAN, arguments)


class Counter:
    """A desk on an event loop of its own.

    Args:
        settings: of the desk.
    """

    def __init__(self, settings: Settings) -> None:
        self._runner = asyncio.Runner()
        metrics = Metrics()
        crew = Crew(settings, lambda reason: metrics.replaced.labels(reason).inc())
        self._runner.get_loop()
        self.desk = Desk(Store(settings.store), crew, settings, metrics)

    def __enter__(self) -> Self:
        self._runner.run(self.desk.start())
        return self

    def __exit__(self, *exception: object) -> None:
        self._runner.run(self.desk.stop())
        self._runner.close()

    def run(self, check: Callable[[Desk], Coroutine[Any, Any, None]]) -> None:
        """Run a check."""
        self._runner.run(check(self.desk))


@pytest.fixture(scope="module")
def counter() -> Iterator[Counter]:
    with Counter(Settings(store="sqlite://", workers=1, grace_s=1.0)) as opened:
        yield opened


async def running(desk: Desk, ticket: Ticket) -> int:
    """Wait until a job runs and has said so; the process that runs it."""
    end = time.monotonic() + 60.0
    while time.monotonic() < end:
        if ticket.record.status is JobStatus.RUNNING and ticket.points:
            pid = desk.crew.slots[0].pid
            assert pid is not None
            return pid
        await ticket.change(1.0)
    raise AssertionError(f"the job does not run: {ticket.record}")


async def done_next(desk: Desk) -> None:
    """The server goes on."""
    ticket = await desk.submit(question(), None)
    await desk.wait(ticket, 60.0)
    assert ticket.record.status is JobStatus.OPTIMAL


def reason_of(desk: Desk, ticket: Ticket) -> str:
    document = desk.document(ticket)
    assert document["status"] == "failed"
    detail: str = document["error"]["detail"]
    return detail


def test_a_killed_worker_fails_its_job_with_the_reason(counter: Counter) -> None:
    async def check(desk: Desk) -> None:
        ticket = await desk.submit(question(LONG), None)
        os.kill(await running(desk, ticket), signal.SIGKILL)
        await desk.wait(ticket, 30.0)
        assert "was killed by SIGKILL" in reason_of(desk, ticket)
        await done_next(desk)

    counter.run(check)


def test_a_stuck_worker_is_killed_after_its_time(counter: Counter) -> None:
    async def check(desk: Desk) -> None:
        ticket = await desk.submit(question(LONG, time_limit_s=1.0), None)
        os.kill(await running(desk, ticket), signal.SIGSTOP)
        await desk.wait(ticket, 30.0)
        assert "stuck" in reason_of(desk, ticket)
        assert desk.document(ticket)["error"]["status"] == 504
        await done_next(desk)

    counter.run(check)


def test_a_worker_that_dies_at_rest_is_replaced(counter: Counter) -> None:
    async def check(desk: Desk) -> None:
        await done_next(desk)
        pid = desk.crew.slots[0].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await done_next(desk)
        assert desk.crew.slots[0].pid != pid

    counter.run(check)


def test_memory_has_a_limit() -> None:
    async def check(desk: Desk) -> None:
        ticket = await desk.submit(question(LONG), None)
        await desk.wait(ticket, 60.0)
        assert "memory" in reason_of(desk, ticket)
        await done_next(desk)

    with Counter(Settings(store="sqlite://", workers=1, worker_memory_bytes=130_000_000)) as small:
        small.run(check)


def test_an_error_of_ours_fails_the_job_alone(counter: Counter) -> None:
    async def check(desk: Desk) -> None:
        broken = question()
        del broken.arguments["gap"]
        ticket = await desk.submit(broken, None)
        await desk.wait(ticket, 60.0)
        assert "internal error: KeyError" in reason_of(desk, ticket)
        await done_next(desk)

    counter.run(check)


def test_an_answer_of_another_kind_ends_its_job(counter: Counter, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(ticket: Ticket, outcome: object) -> Record:
        raise RuntimeError("a defect")

    async def check(desk: Desk) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(desk_module, "_ended", broken)
            ticket = await desk.submit(question(), None)
            await desk.wait(ticket, 60.0)
        assert "internal error" in reason_of(desk, ticket)
        await done_next(desk)

    counter.run(check)


def test_numbers_of_progress_go_on_after_a_restart() -> None:
    first = Record(new_id(), JobKind.PLAN, JobStatus.RUNNING, 100.0, "{}", started_at=101.0)
    before = Ticket(first)
    for time_s in (0.0, 0.0, 2.5):
        before.add(ProgressPoint(time_s=time_s))
    numbers = [number for number, _ in before.after(-1)]
    assert numbers == [1000, 1001, 3500]
    stored = replace(first, progress=before.progress_json())
    assert [number for number, _ in Ticket(stored).after(-1)] == numbers
    again = Ticket(replace(first, started_at=110.0))
    again.add(ProgressPoint(time_s=0.0))
    assert [number for number, _ in again.after(numbers[-1])] == [10_000]


def test_workers_leave_signals_to_the_server(counter: Counter) -> None:
    async def check(desk: Desk) -> None:
        ticket = await desk.submit(question(LONG), None)
        pid = await running(desk, ticket)
        os.kill(pid, signal.SIGTERM)
        os.kill(pid, signal.SIGINT)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(ticket.task.outcome), 1.0)  # type: ignore[union-attr]
        assert ticket.record.status is JobStatus.RUNNING
        await desk.cancel(ticket)

    counter.run(check)


def test_progress_is_thinned(counter: Counter) -> None:
    async def check(desk: Desk) -> None:
        ticket = await desk.submit(question(), None)
        await desk.wait(ticket, 60.0)
        first, newest = ticket.points[0], ticket.points[-1]
        for _ in range(3 * MOST_POINTS):
            ticket.add(newest)
        assert len(ticket.points) <= MOST_POINTS
        assert (ticket.points[0], ticket.points[-1]) == (first, newest)

    counter.run(check)


def test_workers_that_do_not_start_are_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew_module, "BACKOFF_S", (0.01,))
    monkeypatch.setattr(process_module.sys, "executable", "/bin/false")

    async def check(desk: Desk) -> None:
        end = time.monotonic() + 30.0
        while await desk.check() is None:
            assert time.monotonic() < end
            await asyncio.sleep(0.05)
        ticket = await desk.submit(question(), None)
        monkeypatch.undo()
        await desk.wait(ticket, 60.0)
        assert ticket.record.status is JobStatus.OPTIMAL

    with Counter(Settings(store="sqlite://", workers=1)) as counter:
        counter.run(check)
