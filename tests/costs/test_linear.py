"""Piecewise-linear functions against direct evaluation, and the fit against a dynamic programme."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.costs.linear import FloatArray, PiecewiseLinear, Watch, affine, constant, fit, roofline, tamed, total

AT = np.concatenate(([0.0], np.geomspace(1e-3, 1e4, 400)))
coefficients = st.floats(0.0, 100.0).map(lambda value: round(value, 3))
lines = st.lists(st.tuples(coefficients, coefficients), min_size=1, max_size=7)


@given(intercept=coefficients, lines=lines)
def test_a_roofline_is_the_maximum_of_its_lines(intercept: float, lines: list[tuple[float, float]]) -> None:
    expected = intercept + np.max([a + b * AT for a, b in lines], axis=0)
    np.testing.assert_allclose(roofline(intercept, lines)(AT), expected, rtol=1e-9, atol=1e-9)


@given(first=lines, second=lines, factor=st.floats(0.1, 10.0), stretch=st.floats(0.1, 10.0))
def test_sum_and_scale_act_pointwise(
    first: list[tuple[float, float]], second: list[tuple[float, float]], factor: float, stretch: float
) -> None:
    f, g = roofline(1.0, first), roofline(0.5, second)
    np.testing.assert_allclose(total([f, g, constant(2.0), affine(1.0, 3.0)])(AT), f(AT) + g(AT) + 3 + 3 * AT)
    np.testing.assert_allclose(f.scaled(factor, stretch=stretch)(AT), factor * f(stretch * AT), rtol=1e-9)


def test_watches_learn_the_largest_argument_through_what_is_made_of_a_function() -> None:
    alone, scaled, unused = Watch(), Watch(), Watch()
    f = affine(1.0, 2.0)
    made = total([f.watched(alone), f.watched(scaled).scaled(3.0, stretch=0.5), f.watched(unused).scaled(0.0)])
    assert (alone.largest, scaled.largest) == (0.0, 0.0)  # making it asks nothing
    np.testing.assert_allclose(made(AT), f(AT) + 3.0 * f(0.5 * AT))
    made(1.0)
    assert (alone.largest, scaled.largest, unused.largest) == (AT.max(), 0.5 * AT.max(), 0.0)


def test_an_empty_sum_is_zero() -> None:
    assert not total([])(AT).any()


CONCAVE: dict[str, Callable[[FloatArray], FloatArray]] = {
    "square root": lambda x: np.sqrt(x),
    "saturating": lambda x: 5.0 + 100.0 * (1.0 - np.exp(-x / 700.0)),
    "activated experts": lambda x: 3.0 + 256.0 * (1.0 - (1.0 - 8.0 / 256.0) ** x) + 1e-3 * x,
    "logarithm": lambda x: 1.0 + np.log1p(x),
}


@pytest.mark.parametrize("name", CONCAVE)
def test_a_fit_stays_within_its_error_and_says_it(name: str) -> None:
    function = CONCAVE[name]
    fitted = fit(function, low=1.0, high=1e6)
    at = np.geomspace(1.0, 1e6, 5000)
    worst = np.max(np.abs(fitted(at) / function(at) - 1.0))
    # Between two points of the fit's own grid (9% apart) a concave function leaves its chord by less than 0.1%.
    assert worst <= 0.011
    assert fitted.error <= 0.01
    assert worst <= fitted.error + 0.001
    assert (np.diff(fitted(AT)) >= 0.0).all()
    assert (np.diff(fitted(AT[1:]) / AT[1:]) <= 1e-12).all()


def fewest_chords(function: Callable[[FloatArray], FloatArray], grid: FloatArray, error: float) -> int:
    """Shortest path over all chords between grid points that stay within the error at every grid point."""
    values = function(grid)
    best = [0] + [len(grid)] * (len(grid) - 1)
    for j in range(1, len(grid)):
        for i in range(j):
            share = (grid[i : j + 1] - grid[i]) / (grid[j] - grid[i])
            chord = values[i] + share * (values[j] - values[i])
            if np.max(np.abs(chord / values[i : j + 1] - 1.0)) <= error:
                best[j] = min(best[j], best[i] + 1)
    return best[-1]


@pytest.mark.parametrize("name", CONCAVE)
def test_a_fit_has_the_fewest_chords(name: str) -> None:
    fitted = fit(CONCAVE[name], low=1.0, high=1e6)
    chords = fitted.x.size - 2  # the first knot at 0 continues the value at `low`
    assert chords == fewest_chords(CONCAVE[name], np.unique(np.geomspace(1.0, 1e6, 161)), 0.01)


@settings(max_examples=50)
@given(steps=st.lists(st.floats(-1.0, 3.0), min_size=5, max_size=40))
def test_a_fit_of_anything_is_monotone(steps: list[float]) -> None:
    knots = np.geomspace(1.0, 1000.0, len(steps))
    values = np.maximum(1.0 + np.cumsum(steps), 0.1)
    fitted = fit(lambda x: np.interp(x, knots, values), low=1.0, high=1000.0)
    assert (np.diff(fitted(AT)) >= -1e-12).all()


def test_a_function_continues_with_its_last_slope() -> None:
    f = PiecewiseLinear(np.array([0.0, 2.0]), np.array([1.0, 3.0]), 0.5)
    assert f(6.0) == pytest.approx(5.0)


@st.composite
def measured(draw: st.DrawFn) -> PiecewiseLinear:
    """What a table may answer: any positive times."""
    gaps = draw(st.lists(st.floats(0.05, 100.0), min_size=1, max_size=7))
    logs = draw(st.lists(st.floats(-3.0, 3.0), min_size=len(gaps) + 1, max_size=len(gaps) + 1))
    x = np.concatenate(([0.0], np.cumsum(gaps)))
    return PiecewiseLinear(x, np.exp(logs), draw(st.floats(0.0, 10.0)))


def obeys(time: PiecewiseLinear) -> bool:
    """Whether more work takes no less and at most in proportion, at knots and between and beyond them."""
    at = np.unique(np.concatenate((AT[1:], time.x[1:])))
    value = time(at)
    return bool(
        (np.diff(value) >= -1e-12 * value[1:]).all() and (np.diff(value / at) <= 1e-12 * (value / at)[1:]).all()
    )


@given(time=measured())
def test_a_tamed_function_neither_falls_nor_rises_more_than_in_proportion(time: PiecewiseLinear) -> None:
    after = tamed(time)
    assert obeys(after)
    np.testing.assert_array_equal(after.x, time.x)
    assert after.slope <= time.slope


def nearest_error(time: PiecewiseLinear) -> float:
    """Smallest possible largest |log ratio| at the knots, by bisection.

    An error is possible where a path through the knots' bands of that half-width exists whose steps neither fall nor
    exceed the steps of log x; the values that paths reach at a knot are an interval.
    """
    steps, logs = np.diff(np.log(time.x[1:])), np.log(time.y[1:])

    def possible(error: float) -> bool:
        low, high = logs[0] - error, logs[0] + error
        for step, wanted in zip(steps, logs[1:], strict=True):
            low, high = max(low, wanted - error), min(high + step, wanted + error)
            if low > high:
                return False
        return True

    below, above = 0.0, float(np.ptp(logs))
    if possible(0.0):
        return 0.0
    for _ in range(60):
        middle = 0.5 * (below + above)
        below, above = (below, middle) if possible(middle) else (middle, above)
    return above


@settings(max_examples=60, deadline=None)
@given(time=measured())
def test_no_function_of_that_kind_is_nearer(time: PiecewiseLinear) -> None:
    error = np.max(np.abs(np.log(tamed(time).y[1:] / time.y[1:])))
    assert error == pytest.approx(nearest_error(time), abs=1e-7)


def test_a_tamed_step_and_a_tamed_dip_are_shared_between_both_sides() -> None:
    # Twice the work for eight times the time: both sides give way by a factor of 2, so that it doubles.
    step = tamed(PiecewiseLinear(np.array([0.0, 1.0, 2.0]), np.array([1.0, 1.0, 8.0]), 0.0))
    np.testing.assert_allclose(step.y, [1.0, 2.0, 4.0])
    # A fall to a ninth: both sides meet at the geometric mean.
    dip = tamed(PiecewiseLinear(np.array([0.0, 1.0, 2.0]), np.array([9.0, 9.0, 1.0]), 5.0))
    np.testing.assert_allclose(dip.y, [3.0, 3.0, 3.0])
    assert dip.slope == pytest.approx(1.5)  # no more than in proportion beyond the last knot either


@given(intercept=st.floats(0.01, 100.0), lines=lines)
def test_a_function_that_obeys_stays_as_it_is(intercept: float, lines: list[tuple[float, float]]) -> None:
    # A maximum of lines with a >= 0 obeys.
    time = roofline(intercept, lines)
    assert obeys(time)
    after = tamed(time)
    np.testing.assert_allclose(after.y, time.y, rtol=1e-12)
    assert after.slope == pytest.approx(time.slope, rel=1e-12)
    assert after.error == time.error


@given(time=measured())
def test_taming_twice_changes_nothing_more(time: PiecewiseLinear) -> None:
    once = tamed(time)
    twice = tamed(once)
    np.testing.assert_allclose(twice.y, once.y, rtol=1e-12)
    assert twice.slope == pytest.approx(once.slope, rel=1e-12)
