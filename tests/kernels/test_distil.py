"""Distillation against brute force: monotone fits, chords, stated errors."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from planner.kernels.distil import bends, distil, non_decreasing, segments

FloatArray = NDArray[np.float64]

TIMES = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=9).map(np.array)


def best_mean_error(time: FloatArray) -> float:
    """Least sum of |ln fit - ln time| over non-decreasing fits, by dynamic programming over the measured values.

    An optimal fit takes measured values only: a pool of equal fits can be shifted to a median of its rows for free.
    """
    logs = np.log(time)
    levels = np.sort(logs)
    cost = np.abs(levels - logs[0])
    for log in logs[1:]:
        cost = np.minimum.accumulate(cost) + np.abs(levels - log)
    return float(cost.min())


def fewest(x: FloatArray, time: FloatArray, error: float) -> int:
    """Fewest chords between rows that stay within the error of every row, by dynamic programming."""
    best = [0] + [x.size] * (x.size - 1)
    for j in range(1, x.size):
        for i in range(j):
            line = time[i] + (time[j] - time[i]) * (x[i : j + 1] - x[i]) / (x[j] - x[i])
            if np.max(np.abs(line / time[i : j + 1] - 1.0)) <= error + 1e-12:
                best[j] = min(best[j], best[i] + 1)
    return best[-1]


@given(TIMES)
def test_non_decreasing_fit_is_monotone_and_optimal(time: FloatArray) -> None:
    fitted = non_decreasing(time)
    assert fitted.shape == time.shape
    assert (np.diff(fitted) >= 0).all()
    assert np.abs(np.log(fitted / time)).sum() == pytest.approx(best_mean_error(time), abs=1e-9)


@given(TIMES)
def test_what_rises_already_is_kept(time: FloatArray) -> None:
    assert non_decreasing(np.sort(time)) == pytest.approx(np.sort(time))


def test_a_spike_moves_no_other_row() -> None:
    time = np.full(12, 0.01)
    time[[0, 4]] = 0.02
    assert non_decreasing(time) == pytest.approx(np.full(12, 0.01))


def rows(seed: int) -> tuple[FloatArray, FloatArray]:
    """A roofline with the steps of tiles and the scatter of measurements, made monotone."""
    rng = np.random.default_rng(seed)
    x = np.unique(np.concatenate((np.arange(1, 18), 2 ** np.arange(5, 13), 2 ** np.arange(5, 13) + 1))).astype(float)
    tiles = np.ceil(x / rng.choice([1, 64, 128]))
    floor, rise = rng.uniform(0.001, 0.1), rng.uniform(1e-4, 1e-2)
    time = (0.005 + np.maximum(floor, tiles * rise)) * rng.lognormal(0, 0.02, x.size)
    return x, non_decreasing(time)


@pytest.mark.parametrize("error", [0.005, 0.02, 0.1])
def test_chords_stay_within_the_error_and_are_the_fewest(error: float) -> None:
    for seed in range(20):
        x, time = rows(seed)
        knots = segments(x, time, error)
        assert knots[0] == 0
        assert knots[-1] == x.size - 1
        assert np.max(np.abs(np.interp(x, x[knots], time[knots]) / time - 1.0)) <= error + 1e-9
        assert len(knots) - 1 == fewest(x, time, error)


@settings(deadline=None)
@given(TIMES, st.floats(0.003, 0.3))
def test_chords_of_any_rows_are_the_fewest(time: FloatArray, error: float) -> None:
    x = np.arange(1.0, time.size + 1) ** 2
    knots = segments(x, time, error)
    assert np.max(np.abs(np.interp(x, x[knots], time[knots]) / time - 1.0)) <= error + 1e-9
    assert len(knots) - 1 <= fewest(x, time, error)


@given(TIMES, st.floats(0.003, 0.3))
def test_distil_holds_every_row_within_the_error(time: FloatArray, error: float) -> None:
    x = np.arange(1.0, time.size + 1)
    knots, times = distil(x, time, error=error)
    assert set(zip(knots, times, strict=True)) <= set(zip(x, time, strict=True))
    assert np.interp(x, knots, times) == pytest.approx(time, rel=error + 1e-9)


@given(st.lists(st.floats(-5.0, 5.0), min_size=1, max_size=6), st.integers(1, 5))
def test_bends_keep_the_line_and_leave_out_what_lies_on_it(slopes: list[float], parts: int) -> None:
    x = np.arange(0.0, len(slopes) * parts + 1)
    time = 100.0 + np.concatenate(([0.0], np.cumsum(np.repeat(slopes, parts))))
    kept, times = bends(x, time)
    assert np.interp(x, kept, times) == pytest.approx(time, rel=1e-7)
    corners = 1 + sum(abs(a - b) > 1e-3 for a, b in pairwise(slopes))
    assert kept.size >= corners + 1
    assert set(kept) <= set(x[::parts])
