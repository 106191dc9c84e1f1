"""The worker processes and what waits for them.

Each worker slot has a process of its own and takes the next task of its lane. A process that ends, gets stuck or is
killed costs the task that it had, and the slot goes on with a fresh one.
"""

import asyncio
import contextlib
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from planner.server.job import ProgressPoint
from planner.server.process import WorkerProcess
from planner.server.settings import Settings
from planner.server.work import FILES, QUICK, SOLVE, Arguments

LOG = logging.getLogger("cleave.server")
BACKOFF_S = (0.5, 1.0, 2.0, 5.0, 10.0)
"""Waits before a worker that does not start is started again."""
MOST_FAILURES = 3
"""Starts in a row that may come to nothing before the server says so."""


@dataclass(frozen=True)
class Done:
    """The work was done."""

    result: Arguments


@dataclass(frozen=True)
class Refused:
    """The planner refused the question."""

    detail: str
    field: str | None
    line: int | None
    parts: list[dict[str, Any]]
    """Everything that is wrong, as plain `Fault`s, where that is more than one thing."""


@dataclass(frozen=True)
class Failed:
    """There is no result."""

    reason: str
    status: int = 500
    """HTTP status of the problem."""


@dataclass(frozen=True)
class Cancelled:
    """Nobody wants a result any more."""


@dataclass(frozen=True)
class Stopped:
    """The server ends, and the task was not done."""


Outcome = Done | Refused | Failed | Cancelled | Stopped


async def _nothing() -> None:
    """The start of a task that nobody needs to know about."""


def _unheard(point: ProgressPoint) -> None:
    """Progress that nobody needs to know about."""


@dataclass(eq=False)
class Task:
    """One piece of work.

    Args:
        work: its name in `planner.server.work`.
        arguments: plain data.
        limit_s: time after which the worker counts as stuck.
        on_start: awaited when a worker has begun.
        on_progress: called with every point.
    """

    work: str
    arguments: Arguments
    limit_s: float
    on_start: Callable[[], Awaitable[None]] = _nothing
    on_progress: Callable[[ProgressPoint], None] = _unheard
    outcome: "asyncio.Future[Outcome]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    unwanted: asyncio.Event = field(default_factory=asyncio.Event)

    def end(self, outcome: Outcome) -> None:
        """Settle it, once."""
        if not self.outcome.done():
            self.outcome.set_result(outcome)


