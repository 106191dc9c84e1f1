"""Exact one-dimensional searches over integer batches, for many layouts at once.

Step times are subhomogeneous: t(b) / b never increases, because every kernel time is non-decreasing with
non-negative intercepts, and sums and maxima keep that. Therefore the rate b / t(b) never decreases in the batch, and
among the integer batches that meet every constraint the largest is at least as good as any other in rate, at the
same GPUs, cost and traffic. That is why one batch per layout and TTFT level represents them all (a brute-force test
over raw batches checks it).

Batches that do not divide evenly over `parts` (DP ranks x micro-batches) leave some parts fuller than others. Within
one class, batches with the same ceil(batch / parts), the statement holds as well; across classes it holds for full
multiples. So two batches can be best: the largest feasible full multiple, and the largest feasible batch of the class
above it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

GRIDS = (5, 24)
"""Points of the grids that bound rates before the search, the coarse one first."""

GRID = 12
"""Points of the coarse grid that finds the feasible stretch before bisection finds its end."""


def largest(feasible: Callable[[IntArray], BoolArray], upper: IntArray) -> IntArray:
    """Largest integer in [1, upper] at which `feasible` holds, per element; 0 where the grid finds none.

    Above the feasible stretch nothing is feasible again; below it there may be an infeasible start.

    Args:
        feasible: maps integers of shape (n, g) to truth values of that shape, row by row.
        upper: shape (n,), the largest candidates; 0 excludes an element.
    """
    low, high, found = _bracket(feasible, upper)
    while True:
        open_ = found & (high - low > 1)
        if not open_.any():
            break
        middle = (low + high) // 2
        good = feasible(np.maximum(middle, 1)[:, None])[:, 0] & open_
        low = np.where(good, middle, low)
        high = np.where(open_ & ~good, middle, high)
    return np.where(found, low, 0)


def _bracket(feasible: Callable[[IntArray], BoolArray], upper: IntArray) -> tuple[IntArray, IntArray, BoolArray]:
    top = int(upper.max(initial=0))
    if top < 1:
        return np.zeros_like(upper), np.zeros_like(upper), np.zeros(upper.shape, dtype=bool)
    shares = np.geomspace(1.0 / top, 1.0, GRID) if top > 1 else np.ones(1)
    grid = np.clip(np.rint(upper[:, None] * shares[None, :]), 1, None).astype(np.int64)
    good = feasible(grid) & (upper > 0)[:, None]
    found = good.any(axis=1)
    last = grid.shape[1] - 1 - np.argmax(good[:, ::-1], axis=1)
    rows = np.arange(upper.size)
    low = grid[rows, last]
    above = np.minimum(last + 1, grid.shape[1] - 1)
    high = np.where(last + 1 < grid.shape[1], grid[rows, above], upper + 1)
    return low, np.maximum(high, low + 1), found


def best_batches(feasible: Callable[[IntArray], BoolArray], upper: IntArray, parts: IntArray) -> IntArray:
    """The batches that can be best among all integers in [1, upper]: shape (n, 2), 0 where there is none.

    Args:
        feasible: as in `largest`.
        upper: shape (n,), largest batch that memory holds.
        parts: shape (n,), equal parts of the batch.
    """
    multiple = parts * largest(lambda q: feasible(q * parts[:, None]), upper // parts)
    rest = np.minimum(upper - multiple, parts - 1)
    above = largest(lambda r: feasible(multiple[:, None] + r), rest)
    return np.stack([multiple, np.where(above > 0, multiple + above, 0)], axis=1)


def batch_grid(cap: IntArray, parts: IntArray, points: int) -> IntArray:
    """A grid of batches for bounds: full multiples of `parts` up to `cap`, shape (n, points), ascending.

    The last point is `cap` itself, so that no batch lies beyond the grid.
    """
    multiples = np.maximum(cap // parts, 1)
    shares = np.arange(points) / (points - 1.0)
    grid = np.rint(multiples[:, None] ** shares[None, :]).astype(np.int64) * parts[:, None]
    grid[:, -1] = cap
    return np.minimum(grid, cap[:, None])
