"""Cases small enough to solve by hand."""

import subprocess
import sys

import numpy as np
import pytest

from formulations import columns, knapsack, seam
from formulations.packing import maximal_patterns, needs_patterns
from formulations.table import OptionTable, Role
from tests.formulations.instances import problem, table


def with_levels(prefill: list[tuple[float, float]], decode: list[tuple[float, float]], slo_ms: float) -> OptionTable:
    """Table of 8-GPU options from (rate, TTFT contribution in ms): the levels are the decode contributions."""
    rows = []
    for level, share in enumerate(sorted({ms for _, ms in decode})):
        rows += [
            {"mode": 1, "role": int(Role.PREFILL), "level": level, "rate": rate, "items": {(0, 8): 1}}
            for rate, ms in prefill
            if ms <= slo_ms - share
        ]
        rows += [
            {"mode": 1, "role": int(Role.DECODE), "level": level, "rate": rate, "items": {(0, 8): 1}}
            for rate, ms in decode
            if ms <= share
        ]
    return table(rows)


@pytest.mark.parametrize("prune", [False, True])
def test_ttft_is_joint_over_prefill_and_decode(prune):
    """80 + 30 ms misses 100 ms: either 10 with 9 (4 + 4 replicas: 36) or 6 with 20 (6 + 2 replicas: 36)."""
    options = with_levels([(10, 80), (6, 40)], [(20, 30), (9, 15)], 100)
    found = columns.solve(problem(), options, gap=0.0, prune=prune)
    assert found.status == "optimal"
    assert found.incumbent == pytest.approx(36)
    # Were every option free to meet every other, 5 at 10/s would meet 3 at 20/s: 50.
    assert columns.solve(problem(), with_levels([(10, 80), (6, 40)], [(20, 30), (9, 15)], 110)).incumbent == 50


def test_two_units_of_48_in_two_domains_of_72():
    unit = table([{"rate": 1.0, "items": {(0, 48): 1}}])
    found = columns.solve(problem(pool_gpus=[144], pool_domain=[72]), unit, gap=0.0)
    assert found.incumbent == 2
    assert found.replicas == {0: 2}
    assert columns.solve(problem(pool_gpus=[144], pool_domain=[144]), unit, gap=0.0).incumbent == 3


def test_smaller_items_use_what_a_unit_leaves_of_its_domain():
    options = table([{"rate": 10.0, "items": {(0, 48): 1}}, {"rate": 1.0, "items": {(0, 24): 1}}])
    found = columns.solve(problem(pool_gpus=[160], pool_domain=[72]), options, gap=0.0)
    assert found.incumbent == 22
    assert found.replicas == {0: 2, 1: 2}


def test_an_item_larger_than_a_domain_takes_whole_domains():
    options = table([{"rate": 5.0, "items": {(0, 16): 1}}, {"rate": 1.0, "items": {(0, 6): 1}}])
    found = columns.solve(problem(pool_gpus=[24], pool_domain=[8]), options, gap=0.0)
    assert found.incumbent == 6
    broken = table([{"rate": 5.0, "items": {(0, 12): 1}}])
    with pytest.raises(ValueError, match=r"12 GPUs on pool 'gpu' .* not a multiple"):
        columns.solve(problem(), broken)


@pytest.mark.parametrize(
    ("sizes", "domain", "expected"),
    [([1, 2, 8], 8, False), ([3, 6], 12, False), ([2, 3], 12, True), ([48], 72, True), ([8, 24, 16], 8, False)],
)
def test_patterns_are_needed_unless_sizes_form_a_divisor_chain(sizes, domain, expected):
    made = problem(pool_domain=[domain], pool_gpus=[2 * domain])
    items = np.eye(len(sizes), dtype=np.int64)
    needed = needs_patterns(made, items, np.zeros(len(sizes), dtype=np.int64), np.array(sizes))
    assert needed.tolist() == [expected]
    one_domain = problem(pool_domain=[domain], pool_gpus=[domain])
    assert needs_patterns(one_domain, items, np.zeros(len(sizes), dtype=np.int64), np.array(sizes)).tolist() == [False]


def test_maximal_patterns():
    assert sorted(maximal_patterns(12, [5, 3])) == [(0, 4), (1, 2), (2, 0)]
    assert sum(1 for _ in maximal_patterns(72, [48, 24, 8])) == 6


def test_too_many_patterns_are_refused():
    sizes = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13)
    options = table([{"rate": 1.1**size * size, "items": {(0, size): 1}} for size in sizes])
    with pytest.raises(ValueError, match="more than 20000 ways; offer fewer sizes"):
        columns.solve(problem(pool_gpus=[144], pool_domain=[72]), options)