class Lane:
    """Tasks that wait for workers of one kind, first come first served.

    Args:
        name: in `planner.server.work.LANES`.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._waiting: OrderedDict[int, Task] = OrderedDict()
        self._arrived = asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, task: Task) -> None:
        """Add a task at the end."""
        self._waiting[id(task)] = task
        self._arrived.set()

    def put_back(self, task: Task) -> None:
        """Add a task before all others."""
        self.put(task)
        self._waiting.move_to_end(id(task), last=False)

    def remove(self, task: Task) -> bool:
        """Take a task out, if it still waits."""
        return self._waiting.pop(id(task), None) is not None

    def position(self, task: Task) -> int | None:
        """How many are before it; None where it does not wait."""
        if id(task) not in self._waiting:
            return None
        return next(i for i, key in enumerate(self._waiting) if key == id(task))

    def drain(self) -> list[Task]:
        """Take all out."""
        tasks = list(self._waiting.values())
        self._waiting.clear()
        return tasks

    def take(self) -> Task | None:
        """Take the next task out, if there is one."""
        if not self._waiting:
            self._arrived.clear()
            return None
        return self._waiting.popitem(last=False)[1]

    async def arrival(self) -> None:
        """Wait until there may be a task."""
        await self._arrived.wait()


class Slot:
    """One worker at a time, for one lane.

    Args:
        lane: whose tasks it takes.
        settings: limits.
        replaced: called with the reason whenever a process ends.
    """

    def __init__(self, lane: Lane, settings: Settings, replaced: Callable[[str], None]) -> None:
        self.lane = lane
        self.pid: int | None = None
        """Of the process that is ready; None while there is none."""
        self.busy = False
        self.failures = 0
        """Starts that came to nothing since the last one that did not."""
        self._settings = settings
        self._replaced = replaced

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            try:
                process = await WorkerProcess.start(self.lane.name, self._settings.worker_memory_bytes)
            except OSError as error:  # no process, memory or file descriptor is left
                await self._back_off(str(error))
                continue
            try:
                if await self._ready(process):
                    self.failures = 0
                    self.pid = process.pid
                    await self._serve(process)
                else:
                    await self._back_off(await process.kill())
            finally:
                self.pid = None
                await process.kill()

    async def _back_off(self, reason: str) -> None:
        """Wait before the next start."""
        self._replaced("start")
        LOG.error("a worker did not start: %s", reason)
        self.failures += 1
        await asyncio.sleep(BACKOFF_S[min(self.failures, len(BACKOFF_S)) - 1])

    async def _ready(self, process: WorkerProcess) -> bool:
        with contextlib.suppress(TimeoutError):
            return await asyncio.wait_for(process.receive(), self._settings.start_limit_s) is not None
        return False

    async def _serve(self, process: WorkerProcess) -> None:
        """Do tasks until the process has to be replaced."""
        ended = asyncio.ensure_future(process.process.wait())
        try:
            while not ended.done():
                task = self.lane.take()
                if task is None:
                    arrival = asyncio.ensure_future(self.lane.arrival())
                    await asyncio.wait({arrival, ended}, return_when=asyncio.FIRST_COMPLETED)
                    arrival.cancel()
                    continue
                self.busy = True
                try:
                    usable = await self._do(task, process)
                except Exception as error:  # a defect of ours costs the task, never the slot
                    LOG.exception("a task was dropped")
                    task.end(Failed(f"internal error: {type(error).__name__}: {error}"))
                    return
                except asyncio.CancelledError:
                    task.end(Stopped())
                    raise
                finally:
                    self.busy = False
                if not usable:
                    return
            self._replaced("idle")
            LOG.warning("worker %d %s while it had nothing to do", process.pid, await process.kill())
        finally:
            ended.cancel()

    async def _do(self, task: Task, process: WorkerProcess) -> bool:
        """Do one task; say whether the process can be used again."""
        if task.unwanted.is_set():
            task.end(Cancelled())
            return True
        talk = asyncio.ensure_future(self._talk(task, process))
        unwanted = asyncio.ensure_future(task.unwanted.wait())
        try:
            await asyncio.wait({talk, unwanted}, timeout=task.limit_s, return_when=asyncio.FIRST_COMPLETED)
            outcome: Outcome | None
            if talk.done():
                outcome, usable = talk.result()
            elif unwanted.done():
                outcome, usable = Cancelled(), False
                self._replaced("cancelled")
            else:
                outcome = Failed(
                    f"the worker was stuck: it took longer than {task.limit_s:g} s", HTTPStatus.GATEWAY_TIMEOUT
                )
                usable = False
                self._replaced("stuck")
        finally:
            talk.cancel()
            unwanted.cancel()
        if not usable:
            self.pid = None
            await process.kill()
        if outcome is None:
            self.lane.put_back(task)
        else:
            task.end(outcome)
        return usable

    async def _talk(self, task: Task, process: WorkerProcess) -> tuple[Outcome | None, bool]:
        """Send the task and listen until it is done; None where the process had ended before it took the task."""
        begun = False
        await process.send({"work": task.work, "arguments": task.arguments})
        while True:
            match await process.receive():
                case {"begun": True}:
                    begun = True
                    await task.on_start()
                case {"progress": point}:
                    task.on_progress(ProgressPoint.model_validate(point))
                case {"result": result}:
                    return Done(result), True
                case {"refused": refused}:
                    return Refused(**refused), True
                case {"failed": reason}:
                    self._replaced("failed")
                    return Failed(reason), False  # whatever went wrong, a fresh process knows nothing of it
                case _:
                    reason = await process.last_words()
                    self._replaced("died")
                    LOG.error("worker %d %s", process.pid, reason)
                    if not begun:
                        return None, False
                    return Failed(f"the worker process {reason} while it worked on this"), False


class Crew:
    """All workers.

    Args:
        settings: how many, and limits.
        replaced: called with the reason whenever a process has to be replaced.
    """

    def __init__(self, settings: Settings, replaced: Callable[[str], None]) -> None:
        self.lanes = {name: Lane(name) for name in (SOLVE, QUICK, FILES)}
        names = [SOLVE] * settings.workers + [QUICK, FILES]
        self.slots = [Slot(self.lanes[name], settings, replaced) for name in names]
        self._runs: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Start the workers, which are ready a little later."""
        self._runs = [asyncio.create_task(slot.run()) for slot in self.slots]

    async def stop(self) -> None:
        """Kill the workers; tasks that are not done end as stopped."""
        for run in self._runs:
            run.cancel()
        await asyncio.gather(*self._runs, return_exceptions=True)
        for lane in self.lanes.values():
            for task in lane.drain():
                task.end(Stopped())

    def cancel(self, task: Task) -> None:
        """End a task; the process that works on it is killed."""
        task.unwanted.set()
        if any(lane.remove(task) for lane in self.lanes.values()):
            task.end(Cancelled())

    @property
    def alive(self) -> int:
        """Workers that are ready or at work."""
        return sum(slot.pid is not None for slot in self.slots)

    @property
    def busy(self) -> int:
        """Workers at work."""
        return sum(slot.busy for slot in self.slots)

    @property
    def failing(self) -> bool:
        """Whether some worker does not start."""
        return any(slot.failures >= MOST_FAILURES for slot in self.slots)
