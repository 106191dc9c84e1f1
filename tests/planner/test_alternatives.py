"""The N best plans against an enumeration of all combinations of layouts."""

import itertools
from collections.abc import Iterator

import pytest

from formulations.table import Role
from planner import api
from planner.costs.worker import Worker
from planner.ranking import LayoutKey, WithoutLayouts, layouts_of
from planner.solve import solve
from planner.space import Space
from planner.variant import in_modes
from specs.comparison import Alternatives
from specs.errors import SpecError
from specs.plan import Plan
from specs.service import Limits, Mode
from tests.planner.scenarios import DENSE, MOE, ROUNDING, bound, incumbent, scenario, service

GAP = 1e-4
GPUS = 4


def capacities(space: Space) -> dict[LayoutKey, tuple[int, float]]:
    """GPUs and tokens/s of one worker of every layout, from problems in which only that layout is left.

    The value of k workers of one layout is k times that of one, so one problem for each layout says it all.
    """
    (part,) = space.services
    found = {}
    for worker in part.workers:
        assert isinstance(worker, Worker)
        mine = next(iter(layout_keys(space, [worker])))
        others = frozenset(layout_keys(space, [other for other in part.workers if other is not worker])) - {mine}
        left = Space(space.scenario, space.pools, (WithoutLayouts.of_part(part, others),))
        solved = solve(left, gap=GAP, time_limit_s=30.0)
        if solved.solution.found:
            assert layouts_of(solved) == {mine}
            (servers,) = solved.solution.replicas.values()
            found[mine] = (worker.layout.gpus, solved.solution.incumbent / servers)
    return found


def layout_keys(space: Space, workers: list[Worker]) -> Iterator[LayoutKey]:
    for worker in workers:
        yield LayoutKey.of(0, Mode.AGGREGATED, Role.SERVE, worker, 0, 0)


def enumerated(kinds: dict[LayoutKey, tuple[int, float]], count: int) -> list[float]:
    """Values of the `count` best plans as defined, from every number of workers of every layout on `GPUS` GPUs."""
    keys = list(kinds)
    best: dict[frozenset[LayoutKey], float] = {}
    for numbers in itertools.product(*(range(GPUS // kinds[key][0] + 1) for key in keys)):
        used = {key: number for key, number in zip(keys, numbers, strict=True) if number}
        if used and sum(number * kinds[key][0] for key, number in used.items()) <= GPUS:
            value = sum(number * kinds[key][1] for key, number in used.items())
            layouts = frozenset(used)
            best[layouts] = max(best.get(layouts, 0.0), value)
    values: list[float] = []
    returned: list[frozenset[LayoutKey]] = []
    while len(values) < count:
        open_ = {layouts: v for layouts, v in best.items() if not any(layouts >= earlier for earlier in returned)}
        if not open_:
            break
        chosen = max(open_, key=lambda layouts: open_[layouts])
        returned.append(chosen)
        values.append(open_[chosen])
    return values


@pytest.mark.parametrize("tpot_ms", [8.0, 20.0, 60.0])
def test_alternatives_are_those_of_the_enumeration(tpot_ms: float) -> None:
    asked = scenario(service(model=DENSE, tpot_ms=tpot_ms, modes=(Mode.AGGREGATED,)), count=GPUS)
    space = in_modes(Space.of(asked), {0: (Mode.AGGREGATED,)})
    kinds = capacities(space)
    assert len(kinds) >= 4
    expected = enumerated(kinds, 6)
    found = [incumbent(plan) for plan in api.alternatives(asked, 6, gap=GAP)]
    assert found == pytest.approx(expected, rel=2 * GAP)


def test_a_forbidden_prefill_layout_is_gone_even_where_prefill_was_searched_before() -> None:
    asked = scenario(service(model=DENSE, modes=(Mode.PREFILL_DECODE,)))
    searched = Space.of(asked)
    first = layouts_of(solve(searched, gap=GAP, time_limit_s=30.0))
    forbidden = frozenset(key for key in first if key.role is Role.PREFILL)
    assert forbidden
    values = []
    for space in (searched, Space.of(asked)):
        part = WithoutLayouts.of_part(space.services[0], forbidden)
        solved = solve(Space(space.scenario, space.pools, (part,)), gap=GAP, time_limit_s=30.0)
        assert not layouts_of(solved) & forbidden
        values.append(solved.solution.incumbent)
    assert values[0] == pytest.approx(values[1], rel=GAP)


def used(plan: Plan) -> set[tuple[object, ...]]:
    """Layouts of a plan, from its fields alone."""
    return {
        (each.mode, p.role, p.gpu_pool, p.tp, p.dp, p.ep, p.moe_tp, p.pp, p.microbatches, p.replicas // (p.units or 1))
        if p.unit
        else (each.mode, p.role, p.gpu_pool, p.tp, p.dp, p.ep, p.moe_tp, p.pp, p.microbatches)
        for served in plan.services
        for each in served.deployments
        for p in each.pools
    }


def test_alternatives_of_all_modes_differ_and_are_ordered() -> None:
    asked = scenario(service(model=MOE, modes=tuple(Mode), limits=Limits(tp=(1,))), count=4)
    plans = api.alternatives(asked, 4)
    assert len(plans) == 4
    best = api.plan(asked, explain=False)
    assert incumbent(plans[0]) == pytest.approx(incumbent(best), rel=1e-3)
    assert plans[0].explanation.notes == ()
    for earlier, later in itertools.combinations(plans, 2):
        assert not used(later) >= used(earlier)
        assert incumbent(later) <= bound(earlier) * (1 + ROUNDING)
    for plan in plans[1:]:
        distance = 1 - incumbent(plan) / incumbent(plans[0])
        assert f"{distance:.2%} below the best" in plan.explanation.notes[-1] or distance == 0.0
    assert [each.plan for each in Alternatives.of(plans).alternatives] == list(plans)


def test_there_are_no_more_than_there_are() -> None:
    asked = scenario(service(limits=Limits(tp=(1,), max_gpus_per_replica=1), modes=(Mode.AGGREGATED,)), count=1)
    assert len(api.alternatives(asked, 5)) == 1
    assert api.alternatives(scenario(service(ttft_ms=2.0)), 3) == ()
    with pytest.raises(SpecError, match="from 1"):
        api.alternatives(asked, 0)
