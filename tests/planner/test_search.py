"""The batches that `best_batches` keeps contain the best of all integers."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.options.search import batch_of, best_batches, class_grid, classes, largest, last_full


def step_ms(batch, parts, fixed, slope):
    """A subhomogeneous step, set by the fullest part, and by all parts together."""
    return fixed + slope * np.ceil(batch / parts) + 0.3 * slope * batch / parts


@settings(max_examples=300, deadline=None)
@given(
    upper=st.integers(1, 400),
    parts=st.integers(1, 24),
    fixed=st.floats(0.1, 30),
    slope=st.floats(0.01, 5),
    tightness=st.floats(0.5, 20),
)
def test_best_of_all_integers(upper, parts, fixed, slope, tightness):
    limit = step_ms(1.0, parts, fixed, slope) * tightness
    batches = np.arange(1, upper + 1)
    times = step_ms(batches, parts, fixed, slope)
    rates = np.where(times <= limit, batches / times, 0.0)

    def feasible(slots):
        return step_ms(np.maximum(slots, 1), parts, fixed, slope) <= limit

    found = best_batches(feasible, np.array([upper]), np.array([parts]))[0]
    assert np.all(rates[found[found > 0] - 1] > 0)
    assert max((rates[batch - 1] for batch in found if batch), default=0.0) == rates.max()


@given(upper=st.integers(1, 1000), parts=st.integers(1, 64), points=st.integers(2, 30))
def test_grid_reaches_the_memory_limit_and_bounds_every_batch(upper, parts, points):
    caps, equal = np.array([upper]), np.array([parts])
    numbers = class_grid(caps, equal, points)
    assert np.all(np.diff(numbers[0]) >= 0)
    assert numbers[0, -1] == classes(caps, equal)[0]
    grid = batch_of(numbers, caps, equal)[0]
    assert grid[-1] == upper
    # Whatever the batch, the next grid point above it or the last full multiple serves at least as much.
    batches = np.arange(1, upper + 1)
    rates = batches / step_ms(batches, parts, 1.0, 0.7)
    full = rates[last_full(caps, equal)[0] - 1]
    for batch in batches:
        above = grid[grid >= batch][0]
        ceiling = max(rates[above - 1], full) if above == upper else rates[above - 1]
        assert rates[batch - 1] <= ceiling * (1 + 1e-12)


@given(st.integers(1, 500), st.integers(0, 500))
def test_largest(upper, end):
    assert largest(lambda x: x <= end, np.array([upper]))[0] == min(upper, end)
