"""Distillation: measured rows of one curve into the fewest linear segments, non-decreasing, with a stated error."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

TARGET_ERROR = 0.03
"""Relative error that 95% of the source rows are to stay within."""

FLAG_ERROR = 0.15
"""Rows whose error exceeds this are counted and flagged."""


def non_decreasing(time_ms: FloatArray) -> FloatArray:
    """The non-decreasing sequence nearest to `time_ms` in the largest relative error.

    For the largest error in the logarithm the answer is known in closed form: midway, in the logarithm, between the
    running maximum from the left and the running minimum from the right (isotonic regression in the sup norm).
    """
    logs = np.log(time_ms)
    upper = np.maximum.accumulate(logs)
    lower = np.minimum.accumulate(logs[::-1])[::-1]
    return np.asarray(np.exp(0.5 * (upper + lower)))


def segments(x: FloatArray, time_ms: FloatArray, error: float) -> list[int]:
    """Indices of knots of the fewest chords whose relative error at every row stays below `error`.

    From each knot the longest admissible chord is taken. Rows are few (tens), so every end is tried.

    Args:
        x: ascending values of the variable, shape (n,).
        time_ms: non-decreasing times, shape (n,).
        error: relative error allowed.
    """
    last = x.size - 1
    knots = [0]
    while knots[-1] < last:
        i = knots[-1]
        # Slopes from (x_i, t_i) that pass within the error of every row up to j form an interval that only shrinks.
        width = x[i + 1 :] - x[i]
        low = np.maximum.accumulate((time_ms[i + 1 :] * (1.0 - error) - time_ms[i]) / width)
        high = np.minimum.accumulate((time_ms[i + 1 :] * (1.0 + error) - time_ms[i]) / width)
        slope = (time_ms[i + 1 :] - time_ms[i]) / width
        good = np.flatnonzero((slope >= low - 1e-15) & (slope <= high + 1e-15))
        knots.append(i + 1 + int(good[-1]))
    return knots


def distil(x: FloatArray, time_ms: FloatArray, *, error: float = 0.015) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Knots of one curve, and the relative error that they leave at every row.

    Args:
        x: distinct ascending values, shape (n,).
        time_ms: measured, shape (n,).
        error: relative error of a chord against the non-decreasing rows.

    Returns:
        Knots' x and time_ms, and |fitted / measured - 1| per row, shape (n,).
    """
    smooth = non_decreasing(time_ms)
    knots = segments(x, smooth, error)
    fitted = np.interp(x, x[knots], smooth[knots])
    return x[knots], smooth[knots], np.abs(fitted / time_ms - 1.0)
