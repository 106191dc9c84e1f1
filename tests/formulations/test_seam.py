"""The seam to HiGHS, on programs solved by hand."""

from math import inf, isnan, nan

import numpy as np
import pytest
from pyomo.core import ConcreteModel, Constraint, NonNegativeIntegers, NonNegativeReals, Objective, Var, maximize

from formulations import seam


def knapsack(capacity: float = 10.0):
    """Max 5 a + 4 b + c: 3 a + 2 b <= capacity, c <= 0.5; a, b integer."""
    model = ConcreteModel()
    model.vA = Var(domain=NonNegativeIntegers)
    model.vB = Var(domain=NonNegativeIntegers, bounds=(0, 3))
    model.vC = Var(domain=NonNegativeReals)
    model.cWeight = Constraint(expr=3 * model.vA + 2 * model.vB + 1 <= capacity + 1)
    model.cCap = Constraint(expr=model.vC <= 0.5)
    model.eObjective = Objective(expr=5 * model.vA + 4 * model.vB + model.vC + 7, sense=maximize)
    return model


def test_extract():
    form = seam.extract(knapsack())
    assert form.shape == (2, 3)
    assert form.cost.tolist() == [5, 4, 1]
    assert form.offset == 7
    assert form.integer.tolist() == [True, True, False]
    assert form.row_upper.tolist() == [10, 0.5]
    assert form.col_upper.tolist() == [inf, 3, inf]
    dense = np.zeros(form.shape)
    for column in range(3):
        entries = slice(form.start[column], form.start[column + 1])
        dense[form.index[entries], column] = form.value[entries]
    assert dense.tolist() == [[3, 2, 0], [0, 0, 1]]


def test_nonlinear_rows_and_missing_objectives_are_refused():
    model = knapsack()
    model.cSquare = Constraint(expr=model.vA * model.vB <= 1)
    with pytest.raises(ValueError, match="cSquare is not linear"):
        seam.extract(model)
    model.del_component("cSquare")
    model.eObjective.deactivate()
    with pytest.raises(ValueError, match="exactly one objective"):
        seam.extract(model)


def test_integer_and_linear_optimum():
    form = seam.extract(knapsack())
    result = seam.solve(form, gap=0.0)
    # b = 3 (12) leaves 4: a = 1 (5); a = 2, b = 2 gives 18.
    assert result.status == "optimal"
    assert result.incumbent == pytest.approx(18 + 0.5 + 7)
    assert result.values[:2].tolist() == [2, 2]
    assert result.bound >= result.incumbent
    linear = seam.relax(form)
    assert linear.incumbent == pytest.approx(12 + 4 * 5 / 3 + 0.5 + 7)
    assert linear.row_activity == pytest.approx([10, 0.5])
    assert linear.row_dual == pytest.approx([5 / 3, 1])


def test_infeasible_and_unbounded_are_statuses():
    infeasible = seam.solve(seam.extract(knapsack(-1)))
    assert infeasible.status == "infeasible"
    assert isnan(infeasible.incumbent)
    model = knapsack()
    model.cWeight.deactivate()
    assert seam.solve(seam.extract(model)).status == "unbounded"


def test_start_is_taken_whole_or_in_part():
    form = seam.extract(knapsack())
    for start in (np.array([1.0, 3.0, nan]), {0: 1.0, 1: 3.0}):
        seen: list[float] = []
        result = seam.solve(
            form, gap=0.0, start=start, progress=lambda best, bound, seconds, into=seen: into.append(best)
        )
        assert result.incumbent == pytest.approx(25.5)


def test_time_limit_without_incumbent():
    rng = np.random.default_rng(3)
    model = ConcreteModel()
    model.vX = Var(range(60), domain=NonNegativeIntegers, bounds=(0, 1))
    weights = rng.integers(1000, 9999, (8, 60))
    model.cSum = Constraint(range(8))
    for row in range(8):
        total = sum(int(weights[row, i]) * model.vX[i] for i in range(60))
        model.cSum.add(row, (int(weights[row].sum() // 2), total, int(weights[row].sum() // 2)))
    model.eObjective = Objective(expr=model.vX[0], sense=maximize)
    result = seam.solve(seam.extract(model), time_limit_s=0.05)
    assert result.status == "time_limit"
    assert not len(result.values)


def test_irreducible_infeasible_set_names_the_rows_in_conflict():
    model = knapsack()
    model.cNeed = Constraint(expr=model.vA + model.vB >= 6)
    model.cIdle = Constraint(expr=model.vB <= 100)
    assert seam.irreducible_infeasible_set(seam.extract(model)) == ("cWeight", "cNeed")
    assert seam.irreducible_infeasible_set(seam.extract(knapsack())) == ()


@pytest.mark.parametrize(
    ("sense", "incumbent", "bound", "expected"),
    [
        ("maximize", 10.0, 11.0, (11.0, 0.1)),
        ("maximize", 10.0, 9.0, (10.0, 0.0)),
        ("minimize", 10.0, 9.0, (9.0, 0.1)),
        ("minimize", 10.0, nan, (-inf, inf)),
        ("maximize", 0.0, 1.0, (1.0, inf)),
    ],
)
def test_a_bound_is_never_on_the_wrong_side(sense, incumbent, bound, expected):
    assert seam.safe_bound(sense, incumbent, bound) == pytest.approx(expected)
