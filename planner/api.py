"""The Python door: plan, alternatives, compare and explain take and return the models of `specs`."""

from __future__ import annotations

from typing import Literal

from planner.plan import build
from planner.solve import Progress, solve
from planner.space import FULL_SPEED, Slowdown, Space
from specs.plan import Plan
from specs.scenario import Scenario

DEFAULT_GAP = 1e-3
DEFAULT_TIME_LIMIT_S = 60.0

Formulation = Literal["columns", "piecewise"]


def plan(
    scenario: Scenario,
    *,
    gap: float = DEFAULT_GAP,
    time_limit_s: float = DEFAULT_TIME_LIMIT_S,
    slowdown: Slowdown = FULL_SPEED,
    progress: Progress | None = None,
) -> Plan:
    space = Space.of(scenario, slowdown=slowdown)
    solved = solve(space, gap=gap, time_limit_s=time_limit_s, progress=progress)
    return build(space, solved, gap=gap)
