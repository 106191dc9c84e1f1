"""Exact one-dimensional searches over integer batches, for many layouts at once.

Step times are subhomogeneous: t(b) / b never increases, because every kernel time is non-decreasing with
non-negative intercepts, and sums and maxima keep that. Therefore the rate b / t(b) never decreases in the batch, and
among the integer batches that meet every constraint the largest is at least as good as any other in rate, at the
same GPUs, cost and traffic. That is why one batch per layout and TTFT level represents them all (a brute-force test
over raw batches checks it).

Batches that do not divide evenly over `parts` (DP ranks x micro-batches) leave some parts fuller than others. Within
one class, batches with the same ceil(batch / parts), the statement holds as well; across classes it holds for full
multiples. So two batches can be best: the largest feasible full multiple, and the largest feasible batch of the class
above it. The last class may end at the memory's limit before it is full: then the full multiple below it is a third.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

BOUND_POINTS = 24
"""Points of the grid that bounds the rates of decode servers before their search."""

NARROWINGS = (9, 4, 4, 4)
"""Points by which the bracket around the best batch is narrowed, with a pruning by bounds after each time."""

SECTIONS = 8
"""Sections into which a bracket is cut at a time: a round costs much the same for seven points as for one."""

GRID = 12
"""Points of the coarse grid that finds the feasible stretch before bisection finds its end."""


def largest(
    feasible: Callable[[IntArray], BoolArray], upper: IntArray, bracket: tuple[IntArray, IntArray] | None = None
) -> IntArray:
    """Largest integer in [1, upper] at which `feasible` holds, per element; 0 where there is none.

    Above the feasible stretch nothing is feasible again. Below it there may be an infeasible start (with few slots
    the wait for one is long); a coarse grid finds the stretch, and misses one that lies between two of its points.

    Args:
        feasible: maps integers of shape (n, g) to truth values of that shape, row by row.
        upper: shape (n,), the largest candidates; 0 excludes an element.
        bracket: (feasible or 0, infeasible or upper + 1) where that is known already.
    """
    low, high = bracket if bracket is not None else _bracket(feasible, upper)
    shares = np.arange(1, SECTIONS) / SECTIONS
    while (high - low > 1).any():
        inside = low[:, None] + np.rint((high - low)[:, None] * shares).astype(np.int64)
        # Where a bracket is closed already both ends of the clip are `low`, which changes nothing.
        grid = np.minimum(np.maximum(inside, low[:, None] + 1), high[:, None] - 1)
        good = feasible(np.maximum(grid, 1)) & (grid >= 1)
        low = np.where(good, grid, low[:, None]).max(axis=1)
        high = np.where(grid > low[:, None], grid, high[:, None]).min(axis=1)
    return low


def _bracket(feasible: Callable[[IntArray], BoolArray], upper: IntArray) -> tuple[IntArray, IntArray]:
    top = int(upper.max(initial=0))
    if top < 1:
        return np.zeros_like(upper), np.ones_like(upper)
    shares = np.geomspace(1.0 / top, 1.0, GRID) if top > 1 else np.ones(1)
    grid = np.clip(np.rint(upper[:, None] * shares[None, :]), 1, None).astype(np.int64)
    return around(grid, feasible(grid) & (upper > 0)[:, None], upper)


def around(grid: IntArray, good: BoolArray, upper: IntArray) -> tuple[IntArray, IntArray]:
    """The last feasible point of each row of an ascending grid (0 if none) and the one after it (else upper + 1)."""
    columns = grid.shape[1]
    last = np.where(good.any(axis=1), columns - 1 - np.argmax(good[:, ::-1], axis=1), -1)
    rows = np.arange(upper.size)
    low = np.where(last >= 0, grid[rows, np.maximum(last, 0)], 0)
    high = np.where(last + 1 < columns, grid[rows, np.minimum(last + 1, columns - 1)], upper + 1)
    return low, np.maximum(high, low + 1)


def classes(upper: IntArray, parts: IntArray) -> IntArray:
    """Number of classes (see above) that batches up to `upper` fall into."""
    return np.asarray(-(-upper // parts))


def batch_of(number: IntArray, upper: IntArray, parts: IntArray) -> IntArray:
    """Largest batch of a class: a full multiple of `parts`, or `upper` in the last one. Rows broadcast over columns."""
    return np.asarray(np.minimum(number * parts[:, None], upper[:, None]))


def best_batches(
    feasible: Callable[[IntArray], BoolArray],
    upper: IntArray,
    parts: IntArray,
    bracket: tuple[IntArray, IntArray] | None = None,
) -> IntArray:
    """The batches that can be best among all integers in [1, upper]: shape (n, 3), 0 where there is none.

    Args:
        feasible: as in `largest`; asked of 0 as well, whose answer does not matter.
        upper: shape (n,), largest batch that memory holds.
        parts: shape (n,), equal parts of the batch.
        bracket: bracket of the class number where that is known already.
    """
    number = largest(lambda q: feasible(batch_of(q, upper, parts)), classes(upper, parts), bracket)
    full = np.where(number > 0, batch_of(number[:, None], upper, parts)[:, 0], 0)
    rest = np.minimum(upper - full, parts - 1)
    above = largest(lambda r: feasible(full[:, None] + r), rest)
    below = np.where(full % parts > 0, full // parts * parts, 0)
    below = np.where(feasible(below[:, None])[:, 0], below, 0)
    return np.stack([full, np.where(above > 0, full + above, 0), below], axis=1)


def last_full(upper: IntArray, parts: IntArray) -> IntArray:
    """Largest full multiple below the last class, 1 where there is none: the one batch that may beat `upper`."""
    return np.asarray(np.maximum((classes(upper, parts) - 1) * parts, 1))


def class_grid(upper: IntArray, parts: IntArray, points: int) -> IntArray:
    """Class numbers from 1 to the last one, geometrically spaced, shape (n, points), ascending."""
    shares = np.arange(points) / (points - 1.0)
    return np.rint(classes(upper, parts)[:, None] ** shares[None, :]).astype(np.int64)
