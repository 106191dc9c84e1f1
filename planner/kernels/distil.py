"""Distillation: measured rows of one curve into the fewest linear segments, with a stated error; and rising fits.

Rows are stored as they were measured, so that a table's error is that of its chords. Times that fall while the problem
grows (noise, tiles, kernels that change) are smoothed where a table is read (`planner.kernels.curves.CurveSet.rising`,
`planner.kernels.rising`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

FLAG_ERROR = 0.15
"""Rows whose error exceeds this are counted and flagged."""

STRAIGHT = 1e-9
"""Relative deviation from the chord between its neighbours below which a point is no bend."""


def non_decreasing(time_ms: FloatArray) -> FloatArray:
    """The non-decreasing sequence nearest to `time_ms` in the mean relative error (of the logarithms).

    Measurements carry one-sided spikes (a disturbed run takes twice as long) and dips at tile edges. The mean absolute
    error lets the majority of neighbouring rows decide; a mean would follow the spikes by their size, and the largest
    error by half of it. Pooling adjacent violators with the lower median of each pool is exact for it (Best,
    Chakravarti, Ubhaya, Minimizing separable convex functions subject to simple chain constraints, SIAM J. Optim. 10).
    """
    pools: list[list[float]] = []
    medians: list[float] = []
    for value in time_ms.tolist():  # medians need no logarithms
        pool, median = [value], value
        while medians and medians[-1] > median:
            medians.pop()
            pool = sorted(pools.pop() + pool)
            median = pool[(len(pool) - 1) // 2]
        pools.append(pool)
        medians.append(median)
    return np.repeat(medians, [len(pool) for pool in pools])


def segments(x: FloatArray, time_ms: FloatArray, error: float) -> list[int]:
    """Indices of knots of the fewest chords between rows whose relative error at every row stays below `error`.

    A shortest path over the admissible chords, found level by level. (The longest admissible chord each time is not
    enough: a chord that ends on top of a jump may force many after it.)

    Args:
        x: ascending values of the variable, shape (n,); n in the tens or hundreds, as n^2 chords are looked at.
        time_ms: positive times, shape (n,).
        error: relative error allowed, > 0.
    """
    last = x.size - 1
    forward = np.triu(np.ones((x.size, x.size), dtype=bool), 1)
    width = np.where(forward, x - x[:, None], 1.0)
    # Slopes from (x_i, t_i) that pass within the error of every row up to j form an interval that only shrinks with j.
    rise = time_ms - time_ms[:, None]
    slack = error * time_ms
    low = np.maximum.accumulate(np.where(forward, (rise - slack) / width, -np.inf), axis=1)
    high = np.minimum.accumulate(np.where(forward, (rise + slack) / width, np.inf), axis=1)
    chord = forward & (rise / width >= low) & (rise / width <= high)
    before = np.full(x.size, -1)
    level = np.zeros(1, dtype=np.intp)
    while last > 0 and before[last] < 0:
        reached = np.flatnonzero(chord[level].any(axis=0) & (before < 0))
        before[reached] = level[chord[np.ix_(level, reached)].argmax(axis=0)]
        level = reached
    knots = [last]
    while knots[-1] > 0:
        knots.append(int(before[knots[-1]]))
    return knots[::-1]


def distil(x: FloatArray, time_ms: FloatArray, *, error: float) -> tuple[FloatArray, FloatArray]:
    """Knots (x and time_ms) of one curve, within a relative error of every row.

    Args:
        x: distinct ascending values, shape (n,).
        time_ms: measured, shape (n,).
        error: relative error of a chord.
    """
    knots = segments(x, time_ms, error)
    return x[knots], time_ms[knots]


def bends(x: FloatArray, time_ms: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The same line through its ends and bends alone.

    Args:
        x: ascending values, shape (n,).
        time_ms: shape (n,).
    """
    kept = np.ones(x.size, dtype=bool)
    rise, width = np.diff(time_ms), np.diff(x)
    kept[1:-1] = np.abs(rise[1:] * width[:-1] - rise[:-1] * width[1:]) > STRAIGHT * time_ms[1:-1] * (x[2:] - x[:-2])
    return x[kept], time_ms[kept]
