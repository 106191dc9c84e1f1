"""The Python door: plan, alternatives, compare and explain take and return the models of `specs`."""

from __future__ import annotations

from typing import Literal

from planner.assemble import build
from planner.clock import Clock
from planner.comparison import compare_modes
from planner.explanation import explained, with_explanation
from planner.fractional import with_fractional_batches
from planner.kernels.calibration import Calibration, PathOrPaths
from planner.ranking import best_plans, distance_note
from planner.relax import relaxations
from planner.solve import Progress, solve
from planner.space import FULL_SPEED, Slowdown, Space
from planner.variant import inapplicable
from planner.whatif import what_ifs
from specs.comparison import Comparison
from specs.errors import SpecError
from specs.plan import Plan, Status
from specs.scenario import Scenario
from specs.service import Phase

DEFAULT_GAP = 1e-3
DEFAULT_TIME_LIMIT_S = 60.0

Formulation = Literal["columns", "piecewise"]


def plan(
    scenario: Scenario,
    *,
    gap: float = DEFAULT_GAP,
    time_limit_s: float = DEFAULT_TIME_LIMIT_S,
    formulation: Formulation = "columns",
    explain: bool = True,
    slowdown: Slowdown = FULL_SPEED,
    calibration: PathOrPaths = (),
    progress: Progress | None = None,
) -> Plan:
    """The best plan of a scenario, its proof, and what binds; or what would make one possible.

    Args:
        scenario: the question.
        gap: relative gap at which a plan counts as optimal.
        time_limit_s: wall clock for everything.
        formulation: `columns`, every whole batch; or `piecewise`, which proves the same plan against fractional batches
            as well.
        explain: whether to say what binds or, without a plan, to search the smallest changes that allow one.
        slowdown: factors on kernel and communication times.
        calibration: tables that `cleave calibrate` wrote; each is used on the GPU type that it was measured on.
        progress: told of every stage, the incumbent and the bound.

    Raises:
        SpecError: a service that no cluster of these GPUs, or no mode that it allows, could serve; a formulation that
            there is not; or a table that is not complete, or of none of the GPU types.
    """
    clock = Clock.start(time_limit_s)
    return _plan(_space(scenario, slowdown, calibration), gap, clock, formulation, explain, slowdown, progress)


def explain(
    scenario: Scenario,
    *,
    gap: float = DEFAULT_GAP,
    time_limit_s: float = DEFAULT_TIME_LIMIT_S,
    slowdown: Slowdown = FULL_SPEED,
    calibration: PathOrPaths = (),
    progress: Progress | None = None,
) -> Plan:
    """The plan, and what one more GPU, node or millisecond is worth, by solving again; else as `plan`.

    Raises:
        SpecError: as `plan`.
    """
    clock = Clock.start(time_limit_s)
    space = _space(scenario, slowdown, calibration)
    found = _plan(space, gap, clock, "columns", True, slowdown, progress)
    if not found.services:
        return found
    changes, notes = what_ifs(space, found, gap=gap, clock=clock, slowdown=slowdown, progress=progress)
    return with_explanation(found, what_if=changes, notes=notes)


def alternatives(
    scenario: Scenario,
    count: int,
    *,
    gap: float = DEFAULT_GAP,
    time_limit_s: float = DEFAULT_TIME_LIMIT_S,
    calibration: PathOrPaths = (),
    progress: Progress | None = None,
) -> tuple[Plan, ...]:
    """The `count` best plans that differ in mode or layout, best first (`planner.ranking` says in what sense).

    Each note says how far its plan is from the best. There are fewer where the space has no more, and none where the
    scenario has no plan.

    Raises:
        SpecError: as `plan`, or a count below 1.
    """
    if count < 1:
        raise SpecError(f"must be a whole number of plans from 1, got {count}", field="count")
    clock = Clock.start(time_limit_s)
    space = _space(scenario, FULL_SPEED, calibration)
    found = best_plans(space, count, gap=gap, clock=clock, progress=progress)
    maximizing = scenario.objective.maximizing
    result = []
    for rank, (part, solved, each) in enumerate(found):
        value = solved.solution.incumbent
        notes = [] if rank == 0 else [distance_note(value, found[0][1].solution.incumbent, maximizing=maximizing)]
        if rank == 0 and len(found) < count and clock.left_s <= 0.0:
            notes.append(f"time ran out after {len(found)} of {count} plans")
        result.append(with_explanation(explained(part, solved, each), notes=notes))
    return tuple(result)


