"""What a formulation returns."""

from dataclasses import dataclass, field
from typing import Literal

Status = Literal["optimal", "feasible", "infeasible", "unbounded", "time_limit"]

Path = tuple[int, int, int]
"""(service, mode, level)"""


@dataclass(frozen=True)
class Segment:
    """Replicas of one curve that run on one of its segments.

    Attributes:
        replicas: how many.
        batch: requests in flight per replica.
        steps_per_s: steps per second of all of them together.
        tokens_per_s: steps x batch per second of all of them together.
    """

    replicas: int
    batch: float
    steps_per_s: float
    tokens_per_s: float


@dataclass(frozen=True)
class Solution:
    """A solved formulation; every row has been re-checked from the rounded integers.

    Attributes:
        status: optimal iff the gap is at most the requested one; feasible for a wider one; time_limit: nothing found.
        incumbent: objective, recomputed from the rounded integers; nan without one.
        bound: proven bound on the optimum, never on the wrong side of the incumbent.
        gap: |bound - incumbent| / |incumbent|; inf without an incumbent.
        seconds: wall clock of pruning, building and solving.
        replicas: option row of the caller's table -> replicas, only those that serve.
        rate_rps: (service, mode, level) -> served requests per second.
        modes: chosen (service, mode) pairs.
        levels: chosen (service, mode, level) triples.
        segments: segment row of the caller's curves -> its replicas (formulation `piecewise` only).
        columns: integer count variables in the model that was solved.
    """

    status: Status
    incumbent: float
    bound: float
    gap: float
    seconds: float
    replicas: dict[int, int] = field(default_factory=dict)
    rate_rps: dict[Path, float] = field(default_factory=dict)
    modes: tuple[tuple[int, int], ...] = ()
    levels: tuple[Path, ...] = ()
    segments: dict[int, Segment] = field(default_factory=dict)
    columns: int = 0

    @property
    def found(self) -> bool:
        """Whether there is an incumbent."""
        return self.status in ("optimal", "feasible")
