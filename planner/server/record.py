"""Jobs as the store keeps them."""

import json
import secrets
import time
from dataclasses import dataclass
from typing import Any

from planner.server.job import RESULTS, JobKind, JobStatus, ProgressPoint, progress_document, written

_DIGITS = "0123456789abcdefghjkmnpqrstvwxyz"
"""Crockford's base 32."""


def new_id() -> str:
    """26 digits that sort by the microsecond; the last 76 of their 130 bits nobody guesses."""
    number = (int(time.time() * 1e6) << 76) | secrets.randbits(76)
    return "".join(_DIGITS[number >> shift & 31] for shift in range(125, -1, -5))


@dataclass(frozen=True)
class Record:
    """One job.

    Args:
        id: see `new_id`.
        kind: what it finds out.
        status: how far it is.
        created_at: seconds of the epoch, as the other times.
        question: what was asked, as JSON with sorted keys.
        key: idempotency key that it was asked under.
        attempts: how often it was started.
        started_at: the last time.
        finished_at: when nothing more was to happen.
        result: fields of the answer as JSON.
        error: a problem as JSON.
        progress: points as a JSON list.
    """

    id: str
    kind: JobKind
    status: JobStatus
    created_at: float
    question: str
    key: str | None = None
    attempts: int = 0
    started_at: float | None = None
    finished_at: float | None = None
    result: str | None = None
    error: str | None = None
    progress: str = "[]"

    def head(self) -> dict[str, Any]:
        """What a list says of it."""
        return {
            "id": self.id,
            "kind": self.kind.value,
            "status": self.status.value,
            "finished": self.status.finished,
            "created_at": written(self.created_at),
            "started_at": written(self.started_at),
            "finished_at": written(self.finished_at),
        }

    def document(self, points: list[ProgressPoint], queue_position: int | None) -> dict[str, Any]:
        """The whole job."""
        result = json.loads(self.result) if self.result else {}
        return {
            **self.head(),
            "queue_position": queue_position,
            "progress": progress_document(points),
            **{name: result.get(name) for name in RESULTS[self.kind]},
            "error": json.loads(self.error) if self.error else None,
        }

    def points(self) -> list[ProgressPoint]:
        """The progress that was kept."""
        return [ProgressPoint.model_validate(each) for each in json.loads(self.progress)]
