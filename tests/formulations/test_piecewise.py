"""`piecewise` against enumeration with its own closed form, and against `columns`."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from formulations import columns, piecewise
from formulations.piecewise import CurveTable
from formulations.table import Role
from tests.formulations.brute_force import curve_options, optimum
from tests.formulations.instances import problem, small_with_curves, table

RELATIVE = 1e-7


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(small_with_curves())
def test_optimum(instance):
    made, options, curves = instance
    best = optimum(made, options, curve_options(options, curves))
    for prune in (False, True):
        found = piecewise.solve(made, options, curves, gap=0.0, prune=prune)
        if best is None:
            assert found.status == "infeasible"
            continue
        assert found.status == "optimal"
        assert found.incumbent == pytest.approx(best, rel=RELATIVE, abs=RELATIVE)
        side = 1 if made.sense == "maximize" else -1
        assert side * found.bound >= side * best - RELATIVE * max(abs(best), 1.0)


def decode_curve(low: float = 1.0) -> CurveTable:
    """One decode layout of 8 GPUs: 10 ms + 0.5 ms per request up to 16, then 2 ms + 1 ms per request up to 20.5."""
    return CurveTable(
        service=np.array([0]),
        mode=np.array([1]),
        role=np.array([int(Role.DECODE)]),
        level=np.array([0]),
        items=np.array([[1]]),
        cost=np.zeros(1),
        traffic_gbyte=np.zeros((1, 1)),
        residency_s=np.zeros(1),
        label=np.zeros(1, dtype=np.int64),
        steps_per_request=np.array([100.0]),
        segment_curve=np.array([0, 0]),
        batch_low=np.array([low, 16.0]),
        batch_high=np.array([16.0, 20.5]),
        piece_segment=np.array([0, 1]),
        alpha_s=np.array([0.010, 0.002]),
        beta_s=np.array([0.0005, 0.001]),
    )


PREFILL = table([{"mode": 1, "role": int(Role.PREFILL), "rate": 10.0, "items": {(0, 8): 1}}])


def test_fractional_batch_is_worth_what_the_curve_says():
    continuous = piecewise.solve(problem(), PREFILL, decode_curve(), gap=0.0)
    batches = np.arange(1, 21)
    step = np.where(batches <= 16, 0.010 + 0.0005 * batches, 0.002 + 0.001 * batches)
    rows = [{"mode": 1, "role": 1, "rate": 10.0, "items": {(0, 8): 1}}]
    rows += [
        {"mode": 1, "role": 2, "rate": float(b / t / 100), "items": {(0, 8): 1}}
        for b, t in zip(batches, step, strict=True)
    ]
    integer = columns.solve(problem(), table(rows), gap=0.0)
    # 4 prefill at 10/s bind neither: 4 decode serve 4 x 20.5 / 22.5 ms / 100 tokens against 4 x 20 / 22 ms / 100.
    assert integer.incumbent == pytest.approx(4 * 20 / 0.022 / 100)
    assert continuous.incumbent == pytest.approx(4 * 20.5 / 0.0225 / 100)
    assert continuous.incumbent > integer.incumbent
    (segment,) = continuous.segments.values()
    assert segment.batch == pytest.approx(20.5)
    assert segment.replicas == 4
    assert segment.tokens_per_s == pytest.approx(segment.steps_per_s * segment.batch)


def test_best_batch_lies_where_pieces_cross():
    # t = max(1 + b, 4): b / t rises to b = 3 (3/4), and 1 + b keeps rising towards 1, so the end 10 wins (10/11);
    # t = max(4, -2 + 2 b): rises to b = 3, then falls.
    curves = decode_curve()
    crossing = CurveTable(
        **{
            **{name: getattr(curves, name) for name in curves.__dataclass_fields__},
            "segment_curve": np.array([0, 0]),
            "batch_low": np.array([1.0, 1.0]),
            "batch_high": np.array([10.0, 10.0]),
            "piece_segment": np.array([1, 0, 1, 0]),
            "alpha_s": np.array([4.0, 4.0, -2.0, 1.0]),
            "beta_s": np.array([0.0, 0.0, 2.0, 1.0]),
        }
    )
    assert piecewise.best_batch(crossing).tolist() == [10.0, 3.0]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("batch_low", np.array([1.0, 21.0]), "batch_low <= batch_high"),
        ("steps_per_request", np.array([0.0]), "steps_per_request"),
        ("piece_segment", np.array([0, 0]), "every segment needs a piece"),
        ("alpha_s", np.array([-1.0, 0.1]), "step time"),
    ],
)
def test_refuses_curves_without_meaning(field, value, message):
    curves = decode_curve()
    given = {name: getattr(curves, name) for name in curves.__dataclass_fields__}
    with pytest.raises(ValueError, match=message):
        CurveTable(**{**given, field: value})
