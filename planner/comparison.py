"""The best plan of every mode side by side, why the others lose or die, and what each trades speed for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from planner.assemble import build
from planner.clock import Clock, OutOfTimeError
from planner.explanation import explained
from planner.launchable import REPLICAS_APART, blocked_by, has_units
from planner.relax import least_tpot_ms, relaxations, words
from planner.solve import Progress, solve
from planner.space import Slowdown, Space
from planner.variant import in_modes, inapplicable, respond, with_slo
from specs.comparison import COMPARISON_SCHEMA, Comparison, ModeResult, ParetoPoint
from specs.errors import SpecError
from specs.objective import Objective
from specs.plan import Plan, PoolPlan, Relaxation, Status
from specs.service import Mode, Phase

PARETO_POINTS = 8
PARETO_GAP = 0.01
"""A curve is read, not signed: its solves stop at this gap, or at that of the comparison where it is wider."""

PARETO_SPAN = 4.0
PARETO_SLOWEST_MS = 100.0
SAME = 1e-3
"""Points of a curve whose yields differ by less than this share are one."""

RELAXATION_SHARE = 0.6
"""Share of the time left after the plans that may go into relaxations before the curves are begun."""


def compare_modes(
    space: Space,
    *,
    gap: float,
    clock: Clock,
    slowdown: Slowdown,
    pareto: bool,
    progress: Progress | None = None,
) -> Comparison:
    """Every mode that all services allow, alone: the best plan, and the best one that the engines can launch.

    Where a service asks for launchable plans, those are compared, and the best plan stands beside each with the rules
    that block it; where none asks it is the other way round. A plan that can be launched needs no second solve.

    Args:
        space: the declared space, with all modes.
        gap: relative gap of the plans.
        clock: of everything together.
        slowdown: the factors on times that `space` was made with.
        pareto: whether to draw the curves.
        progress: told of every solve.

    Raises:
        SpecError: there is no mode that every service allows.
    """
    modes, notes = _shared_modes(space)
    notes += space.calibration.notes(space.pools)
    asked = any(part.service.launchable for part in space.services)
    pair = _Pair(space, asked, gap, slowdown)
    spaces: dict[Mode, Space] = {}
    plans: dict[Mode, Plan] = {}
    both: dict[Mode, _Answers] = {}
    for number, mode in enumerate(modes):
        if progress is not None:
            progress(f"{mode.value}: best plan", None, None)
        both[mode] = pair.answers(mode, clock.part(1.0 / (len(modes) - number)))
        answer = both[mode].launchable if asked else both[mode].best
        if answer is not None:
            spaces[mode], plans[mode] = answer
    maximizing = space.scenario.objective.maximizing
    values = {m: p.certificate.incumbent for m, p in plans.items() if p.certificate.incumbent is not None}
    best = (max if maximizing else min)(values, key=lambda mode: values[mode], default=None)
    relaxed, missing = _relaxations(spaces, plans, clock.part(RELAXATION_SHARE), slowdown, progress)
    notes += missing
    curves: dict[Mode, tuple[ParetoPoint, ...]] = {}
    if pareto:
        found = [mode for mode in modes if mode in plans]
        curves, left_out = pareto_curves({m: spaces[m] for m in found}, gap=gap, clock=clock, progress=progress)
        notes += left_out
    results = []
    for mode in modes:
        plan, value, changes = plans.get(mode), values.get(mode), tuple(relaxed.get(mode, ()))
        if plan is None:
            reason = _dead_from_the_start(space, mode) or ""
        elif value is None or best is None:
            reason = _dead_reason(plan, spaces[mode], changes)
        else:
            reason = _found_reason(plan, mode, best, value, values[best], maximizing=maximizing)
        results.append(
            ModeResult(
                mode=mode,
                **both[mode].fields(),
                reason=reason,
                relaxations=changes,
                pareto=curves.get(mode, ()),
            )
        )
    return Comparison(
        schema=COMPARISON_SCHEMA,
        objective=space.scenario.objective,
        modes=tuple(results),
        best=best,
        launchable=asked,
        notes=tuple(notes),
    )


@dataclass(frozen=True, eq=False)
class _Answers:
    """The best plan of a mode and the best launchable one, each with the space it was found in; None: dead at once."""

    best: tuple[Space, Plan] | None
    launchable: tuple[Space, Plan] | None
    blocked: tuple[str, ...] = ()
    same: bool = False

    def fields(self) -> dict[str, Any]:
        """Fields of a `ModeResult`."""
        best = self.best[1] if self.best is not None else None
        launchable = self.launchable[1] if self.launchable is not None else None
        return {
            "status": Status.INFEASIBLE if best is None else best.status,
            "value": None if best is None else best.certificate.incumbent,
            "plan": best,
            "launchable_value": None if launchable is None else launchable.certificate.incumbent,
            # One plan for both is written once.
            "launchable_plan": launchable if launchable is not None and launchable.services and not self.same else None,
            "blocked_by": self.blocked,
        }


class _Pair:
    """A space with and without the rules of its engines."""

    def __init__(self, space: Space, asked: bool, gap: float, slowdown: Slowdown) -> None:
        self._space, self._asked, self._gap, self._slowdown = space, asked, gap, slowdown

    @cached_property
    def _free(self) -> Space:
        return _with_launchable(self._space, self._slowdown, launchable=False) if self._asked else self._space

    @cached_property
    def _bound(self) -> Space:
        return self._space if self._asked else _with_launchable(self._space, self._slowdown, launchable=True)

    def answers(self, mode: Mode, clock: Clock) -> _Answers:
        """The best plan of a mode; and the best launchable one, by a second solve where it may be another."""
        best = self._best(self._free, mode, clock.part(0.5))
        if best is None:
            return _Answers(None, None)
        found = best[1]
        if not found.services:
            # Without a plan nothing can be launched; the reason is looked for in the space that was asked about.
            return _Answers(best, self._best(self._bound, mode, clock) if self._asked else None)
        services = [part.service for part in self._bound.services if part.service.launchable]
        names = {service.name for service in services}
        blocked = blocked_by(services, _only(found, names))
        apart = any(has_units(each) for served in found.services for each in served.deployments)
        if not blocked and not apart:
            answer = _in_mode(self._space, mode), found.model_copy(update={"scenario": self._space.scenario})
            return _Answers(answer, answer, same=True)
        launchable = self._best(self._bound, mode, clock)
        if not blocked and (launchable is None or not launchable[1].services):
            blocked = (REPLICAS_APART,)
        return _Answers(best, launchable, blocked)

    def _best(self, space: Space, mode: Mode, clock: Clock) -> tuple[Space, Plan] | None:
        if _dead_from_the_start(space, mode) is not None:
            return None
        one = _in_mode(space, mode)
        solved = solve(one, gap=self._gap, time_limit_s=max(clock.left_s, 0.1))
        return one, explained(one, solved, build(one, solved, gap=self._gap))


def _with_launchable(space: Space, slowdown: Slowdown, *, launchable: bool) -> Space:
    """The space of the same scenario whose services all ask, or all do not ask, for what engines can launch."""
    services = tuple(part.service.model_copy(update={"launchable": launchable}) for part in space.services)
    scenario = space.scenario.model_copy(update={"services": services})
    return Space.of(scenario, space.pools, slowdown, space.calibration)


def _in_mode(space: Space, mode: Mode) -> Space:
    return in_modes(space, {part.index: (mode,) for part in space.services})


def _only(plan: Plan, names: Set[str]) -> Plan:
    """A plan with some of its services."""
    return plan.model_copy(update={"services": tuple(each for each in plan.services if each.name in names)})


def _shared_modes(space: Space) -> tuple[list[Mode], list[str]]:
    """Modes that every service allows, and why others are left out."""
    modes, notes = [], []
    for mode in Mode:
        against = [part.service.name for part in space.services if mode not in part.service.modes]
        if not against:
            modes.append(mode)
        elif len(against) < len(space.services):
            notes.append(f"{mode.value} is not compared: {', '.join(against)} does not allow it")
    if not modes:
        raise SpecError("there is no mode that every service allows, so none can be compared", field="services")
    return modes, notes


def _dead_from_the_start(space: Space, mode: Mode) -> str | None:
    """Why a mode cannot serve every service on any cluster; None where it might."""
    for part in space.services:
        reason = inapplicable(part, mode)
        if reason is not None:
            return reason if len(space.services) == 1 else f"{part.service.name}: {reason}"
    return None


def _relaxations(
    spaces: dict[Mode, Space],
    plans: dict[Mode, Plan],
    clock: Clock,
    slowdown: Slowdown,
    progress: Progress | None,
) -> tuple[dict[Mode, list[Relaxation]], list[str]]:
    """What would revive each mode that has no plan."""
    dead = [mode for mode, plan in plans.items() if plan.status is Status.INFEASIBLE]
    found, notes = {}, []
    for number, mode in enumerate(dead):
        part = clock.part(1.0 / (len(dead) - number))
        found[mode], missing = relaxations(spaces[mode], clock=part, slowdown=slowdown, progress=progress)
        notes += missing
    return found, notes


# -- reasons ----------------------------------------------------------------------------------------------------------


def _found_reason(plan: Plan, mode: Mode, best: Mode, value: float, top: float, *, maximizing: bool) -> str:
    """What limits a plan, and how far it is from the best."""
    limits = ", ".join(dict.fromkeys(binding.what for binding in plan.explanation.binding)) or "nothing in particular"
    if mode is best:
        return f"limited by {limits}"
    distance = abs(top - value) / abs(top or 1.0)
    if distance == 0.0:
        return f"as good as {best.value}; limited by {limits}"
    return f"{distance:.1%} {'below' if maximizing else 'above'} {best.value}; limited by {limits}"


def _dead_reason(plan: Plan, space: Space, relaxed: Sequence[Relaxation]) -> str:
    """Which SLO or resource kills a mode, from what would revive it."""
    if plan.status is Status.TIME_LIMIT:
        return "nothing found in time"
    revived = [r for r in relaxed if r.needed is not None]
    if revived:
        return f"dead; each of these alone would revive it: {'; '.join(words(r) for r in revived)}"
    refused: Counter[str] = Counter()
    for part in space.services:
        for counter in part.rejected.values():
            refused.update(counter)
    why = ", ".join(f"{reason} ({count:,})" for reason, count in refused.most_common(3) if count)
    return f"dead, and no single change revives it; layouts refused by {why or 'nothing'}"


# -- curves -----------------------------------------------------------------------------------------------------------


def pareto_curves(
    spaces: dict[Mode, Space], *, gap: float, clock: Clock, progress: Progress | None = None
) -> tuple[dict[Mode, tuple[ParetoPoint, ...]], list[str]]:
    """Tokens/s per GPU against tokens/s per user of every mode, from solves at a ladder of TPOT targets.

    Demand is set aside, and throughput is maximised whatever the scenario's objective: a curve says what GPUs can
    yield. Points are solved from both ends inwards, so that a curve cut short by time still spans its range.

    Args:
        spaces: by mode, a space of one service restricted to that mode.
        gap: relative gap of the comparison; the curve's is at least `PARETO_GAP`.
        clock: of all solves together.
        progress: told of every solve.
    """
    first = next(iter(spaces.values()), None)
    if first is None:
        return {}, []
    if len(first.services) > 1:
        return {}, ["no Pareto curves: with several services a GPU's tokens are not one user's"]
    service = first.services[0].service
    tpot = service.slo.tpot_ms
    if service.phase is Phase.PREFILL or tpot is None or first.services[0].sites[0].lengths.decode_tokens == 0:
        return {}, ["no Pareto curves: requests have no time per output token"]
    slowest = max(PARETO_SPAN * tpot, PARETO_SLOWEST_MS)
    found: dict[Mode, list[ParetoPoint]] = {mode: [] for mode in spaces}
    ladders: dict[Mode, list[float]] = {mode: [] for mode in spaces}
    missed = 0
    for mode, space in spaces.items():
        try:
            ladders[mode] = _ladder(space, mode, tpot, slowest, clock)
        except OutOfTimeError:
            missed += PARETO_POINTS
    for rank in range(PARETO_POINTS):
        for mode, space in spaces.items():
            if rank >= len(ladders[mode]):
                continue
            if clock.left_s <= 0.0:
                missed += 1
                continue
            target = ladders[mode][rank]
            if progress is not None:
                progress(f"{mode.value}: curve at {target:.3g} ms per token", None, None)
            point = _point(space, target, max(gap, PARETO_GAP), clock)
            if point is not None:
                found[mode].append(point)
            elif clock.left_s <= 0.0:
                missed += 1
    notes = [f"time ran out before {missed} points of the Pareto curves were solved"] if missed else []
    return {mode: undominated(points) for mode, points in found.items()}, notes


def _ladder(space: Space, mode: Mode, tpot_ms: float, slowest_ms: float, clock: Clock) -> list[float]:
    """TPOT targets from the least that one request can have, the SLO among them, in the order of solving.

    Raises:
        OutOfTimeError: the clock ran out first.
    """
    least = least_tpot_ms(space.services[0], mode, clock)
    if least is None:
        return []
    fastest = min(least * 1.02, slowest_ms)
    targets = np.geomspace(fastest, slowest_ms, PARETO_POINTS)
    if fastest < tpot_ms:
        targets[1 + int(np.argmin(np.abs(np.log(targets[1:-1] / tpot_ms))))] = tpot_ms
    inwards = sorted(range(PARETO_POINTS), key=lambda i: min(i, PARETO_POINTS - 1 - i))
    return [float(targets[i]) for i in inwards]


def _point(space: Space, tpot_ms: float, gap: float, clock: Clock) -> ParetoPoint | None:
    service = with_slo(space.services[0].service, tpot_ms=tpot_ms).model_copy(update={"demand_rps": None})
    target = respond(space, {0: service}, objective=Objective(maximize="throughput"))
    solved = solve(target, gap=gap, time_limit_s=clock.left_s)
    if not solved.solution.found:
        return None
    plan = build(target, solved, gap=gap)
    (served,) = plan.services
    if not served.tpot_ms:
        return None
    return ParetoPoint(
        tokens_per_s_per_gpu=served.throughput_tok_s / sum(plan.gpus_used.values()),
        tokens_per_s_per_user=1e3 / served.tpot_ms,
        tpot_ms=served.tpot_ms,
        ttft_ms=served.ttft_ms,
        layout=layout_words(plan),
    )


def undominated(points: Sequence[ParetoPoint]) -> tuple[ParetoPoint, ...]:
    """The points that no other beats in both coordinates, or equals but for `SAME`, fastest for the user first."""
    kept: list[ParetoPoint] = []
    for point in sorted(points, key=lambda p: (-p.tokens_per_s_per_user, -p.tokens_per_s_per_gpu)):
        if not kept or point.tokens_per_s_per_gpu > kept[-1].tokens_per_s_per_gpu * (1.0 + SAME):
            kept.append(point)
    return tuple(kept)


def layout_words(plan: Plan) -> str:
    """What is deployed, in words."""
    pools = [pool for service in plan.services for deployment in service.deployments for pool in deployment.pools]
    return ", ".join(_pool_words(pool) for pool in pools)


def _pool_words(pool: PoolPlan) -> str:
    degrees = {"tp": pool.tp, "dp": pool.dp, "ep": pool.ep, "moe_tp": pool.moe_tp, "pp": pool.pp}
    text = " ".join(f"{name}{value}" for name, value in degrees.items() if value > 1) or "1 GPU"
    if pool.microbatches > pool.pp:
        text += f", {pool.microbatches} micro-batches"
    return f"{pool.replicas} x {pool.role.value} ({text}) on {pool.gpu_pool}"