def compare(
    scenario: Scenario,
    *,
    gap: float = DEFAULT_GAP,
    time_limit_s: float = DEFAULT_TIME_LIMIT_S,
    slowdown: Slowdown = FULL_SPEED,
    calibration: PathOrPaths = (),
    pareto: bool = True,
    progress: Progress | None = None,
) -> Comparison:
    """The best plan of every mode side by side, why the others lose or die, and their Pareto curves.

    Args:
        scenario: the question.
        gap: relative gap at which a plan counts as optimal.
        time_limit_s: wall clock for everything.
        slowdown: factors on kernel and communication times.
        calibration: tables that `cleave calibrate` wrote; each is used on the GPU type that it was measured on.
        pareto: whether to solve for the curves.
        progress: told of every stage.

    Raises:
        SpecError: as `plan`, or there is no mode that every service allows.
    """
    clock = Clock.start(time_limit_s)
    space = _space(scenario, slowdown, calibration)
    return compare_modes(space, gap=gap, clock=clock, slowdown=slowdown, pareto=pareto, progress=progress)


def _plan(
    space: Space,
    gap: float,
    clock: Clock,
    formulation: Formulation,
    explain: bool,
    slowdown: Slowdown,
    progress: Progress | None,
) -> Plan:
    """The plan of a declared space."""
    if formulation not in ("columns", "piecewise"):
        raise SpecError(f"must be columns or piecewise, got {formulation!r}", field="formulation")
    solved = solve(space, gap=gap, time_limit_s=clock.left_s, progress=progress)
    found = build(space, solved, gap=gap)
    if formulation == "piecewise":
        found = with_fractional_batches(found, space, solved, gap=gap, time_limit_s=clock.left_s)
    if not explain:
        return found
    found = explained(space, solved, found)
    if found.status is Status.INFEASIBLE:
        changes, notes = relaxations(space, clock=clock, slowdown=slowdown, progress=progress)
        found = with_explanation(found, relaxations=changes, notes=notes)
    return found


def _space(scenario: Scenario, slowdown: Slowdown, calibration: PathOrPaths) -> Space:
    """The declared space of a scenario that some cluster of these GPUs could serve.

    Raises:
        SpecError: a service that none could, or a table that is not complete or of none of the GPU types.
    """
    tables = Calibration.read(calibration)
    space = Space.of(scenario, slowdown=slowdown, calibration=tables)
    tables.notes(space.pools)  # refuses a table that applies nowhere
    for part in space.services:
        field = f"services[{part.index}]"
        reasons = {mode: inapplicable(part, mode) for mode in part.service.modes}
        if all(reasons.values()):
            why = "; ".join(f"{mode.value}: {reason}" for mode, reason in reasons.items())
            raise SpecError(f"must hold a mode that can serve the service ({why})", field=f"{field}.modes")
        site = part.sites[0]
        prompt = part.service.phase is Phase.PREFILL
        tokens = site.lengths.prefix + site.lengths.input + (0.0 if prompt else site.lengths.output)
        needed = site.attention(1).kv_bytes(tokens)
        available = sum(each.memory_bytes * each.pool.count for each in part.sites)
        if needed > available:
            pools = ", ".join(each.pool.name for each in part.sites)
            raise SpecError(
                f"one request of {tokens:,.0f} tokens needs {needed / 1e9:,.0f} GB of KV cache, but all GPUs of "
                f"{pools} together have {available / 1e9:,.0f} GB: fewer tokens or more GPUs are accepted",
                field=f"{field}.workload",
            )
    return space
