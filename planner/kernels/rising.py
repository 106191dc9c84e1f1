"""Curves of one table read together: times that fall neither along the variable nor along the axes.

A decode step with a longer context and a chunk with more tokens are larger problems. `CurveSet.rising` sees one curve
at a time; here all curves that differ in such axes are fitted as one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.kernels.curves import CurveSet
from planner.kernels.distil import FLAG_ERROR, bends

FloatArray = NDArray[np.float64]

CONTRADICTION = 2.0 * np.log(1.0 + FLAG_ERROR)
"""Logarithm of the factor by which a smaller problem may be slower than a larger one before one of the two is dropped:
midway between them, each is then within the error that is flagged."""


@dataclass(frozen=True, eq=False)
class Monotone:
    """Times that no larger problem undercuts.

    Args:
        kept: rows that were kept, shape (n,), boolean.
        time_ms: fitted times of the kept rows, shape (kept,).
    """

    kept: NDArray[np.bool_]
    time_ms: FloatArray


def monotone(points: FloatArray, time_ms: FloatArray) -> Monotone:
    """The fit, non-decreasing along every coordinate, that is nearest in the largest relative error; outliers left out.

    Two rows contradict each other where the smaller problem (in every coordinate) is slower by more than
    `CONTRADICTION`. Rows with the most contradictions are left out until there is none (one spike among good rows
    contradicts many, each of which contradicts but one). For the others the isotonic fit in the sup norm over a partial
    order is known in closed form: midway, in the logarithm, between the slowest row below and the fastest above.

    Args:
        points: coordinates, shape (n, d), distinct.
        time_ms: positive, shape (n,).
    """
    logs = np.log(time_ms)
    below = np.ones((logs.size, logs.size), dtype=bool)
    for coordinate in points.T:
        below &= coordinate[:, None] <= coordinate[None, :]
    excess = np.where(below, logs[:, None] - logs[None, :] - CONTRADICTION, 0.0).clip(min=0.0)
    kept = np.ones(logs.size, dtype=bool)
    if excess.any():
        excess += excess.T
        counts, sums = (excess > 0.0).sum(axis=1), excess.sum(axis=1)
        while counts.any():
            worst = int(np.lexsort((sums, counts))[-1])
            counts -= excess[worst] > 0.0
            sums -= excess[worst]
            kept[worst] = False
            counts[worst] = 0
            excess[worst, :] = excess[:, worst] = 0.0
        below, logs = below[np.ix_(kept, kept)], logs[kept]
    upper = np.where(below, logs[:, None], -np.inf).max(axis=0)
    lower = np.where(below, logs[None, :], np.inf).min(axis=1)
    return Monotone(kept, np.exp(0.5 * (upper + lower)))


def rising_together(table: CurveSet, curves: NDArray[np.intp]) -> CurveSet:
    """Curves of a table, non-decreasing in the variable and in every axis but the first.

    Each curve is read at every value of the variable that one of them has between its ends, and `monotone` is fitted to
    all of these points. Curves that contradict the others throughout are left out.

    Args:
        table: with two axes or more.
        curves: indices of those to read, equal in the first axis.
    """
    values = np.unique(np.concatenate([table.knots(curve)[0] for curve in curves.tolist()]))
    grids = [values[(values >= x[0]) & (values <= x[-1])] for x in (table.knots(curve)[0] for curve in curves.tolist())]
    time = np.concatenate([table.at(curve, grid) for curve, grid in zip(curves.tolist(), grids, strict=True)])
    of = np.repeat(curves, [grid.size for grid in grids])
    x = np.concatenate(grids)
    fit = monotone(np.column_stack((table.keys[of, 1:], x)), time)
    of, x = of[fit.kept], x[fit.kept]
    made = [(table.keys[curve].tolist(), *bends(x[of == curve], fit.time_ms[of == curve])) for curve in np.unique(of)]
    return CurveSet.of(table.name, table.axes, table.variable, made, table.origin)
