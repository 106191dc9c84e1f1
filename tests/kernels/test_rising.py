"""Curves read together, against the definition of the nearest monotone fit."""

from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray

from planner.kernels.curves import CurveSet, Origin
from planner.kernels.rising import monotone, rising_together

FloatArray = NDArray[np.float64]

ORIGIN = Origin("fabricated", "vllm", "1", 1, 0.0, 0.0, 0, 0.0, 0)
CONTEXTS: FloatArray = 2.0 ** np.arange(7.0, 14.0)
BATCHES: FloatArray = 2.0 ** np.arange(9.0)


def law(context: float, batch: FloatArray) -> FloatArray:
    return np.asarray(0.02 + batch * (2e-4 + 3e-7 * context))


def table(noise: float = 0.0, seed: int = 0) -> CurveSet:
    """Decode steps of two head counts, the second twice as slow; longer contexts were measured at fewer batches."""
    rng = np.random.default_rng(seed)
    curves = []
    for heads, context in product((16.0, 32.0), CONTEXTS):
        batch = BATCHES[BATCHES * context <= 65536]
        time = heads / 16.0 * law(context, batch) * np.exp(rng.uniform(-noise, noise, batch.size))
        curves.append(((heads, context), batch, time))
    return CurveSet.of("a.b", ("heads", "context"), "sequences", curves, ORIGIN)


def test_monotone_fit_is_the_nearest() -> None:
    rng = np.random.default_rng(7)
    grid = np.array(list(product(range(5), range(6))), dtype=float)
    times = np.exp(0.2 * grid.sum(axis=1) + rng.normal(0.0, 0.05, len(grid)))
    fit = monotone(grid, times)
    assert fit.kept.all()
    below = np.all(grid[:, None] <= grid[None], axis=2)
    worst = max(
        0.5 * np.log(times[i] / times[j]) for i, j in zip(*np.nonzero(below), strict=True)
    )  # no monotone function can be nearer to both ends of the worst contradicting pair
    assert np.abs(np.log(fit.time_ms / times)).max() == pytest.approx(worst)
    assert all(fit.time_ms[i] <= fit.time_ms[j] * (1 + 1e-12) for i, j in zip(*np.nonzero(below), strict=True))


def test_what_rises_is_read_as_it_is_stored() -> None:
    made = table()
    read = rising_together(made, np.flatnonzero(made.keys[:, 0] == 32.0))
    assert read.keys.tolist() == [[32.0, context] for context in CONTEXTS]
    for curve, context in enumerate(CONTEXTS):
        batch = BATCHES[BATCHES * context <= 65536]
        assert read.at(curve, batch) == pytest.approx(2.0 * law(context, batch))


@pytest.mark.parametrize("seed", range(5))
def test_disturbed_times_rise_in_context_and_sequences(seed: int) -> None:
    made = table(noise=0.1, seed=seed)
    which = np.flatnonzero(made.keys[:, 0] == 16.0)
    read = rising_together(made, which)
    assert len(read.keys) == len(which)
    batch = np.geomspace(1.0, 8.0, 50)  # all contexts were measured there
    times = np.array([read.at(curve, batch) for curve in range(len(which))])
    assert (np.diff(times, axis=0) >= -1e-12).all()
    assert (np.diff(times, axis=1) >= -1e-12).all()
    # No fit is further from any row than the rows are from each other.
    for curve, own in enumerate(which.tolist()):
        x, time = made.knots(own)
        assert read.at(curve, x) == pytest.approx(time, rel=0.11)


def test_a_curve_that_contradicts_all_others_is_left_out() -> None:
    curves = [
        ((16.0, context), BATCHES, law(context, BATCHES) * (50.0 if context == 512 else 1.0)) for context in CONTEXTS
    ]
    made = CurveSet.of("a.b", ("heads", "context"), "sequences", curves, ORIGIN)
    read = rising_together(made, np.arange(len(CONTEXTS)))
    assert read.keys[:, 1].tolist() == [context for context in CONTEXTS.tolist() if context != 512]
    assert read.at(3, 4.0) == pytest.approx(law(2048, np.array(4.0)))
