"""Where a query lies among the measured grid points of a table, and how far outside of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Neighbours:
    """Measured curves around a query.

    Args:
        curves: indices of curves.
        weights: their weights, adding up to 1.
        outside: factor by which the query lies outside the measured keys on the worst axis; 1.0 inside.
    """

    curves: tuple[int, ...]
    weights: tuple[float, ...]
    outside: float


def neighbours(keys: FloatArray, query: Sequence[float]) -> Neighbours:
    """Multilinear weights in the logarithms of the axes, axis by axis; between 0 and the next value in the axis itself.

    On the first axis the nearest measured values below and above bracket the query; within each of them the next axis
    is bracketed among the keys measured there, so that a grid with holes is handled. Outside the measured range the
    nearest value holds.

    Args:
        keys: measured points, shape (c, d), positive or 0.
        query: coordinates, length d.
    """
    found: dict[int, float] = {}
    outside = 1.0
    stack: list[tuple[NDArray[np.intp], int, float]] = [(np.arange(keys.shape[0]), 0, 1.0)]
    while stack:
        rows, axis, weight = stack.pop()
        if axis == keys.shape[1]:
            found[int(rows[0])] = found.get(int(rows[0]), 0.0) + weight
            continue
        values = np.unique(keys[rows, axis])
        wanted = float(query[axis])
        if wanted <= values[0] or wanted >= values[-1]:
            end = values[0] if wanted <= values[0] else values[-1]
            if wanted != end:
                outside = max(outside, (wanted + _FLOOR) / (end + _FLOOR), (end + _FLOOR) / (wanted + _FLOOR))
            stack.append((rows[keys[rows, axis] == end], axis + 1, weight))
            continue
        above = int(np.searchsorted(values, wanted))
        if values[above] == wanted:
            stack.append((rows[keys[rows, axis] == wanted], axis + 1, weight))
            continue
        low, high = float(values[above - 1]), float(values[above])
        share = np.log(wanted / low) / np.log(high / low) if low > 0.0 else wanted / high
        stack.append((rows[keys[rows, axis] == low], axis + 1, weight * (1.0 - share)))
        stack.append((rows[keys[rows, axis] == high], axis + 1, weight * share))
    return Neighbours(tuple(found), tuple(found.values()), outside)


def reach(points: FloatArray, last: FloatArray, at: ArrayLike) -> FloatArray:
    """Values of the variable up to which curves along one axis were measured, a power law between points.

    Memory lets longer contexts and prompts be measured with fewer sequences only. What was measured at a longer one
    also bounds the shorter ones, so that a point with few measurements among others leaves no hole.

    Args:
        points: of the axis, ascending and positive, shape (g,).
        last: last measured value of the variable at each, shape (g,).
        at: where to tell; beyond the ends the nearest point holds.
    """
    furthest = np.maximum.accumulate(last[::-1])[::-1]
    within = np.clip(at, points[0], points[-1])
    return np.asarray(np.exp(np.interp(np.log(within), np.log(points), np.log(furthest))))


_FLOOR = 1e-9
"""Keeps the factor between 0 (context before the first chunk) and any other value finite."""
