"""What one more GPU, node or millisecond is worth, by solving again."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from planner.clock import Clock
from planner.solve import Progress, solve
from planner.space import Slowdown, Space
from planner.variant import grown, replaced, respond, with_slo
from specs.plan import Plan, WhatIf
from specs.service import Phase

TPOT_STEP_MS = 1.0
TTFT_STEP_MS = 10.0


def what_ifs(
    space: Space,
    plan: Plan,
    *,
    gap: float,
    clock: Clock,
    slowdown: Slowdown,
    progress: Progress | None = None,
) -> tuple[list[WhatIf], list[str]]:
    """Objective of the problem with one thing eased, for each thing in turn; and notes on those left out.

    Every change only eases the problem, so the plan at hand stays possible: where the changed problem's incumbent is
    worse (both are within their gaps), nothing was gained.

    Args:
        space: the declared space of the plan.
        plan: a plan that was found.
        gap: relative gap of every solve.
        clock: of all solves together.
        slowdown: the factors on times that `space` was made with.
        progress: told of every stage.
    """
    before, bound = plan.certificate.incumbent, plan.certificate.bound
    if before is None or bound is None:
        raise ValueError("what a change is worth can only be told of a plan that was found")
    maximizing = space.scenario.objective.maximizing
    found, left_out = [], []
    for change, make in _changes(space, slowdown):
        if clock.left_s <= 0.0:
            left_out.append(change)
            continue
        if progress is not None:
            progress(f"what if: {change}", before, bound)
        solved = solve(make(), gap=gap, time_limit_s=clock.left_s)
        if not solved.solution.found:
            found.append(WhatIf(change=change, objective_before=before, note="solved again; no plan in time"))
            continue
        reached = solved.solution.incumbent
        after = max(before, reached) if maximizing else min(before, reached)
        certain = after > bound if maximizing else after < bound
        if certain:
            note = "solved again; the gain is certain, beyond the gap of both"
        elif after == before:
            note = f"solved again; nothing gained, within a gap of {gap:.2g}"
        else:
            note = f"solved again; the gain is within a gap of {gap:.2g}, so not certain"
        found.append(WhatIf(change=change, objective_before=before, objective_after=after, note=note))
    notes = [f"time ran out before these changes were solved: {', '.join(left_out)}"] if left_out else []
    return found, notes


def _changes(space: Space, slowdown: Slowdown) -> Iterator[tuple[str, Callable[[], Space]]]:
    """Each change in words, and the space that it leads to."""

    def larger(number: int, gpus: int) -> Callable[[], Space]:
        def make() -> Space:
            pools = list(space.pools)
            pools[number] = grown(space.scenario.cluster.pools[number], pools[number], gpus)
            return replaced(space, pools, slowdown)

        return make

    def eased(index: int, **slo: float) -> Callable[[], Space]:
        return lambda: respond(space, {index: with_slo(space.services[index].service, **slo)})

    for number, pool in enumerate(space.pools):
        yield f"one more GPU in {pool.name} ({pool.count} -> {pool.count + 1})", larger(number, 1)
        if pool.gpus_per_node > 1:
            node = pool.gpus_per_node
            yield f"one more node in {pool.name} ({pool.count} -> {pool.count + node} GPUs)", larger(number, node)
    for index, part in enumerate(space.services):
        slo, name, phase = part.service.slo, part.service.name, part.service.phase
        if slo.tpot_ms is not None and phase is not Phase.PREFILL:
            more = slo.tpot_ms + TPOT_STEP_MS
            yield f"TPOT of {name} {slo.tpot_ms:g} -> {more:g} ms", eased(index, tpot_ms=more)
        if slo.ttft_ms is not None and phase is not Phase.DECODE:
            more = slo.ttft_ms + TTFT_STEP_MS
            yield f"TTFT of {name} {slo.ttft_ms:g} -> {more:g} ms", eased(index, ttft_ms=more)
