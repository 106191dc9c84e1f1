"""Jobs as clients see them."""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field

from planner.server.problem import Problem
from specs.base import Spec
from specs.comparison import Alternative, Comparison
from specs.plan import Plan
from specs.prediction import Prediction


class JobKind(StrEnum):
    """What a job finds out."""

    PLAN = "plan"
    COMPARISON = "comparison"
    PREDICTION = "prediction"

    @property
    def path(self) -> str:
        """Where jobs of the kind are."""
        return f"/v1/{self.value}s"


class JobStatus(StrEnum):
    """How far a job is, or how it ended."""

    QUEUED = "queued"
    RUNNING = "running"
    OPTIMAL = "optimal"
    """A plan within the gap that was asked for."""
    FEASIBLE = "feasible"
    """A plan, and a larger gap."""
    DONE = "done"
    """A comparison in which some mode has a plan, or a prediction of what can run."""
    INFEASIBLE = "infeasible"
    """There is none; the result says why."""
    TIME_LIMIT = "time_limit"
    """None was found in time."""
    FAILED = "failed"
    """There is no result; `error` says why."""
    CANCELLED = "cancelled"

    @property
    def finished(self) -> bool:
        """Whether nothing more will happen."""
        return self not in (JobStatus.QUEUED, JobStatus.RUNNING)


class ProgressPoint(Spec):
    """How far a search was at one moment."""

    time_s: Annotated[float, Field(ge=0)] = 0.0
    """Seconds since the job started."""
    stage: str | None = None
    """What was being done; None before the start."""
    incumbent: float | None = None
    """Objective of the best plan so far."""
    bound: float | None = None
    """No plan is better than this."""
    gap: float | None = None
    """|bound - incumbent| / |incumbent|."""


class Progress(ProgressPoint):
    """How far a search is, and how it came there."""

    history: tuple[ProgressPoint, ...] = Field(default=(), max_length=512)
    """The oldest first; thinned where there are many."""


class JobHead(Spec):
    """A job in a list."""

    id: str = Field(pattern="^[0-9a-z]{26}$")
    kind: JobKind
    status: JobStatus
    finished: bool
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None


class Job(JobHead):
    """A job without its result."""

    queue_position: int | None = None
    """Jobs that start before it; None where it does not wait."""
    progress: Progress
    error: Problem | None = None
    """Why it failed; with status 422 the planner refused the question."""


class PlanJob(Job):
    """A job that plans."""

    plan: Plan | None = None
    """The best plan; where there is none, the reasons."""
    alternatives: tuple[Alternative, ...] | None = None
    """The best plans that differ in mode or layout, where they were asked for."""


class ComparisonJob(Job):
    """A job that compares modes."""

    comparison: Comparison | None = None


class PredictionJob(Job):
    """A job that predicts one configuration."""

    prediction: Prediction | None = None


class JobList(Spec):
    """Jobs, the newest first."""

    jobs: tuple[JobHead, ...]


MODELS: dict[JobKind, type[Job]] = {
    JobKind.PLAN: PlanJob,
    JobKind.COMPARISON: ComparisonJob,
    JobKind.PREDICTION: PredictionJob,
}
RESULTS: dict[JobKind, tuple[str, ...]] = {
    JobKind.PLAN: ("plan", "alternatives"),
    JobKind.COMPARISON: ("comparison",),
    JobKind.PREDICTION: ("prediction",),
}
"""Fields that hold the result."""


def written(time_s: float | None) -> str | None:
    """Seconds of the epoch as RFC 3339 in UTC."""
    if time_s is None:
        return None
    return datetime.fromtimestamp(time_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def progress_document(points: list[ProgressPoint]) -> dict[str, Any]:
    """The newest point, and all of them."""
    newest = points[-1] if points else ProgressPoint()
    return {**newest.model_dump(), "history": [point.model_dump() for point in points]}
