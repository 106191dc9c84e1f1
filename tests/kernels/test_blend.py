"""Neighbours among measured grid points against closed forms."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from planner.kernels.blend import neighbours, reach

GRID = np.array([(n, k) for n in (64, 256, 4096) for k in (128, 512, 1024, 8192)], dtype=float)
HOLES = np.array([(64, 128), (64, 8192), (256, 512), (4096, 128), (4096, 1024)], dtype=float)

INSIDE = st.tuples(st.floats(64, 4096), st.floats(128, 8192))
ANYWHERE = st.tuples(st.floats(1, 1e6), st.floats(1, 1e6))


def blended(keys: NDArray[np.float64], query: tuple[float, float], values: NDArray[np.float64]) -> float:
    near = neighbours(keys, query)
    return float(np.dot(values[list(near.curves)], near.weights))


@given(ANYWHERE)
def test_weights_are_shares(query: tuple[float, float]) -> None:
    for keys in (GRID, HOLES):
        near = neighbours(keys, query)
        assert sum(near.weights) == pytest.approx(1.0)
        assert min(near.weights) >= 0.0
        assert len(set(near.curves)) == len(near.curves) <= 4
        assert near.outside >= 1.0


@pytest.mark.parametrize("keys", [GRID, HOLES])
def test_a_measured_point_is_its_own_neighbour(keys: NDArray[np.float64]) -> None:
    for index, key in enumerate(keys):
        near = neighbours(keys, key.tolist())
        assert (near.curves, near.weights, near.outside) == ((index,), (1.0,), 1.0)


@given(INSIDE, st.floats(-3, 3), st.floats(-3, 3), st.floats(-3, 3))
def test_inside_a_grid_what_is_linear_in_the_logarithms_is_met(
    query: tuple[float, float], a: float, b: float, c: float
) -> None:
    logs = np.log(GRID)
    expected = a + b * np.log(query[0]) + c * np.log(query[1])
    assert blended(GRID, query, a + b * logs[:, 0] + c * logs[:, 1]) == pytest.approx(expected, abs=1e-6)
    assert neighbours(GRID, query).outside == 1.0


@given(ANYWHERE)
def test_outside_the_edge_holds(query: tuple[float, float]) -> None:
    edge = (min(max(query[0], 64.0), 4096.0), min(max(query[1], 128.0), 8192.0))
    values = np.random.default_rng(0).uniform(0.1, 1.0, len(GRID))
    assert blended(GRID, query, values) == pytest.approx(blended(GRID, edge, values))
    factors = [max(wanted / held, held / wanted) for wanted, held in zip(query, edge, strict=True)]
    assert neighbours(GRID, query).outside == pytest.approx(max(factors))


@given(st.sampled_from([64.0, 256.0, 4096.0]), st.floats(128, 8192), st.sampled_from([-1e-7, 1e-7]))
def test_crossing_a_grid_line_makes_no_jump(n: float, k: float, step: float) -> None:
    values = np.random.default_rng(1).uniform(0.1, 1.0, len(GRID))
    assert blended(GRID, (n * (1 + step), k), values) == pytest.approx(blended(GRID, (n, k), values), abs=1e-5)


def test_few_measurements_among_longer_ones_with_more_leave_no_hole() -> None:
    points, last = np.array([1.0, 4.0, 8.0, 16.0]), np.array([64.0, 1.0, 16.0, 4.0])
    assert reach(points, last, [0.5, 1.0, 2.0, 4.0, 8.0, 64.0]) == pytest.approx([64.0, 64.0, 32.0, 16.0, 16.0, 4.0])


def test_an_axis_may_hold_zero() -> None:
    keys = np.array([[0.0], [1024.0]])
    assert neighbours(keys, [0.0]).curves == (0,)
    assert neighbours(keys, [0.0]).outside == 1.0
    assert sum(neighbours(keys, [512.0]).weights) == pytest.approx(1.0)


def test_next_to_zero_is_like_zero() -> None:
    keys = np.array([[0.0], [2048.0]])
    for query, share in ((1e-6, 0.0), (1.0, 1 / 2048), (512.0, 0.25), (2047.0, 2047 / 2048)):
        near = neighbours(keys, [query])
        assert dict(zip(near.curves, near.weights, strict=True))[1] == pytest.approx(share, abs=1e-8)
