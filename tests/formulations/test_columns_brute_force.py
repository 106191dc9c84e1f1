"""Every small instance: the optimum of `columns`, pruned and not, is that of plain enumeration."""

import pytest
from hypothesis import HealthCheck, given, settings

from formulations import columns
from tests.formulations.brute_force import optimum
from tests.formulations.instances import small

RELATIVE = 1e-7
"""The solver's tolerance on a row of coefficients around one, with room for a sum of ten."""

COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large]}


def compare(instance, prune: bool) -> None:
    problem, table = instance
    best = optimum(problem, table)
    found = columns.solve(problem, table, gap=0.0, prune=prune)
    if best is None:
        assert found.status == "infeasible"
        return
    assert found.status == "optimal"
    assert found.incumbent == pytest.approx(best, rel=RELATIVE, abs=RELATIVE)
    side = 1 if problem.sense == "maximize" else -1
    assert side * found.bound >= side * best - RELATIVE * max(abs(best), 1.0)
    assert side * found.bound >= side * found.incumbent


@settings(max_examples=200, **COMMON)
@given(small())
def test_optimum(instance):
    compare(instance, prune=False)
    compare(instance, prune=True)


@settings(max_examples=120, **COMMON)
@given(small(coupled=True))
def test_optimum_with_network_and_requests_in_flight(instance):
    compare(instance, prune=False)
    compare(instance, prune=True)