def test_replicas_that_serve_nothing_are_left_out():
    options = table(
        [
            {"mode": 1, "role": 1, "rate": 3.0, "items": {(0, 8): 1}},
            {"mode": 1, "role": 2, "rate": 50.0, "items": {(0, 8): 1}},
        ]
    )
    found = columns.solve(problem(demand_rps=[8.0]), options, gap=0.0)
    assert found.replicas == {0: 3, 1: 1}
    assert found.rate_rps == {(0, 1, 0): 8.0}


def test_a_split_service_uses_two_modes_where_one_leaves_gpus_over():
    options = table(
        [{"mode": 0, "rate": 10.0, "items": {(0, 5): 1}}, {"mode": 1, "role": 0, "rate": 1.0, "items": {(0, 3): 1}}]
    )
    alone = columns.solve(problem(pool_gpus=[8]), options, gap=0.0)
    both = columns.solve(problem(pool_gpus=[8], split=[True]), options, gap=0.0)
    assert (alone.incumbent, both.incumbent) == (10, 11)
    assert both.modes == ((0, 0), (0, 1))


def test_closed_loop_serves_no_more_than_its_clients_allow():
    options = table(
        [
            {"mode": 1, "role": 1, "rate": 10.0, "items": {(0, 8): 1}, "residency": 0.5},
            {"mode": 1, "role": 2, "rate": 10.0, "items": {(0, 8): 1}, "residency": 1.5},
        ]
    )
    assert columns.solve(problem(), options).incumbent == 40
    assert columns.solve(problem(in_flight_cap=[30.0]), options).incumbent == pytest.approx(15)


def test_traffic_is_charged_on_what_is_served():
    options = table([{"rate": 10.0, "items": {(0, 8): 1}, "traffic": (0.5,)}])
    assert columns.solve(problem(fabric_gbyte_per_s=[12.0]), options).incumbent == pytest.approx(24)
    # A demand of 24 fits the fabric although the three replicas it takes could load it beyond.
    capped = columns.solve(problem(fabric_gbyte_per_s=[12.0], demand_rps=[24.0]), options)
    assert capped.incumbent == pytest.approx(24)
    assert capped.replicas == {0: 3}


def test_warm_start_is_accepted():
    options = with_levels([(10, 80), (6, 40)], [(20, 30), (9, 15)], 100)
    cold = columns.solve(problem(), options, gap=0.0)
    seen: list[float] = []
    warm = columns.solve(
        problem(),
        options,
        gap=0.0,
        start=cold.replicas,
        progress=lambda incumbent, bound, seconds: seen.append(incumbent),
    )
    assert warm.incumbent == cold.incumbent
    assert seen[0] == pytest.approx(36)


def test_conflict_of_an_infeasible_demand_is_named():
    """64 GPUs hold 8 replicas of 10/s; 81/s are asked for."""
    options = table([{"rate": 10.0, "items": {(0, 8): 1}, "cost": 1.0}])
    made = problem(sense="minimize", demand_rps=[81.0])
    assert columns.solve(made, options).status == "infeasible"
    named = seam.irreducible_infeasible_set(seam.extract(columns.build(made, options).assembly.model))
    assert "cDemand[0,0]" in named
    assert len(named) <= 3


def test_search_begins_with_a_plan_of_whole_replicas():
    """Each of two services has half of 100 GPUs: 6 of 8 GPUs and one of 2; 4 prefill and 9 decode replicas."""
    rows = [
        {"rate": 9.0, "items": {(0, 8): 1}},
        {"rate": 2.0, "items": {(0, 2): 1}},
        {"service": 1, "mode": 1, "role": 1, "rate": 5.0, "items": {(0, 8): 1}},
        {"service": 1, "mode": 1, "role": 2, "rate": 2.5, "items": {(0, 2): 1}},
    ]
    made = problem(services=("a", "b"), pool_gpus=[100])
    built = columns.build(made, table(rows))
    assert built.bounds.table is not None
    plan = knapsack.start(built.bounds.table)
    assert plan == {0: 6, 1: 1, 2: 4, 3: 9}


def test_no_option_at_all_is_infeasible():
    nothing = table([{"rate": 1.0, "items": {(0, 8): 1}}]).take(np.zeros(0, dtype=np.int64))
    for prune in (False, True):
        found = columns.solve(problem(), nothing, prune=prune)
        assert found.status == "infeasible"
        assert not found.found


def test_importing_and_solving_needs_neither_scipy_nor_pyomo_environ():
    code = (
        "import sys, numpy as np\n"
        "from formulations import columns, piecewise\n"
        "from tests.formulations.instances import problem, table\n"
        "assert columns.solve(problem(), table([{'rate': 1.0, 'items': {(0, 8): 1}}])).incumbent == 8\n"
        "assert not {'scipy', 'pyomo.environ'} & set(sys.modules), sorted(sys.modules)\n"
    )
    # hypothesis, which the instances import, must not bring scipy in either for this to mean something.
    subprocess.run([sys.executable, "-c", code], check=True)
