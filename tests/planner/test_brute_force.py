"""Nothing is lost between the declared space and the plan: raw, unpruned enumeration gives the same optimum."""

from collections import Counter

import pytest

from planner.costs.site import Site
from planner.options.layouts import afd_units, layouts
from planner.solve import solve
from planner.space import Space
from specs.scenario import Scenario, resolve_pool
from tests.planner.brute_force import optimum
from tests.planner.instances import launchable_scenario, scenario
from tests.planner.naive_layouts import naive_afd_units, naive_layouts

GAP = 1e-3
ROUNDING = 1e-9
INVERSES = 1e-6
"""The planner inverts waits and TPOT by 30 to 32 halvings: 1e-9 of the bracket, which may be wide."""


def check(case: Scenario) -> None:
    best = optimum(case)
    solved = solve(Space.of(case), gap=GAP, time_limit_s=60.0)
    if best is None:
        assert not solved.solution.found
        return
    assert solved.solution.found
    sign = 1 if case.objective.maximizing else -1
    incumbent, bound = solved.solution.incumbent, solved.bound
    assert sign * incumbent <= sign * best * (1 + sign * ROUNDING)
    assert sign * bound >= sign * best * (1 - sign * INVERSES)
    assert abs(bound - incumbent) <= GAP * abs(incumbent) * (1 + ROUNDING)
    assert solved.gap <= GAP
    assert incumbent == pytest.approx(best, rel=GAP)


@pytest.mark.parametrize(
    "number", [*range(52), 148]
)  # 148: the best batch is the memory's limit, bounded from below it
def test_optimum(number):
    check(scenario(number))


@pytest.mark.parametrize("number", [0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 13, 15, 18, 19, 23, 27, 31, 33, 38, 43])
def test_optimum_of_what_engines_launch(number):
    check(launchable_scenario(number))


def test_instances_cover_every_kind():
    cases = [scenario(number) for number in range(52)]
    modes = Counter(mode for case in cases for service in case.services for mode in service.modes)
    assert min(modes.values()) >= 12
    assert len(modes) == 4
    assert sum(len(case.services) > 1 for case in cases) >= 4
    assert sum(len(case.cluster.pools) > 1 for case in cases) >= 8
    assert sum(not case.objective.maximizing for case in cases) >= 5
    assert {service.slo.statistic.value for case in cases for service in case.services} >= {"mean", "p90", "p99"}


def large(modes: list[str], limits: dict, **given) -> Scenario:
    service = {
        "name": "s",
        "model": "deepseek-ai/DeepSeek-V3",
        "workload": {"input_tokens": 8000, "output_tokens": 1000},
        "slo": {"ttft_ms": 3000, "tpot_ms": 60},
        "modes": modes,
        "limits": limits,
        "launchable": False,
        **given,
    }
    pool = {"name": "p", "gpu": "h200", "count": 16}
    objective = {"maximize": "throughput"}
    return Scenario.model_validate(
        {"schema": "cleave.scenario/1", "cluster": {"pools": [pool]}, "services": [service], "objective": objective}
    )


@pytest.mark.parametrize(
    ("modes", "limits"),
    [
        (["aggregated"], {"ep": [8, 16]}),
        (["prefill_decode"], {"ep": [8]}),
        (["afd"], {"tp": [1, 2]}),
        (["prefill_decode_afd"], {"tp": [1, 4], "ep": [4, 8]}),
    ],
)
def test_deepseek_on_two_nodes(modes, limits):
    check(large(modes, limits))


@pytest.mark.parametrize("number", [0, 3, 9, 14, 23, 31, 33])
def test_layouts_are_those_of_the_rules(number):
    case = scenario(number)
    pools = [resolve_pool(pool) for pool in case.cluster.pools]
    for service in case.services:
        sites = [Site.of(service, pool) for pool in pools]
        for site in sites:
            found = list(layouts(site, Counter()))
            assert len(found) == len(set(found))
            assert set(found) == naive_layouts(site)
        for near in sites:
            for far in sites:
                units = [
                    unit.unit.layout(copies, batches)
                    for unit in afd_units(near, far, Counter())
                    for copies, batches in zip(unit.copies.tolist(), unit.microbatches.tolist(), strict=True)
                ]
                assert len(units) == len(set(units))
                assert set(units) == naive_afd_units(near, far)
