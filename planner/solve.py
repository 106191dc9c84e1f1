"""From the declared space to a proven solution.

TTFT is joint over prefill and decode, so P/D modes are solved over levels of the decode part (`planner.options`).
Levels are a grid, and its error is closed, not assumed: beside the exact problem, in which every path meets TTFT, an
optimistic one gives prefill at each level the budget of the level's lower end. Its bound holds for any finer levels;
where it is too far from the incumbent, the levels that it uses are split and both are solved again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from time import perf_counter

from formulations import columns
from formulations.solution import Solution
from planner.options.decode import Level
from planner.space import Group, ModeOptions, ServiceSpace, Space
from planner.table import Tables, tables
from specs.service import Mode

Progress = Callable[[str, float | None, float | None], None]
"""Called with the stage, the incumbent and the bound."""

MOST_ROUNDS = 12
SOLVER_SHARE = 0.2
"""Share of the requested gap that the solver may leave open in one problem."""


@dataclass(frozen=True, eq=False)
class Solved:
    """A solved space.

    Args:
        tables: of the exact problem.
        solution: its solution.
        bound: valid for any finer levels.
        gap: total, inf without an incumbent.
        gap_solver: part of it that the solver left open in the exact problem.
        levels: TTFT levels in use at the end, by service and mode.
        seconds: wall seconds by stage.
    """

    tables: Tables
    solution: Solution
    bound: float
    gap: float
    gap_solver: float
    levels: dict[tuple[int, Mode], tuple[Level, ...]]
    seconds: dict[str, float]


def solve(
    space: Space,
    *,
    gap: float,
    time_limit_s: float,
    progress: Progress | None = None,
    refuse: Callable[[Tables], Tables] | None = None,
) -> Solved:
    """Solve a space to a relative gap.

    Args:
        space: the declared space.
        gap: total relative gap at which to stop.
        time_limit_s: wall clock for everything.
        progress: told of every stage.
        refuse: removes options from the tables before they are solved (used for alternatives).
    """
    start = perf_counter()
    seconds = {"options": 0.0, "solve": 0.0}
    sense = space.scenario.objective.maximizing
    options: dict[tuple[int, Mode], ModeOptions] = {}
    for part in space.services:
        for mode in part.service.modes:
            _tell(progress, f"options of {part.service.name}: {mode.value}", None, None)
            options[part.index, mode] = part.groups(mode)
    seconds["options"] = perf_counter() - start

    for round_ in range(MOST_ROUNDS):
        left = max(time_limit_s - (perf_counter() - start), 0.5)
        exact = _tables(space, [group for each in options.values() for group in each.exact], refuse)
        _tell(progress, "solving", None, None)
        mark = perf_counter()
        solution = columns.solve(exact.problem, exact.options, gap=gap * SOLVER_SHARE, time_limit_s=left)
        bound = solution.bound
        relaxed, upper = exact, solution
        if any(len(each.levels) > 1 or each.exact is not each.optimistic for each in options.values()):
            relaxed = _tables(space, [group for each in options.values() for group in each.optimistic], refuse)
            left = max(time_limit_s - (perf_counter() - start), 0.5)
            upper = columns.solve(relaxed.problem, relaxed.options, gap=gap * SOLVER_SHARE, time_limit_s=left)
            bound = upper.bound
        seconds["solve"] += perf_counter() - mark
        if solution.found and math.isfinite(bound):
            bound = max(bound, solution.incumbent) if sense else min(bound, solution.incumbent)
        total = _gap(solution, bound)
        _tell(progress, f"round {round_ + 1}", solution.incumbent if solution.found else None, bound)
        done = total <= gap or not upper.found or perf_counter() - start > time_limit_s
        if done or not _split(space.services, options, relaxed, upper):
            break
    solver_gap = min(_gap(solution, solution.bound), total)
    levels = {key: each.levels for key, each in options.items()}
    return Solved(exact, solution, bound, total, solver_gap, levels, seconds)


def _tables(space: Space, groups: Sequence[Group], refuse: Callable[[Tables], Tables] | None) -> Tables:
    built = tables(space, groups)
    return refuse(built) if refuse else built


def _gap(solution: Solution, bound: float) -> float:
    if not solution.found or not math.isfinite(bound):
        return math.inf
    if solution.incumbent == 0.0:
        return 0.0 if bound == 0.0 else math.inf
    return abs(bound - solution.incumbent) / abs(solution.incumbent)


def _split(
    services: Sequence[ServiceSpace],
    options: dict[tuple[int, Mode], ModeOptions],
    relaxed: Tables,
    upper: Solution,
) -> bool:
    """Split the levels that the optimistic solution uses, at the decode parts that it takes; False if it cannot."""
    modes = list(Mode)
    changed = False
    for service, mode_index, number in upper.levels:
        key = (service, modes[mode_index])
        level = options[key].levels[number]
        if not math.isfinite(level.decode_ms):
            continue
        taken = _decode_part(relaxed, upper, service, mode_index, number)
        ends = {taken, 0.5 * (level.decode_ms_below + taken)}
        new = [end for end in ends if level.decode_ms_below < end < level.decode_ms * (1.0 - 1e-9)]
        if not new:
            continue
        changed = True
        options[key] = services[service].groups(key[1], _insert(options[key].levels, level, new))
    return changed


def _decode_part(relaxed: Tables, upper: Solution, service: int, mode: int, level: int) -> float:
    """Largest decode part of TTFT among the decode options that a solution uses on one path."""
    worst = 0.0
    for row in upper.replicas:
        group = relaxed.groups[int(relaxed.group[row])]
        options = relaxed.options
        if (int(options.service[row]), int(options.mode[row]), int(options.level[row])) == (service, mode, level):
            if group.role.name == "DECODE":
                worst = max(worst, float(group.block.ttft_ms[int(relaxed.row[row])]))
    return worst


def _insert(levels: Sequence[Level], split: Level, ends: Sequence[float]) -> list[Level]:
    """Levels with new ends inside one of them, at its link rate."""
    result: list[Level] = []
    for level in levels:
        if level is not split:
            result.append(level)
            continue
        below = level.decode_ms_below
        for end in [*sorted(ends), level.decode_ms]:
            result.append(replace(level, decode_ms=end, decode_ms_below=below))
            below = end
    return result


def _tell(progress: Progress | None, stage: str, incumbent: float | None, bound: float | None) -> None:
    if progress is not None:
        progress(stage, incumbent, bound)
