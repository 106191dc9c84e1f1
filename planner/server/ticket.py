"""A job that somebody may be watching."""

import asyncio
import contextlib
import json
from collections.abc import Iterator
from typing import Any

from planner.server.crew import Task
from planner.server.job import ProgressPoint
from planner.server.record import Record

MOST_POINTS = 512
"""Points of progress that are kept; every other one is dropped when there are more."""


class Ticket:
    """A job's record, its progress, and a bell that rings whenever either changes.

    Args:
        record: the job.
    """

    def __init__(self, record: Record) -> None:
        self.record = record
        self.task: Task | None = None
        """Its work; None once the job is finished."""
        self._points: list[tuple[int, ProgressPoint]] = []
        self._newest = -1
        for point in record.points():
            self._number(point)
        self._changed = asyncio.Event()

    @property
    def points(self) -> list[ProgressPoint]:
        """Its progress, the oldest first."""
        return [point for _, point in self._points]

    def after(self, number: int) -> Iterator[tuple[int, ProgressPoint]]:
        """Points after one of a number, with their numbers."""
        return ((i, point) for i, point in self._points if i > number)

    def restart(self) -> None:
        """Forget the progress of an earlier attempt."""
        self._points.clear()

    def add(self, point: ProgressPoint) -> None:
        """Take a new point in."""
        self._number(point)
        if len(self._points) > MOST_POINTS:
            del self._points[1:-1:2]
        self.ring()

    def _number(self, point: ProgressPoint) -> None:
        """Add a point under its number: milliseconds since the job was created, which go on after a restart."""
        started_at = self.record.started_at or self.record.created_at
        time_ms = int(1e3 * (started_at - self.record.created_at + point.time_s))
        self._newest = max(self._newest + 1, time_ms)
        self._points.append((self._newest, point))

    def update(self, record: Record) -> None:
        """Take the job's new state in."""
        self.record = record
        self.ring()

    def progress_json(self) -> str:
        """The progress as the store keeps it."""
        return json.dumps([point.model_dump() for point in self.points])

    def ring(self) -> None:
        """Wake those who wait for a change."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def change(self, timeout_s: float) -> None:
        """Wait for the next change, so long at most."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), timeout_s)

    def document(self, queue_position: int | None) -> dict[str, Any]:
        """The job as clients see it."""
        return self.record.document(self.points, queue_position)
