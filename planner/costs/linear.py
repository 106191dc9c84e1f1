"""Piecewise-linear functions of one variable: the form in which every kernel time enters the cost model."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]

FIT_ERROR = 0.01
"""Relative error that a fitted (concave or tabulated) kernel may have."""

FAR = 2.0**60
"""Beyond any argument: more tokens, sequences or bytes than a step can have."""


@dataclass(eq=False)
class Watch:
    """The largest argument that a function was asked for, through whatever was made of it."""

    largest: float = 0.0


@dataclass(frozen=True, eq=False)
class PiecewiseLinear:
    """A continuous, non-decreasing, piecewise-linear function on [0, inf).

    Args:
        x: knots, shape (k,), ascending, x[0] = 0.
        y: values at the knots, shape (k,).
        slope: slope after the last knot.
        error: largest relative error against the function that it stands for; 0 where it is exact.
        watches: told of every argument, each times a factor: those of the functions that this one was made of.
    """

    x: FloatArray
    y: FloatArray
    slope: float
    error: float = 0.0
    watches: tuple[tuple[Watch, float], ...] = ()

    def __call__(self, at: ArrayLike) -> FloatArray:
        """Values at `at`, of the same shape."""
        at = np.asarray(at, dtype=float)
        if self.watches and at.size:
            largest = float(at.max())
            for watch, factor in self.watches:
                watch.largest = max(watch.largest, largest * factor)
        return self._at(at)

    def _at(self, at: FloatArray) -> FloatArray:
        """Values without any watch told, for what is made of functions."""
        return np.asarray(np.interp(at, *self._knots))

    @cached_property
    def _knots(self) -> tuple[FloatArray, FloatArray]:
        """The knots and one far beyond any argument, so that one interpolation covers the last slope as well."""
        far = self.y[-1] + self.slope * (FAR - self.x[-1])
        return np.append(self.x, FAR), np.append(self.y, far)

    def scaled(self, factor: float, *, stretch: float = 1.0) -> PiecewiseLinear:
        """The function u -> factor * f(stretch * u)."""
        watches = tuple((watch, by * stretch) for watch, by in self.watches) if factor else ()
        return PiecewiseLinear(self.x / stretch, factor * self.y, factor * stretch * self.slope, self.error, watches)

    def watched(self, watch: Watch) -> PiecewiseLinear:
        """The same function, whose arguments `watch` learns."""
        return replace(self, watches=(*self.watches, (watch, 1.0)))


def tamed(time: PiecewiseLinear) -> PiecewiseLinear:
    """The nearest function (in the largest relative error) that neither falls nor rises more than in proportion.

    Measured kernels switch implementations, and a switch may cost more than the work that caused it. Searches for
    batches rely on more work taking longer and never losing rate: 0 <= log t(v) - log t(u) <= log v - log u for u < v.
    Functions with that property lie between two extremes (McShane's extensions for the distance max(0, log u - log v)),
    and midway between both is the nearest.
    """
    if time.x.size == 1:
        return time
    first = 1 if time.x[0] == 0.0 else 0
    where, logs = np.log(time.x[first:]), np.log(time.y[first:])
    ahead = np.maximum(where[None, :] - where[:, None], 0.0)  # from row u on to column v
    low = np.max(logs[None, :] - ahead, axis=1)
    high = np.min(logs[None, :] + ahead.T, axis=1)
    y = np.exp(0.5 * (low + high))
    if first:
        y = np.concatenate(([min(time.y[0], y[0])], y))
    slope = min(max(time.slope, 0.0), float(y[-1] / time.x[-1]))
    return PiecewiseLinear(time.x, y, slope, time.error)


def constant(value: float) -> PiecewiseLinear:
    """The function that is `value` everywhere."""
    return affine(value, 0.0)


def affine(intercept: float, slope: float) -> PiecewiseLinear:
    """The function u -> intercept + slope * u."""
    return PiecewiseLinear(np.zeros(1), np.array([float(intercept)]), float(slope))


def roofline(intercept: float, lines: Iterable[tuple[float, float]]) -> PiecewiseLinear:
    """The exact maximum of lines (a, b): u -> intercept + max(a + b u), all a, b >= 0."""
    best: list[tuple[float, float]] = []
    # Upper envelope: by slope, keeping for equal slopes the higher line.
    for a, b in sorted(lines, key=lambda line: (line[1], line[0])):
        while best:
            a0, b0 = best[-1]
            if b == b0 or a >= a0:
                best.pop()  # the new line lies above on all of [0, inf)
                continue
            if len(best) > 1:
                a1, b1 = best[-2]
                if (a0 - a) * (b0 - b1) <= (a1 - a0) * (b - b0):
                    best.pop()
                    continue
            break
        best.append((a, b))
    x = [0.0]
    for (a0, b0), (a1, b1) in pairwise(best):
        x.append((a0 - a1) / (b1 - b0))
    y = [intercept + a + b * u for (a, b), u in zip(best, x, strict=True)]
    return PiecewiseLinear(np.array(x), np.array(y), best[-1][1])


def total(parts: Iterable[PiecewiseLinear]) -> PiecewiseLinear:
    """The exact sum of piecewise-linear functions; its error is at most the largest of theirs."""
    parts = list(parts)
    if not parts:
        return constant(0.0)
    x = np.unique(np.concatenate([part.x for part in parts]))
    y = np.zeros_like(x)
    for part in parts:
        y += part._at(x)
    watches = tuple(watch for part in parts for watch in part.watches)
    return PiecewiseLinear(x, y, sum(part.slope for part in parts), max(part.error for part in parts), watches)


def fit(
    function: Callable[[FloatArray], FloatArray], *, low: float, high: float, error: float = FIT_ERROR
) -> PiecewiseLinear:
    """Fit `function` on [low, high] by chords, the fewest whose relative error stays below `error`.

    The longest admissible chord is taken from the left each time; where admissibility passes to sub-chords
    (concave, convex and linear stretches) that gives the fewest chords on the grid. Below `low` the value at
    `low` holds; above `high` the last chord goes on. The result is made non-decreasing.

    Args:
        function: vectorised, positive on [low, high].
        low: smallest argument, > 0.
        high: largest argument.
        error: relative error allowed at every grid point.
    """
    grid = np.unique(np.geomspace(low, high, 161))
    values = np.maximum.accumulate(function(grid))
    last = grid.size - 1
    knots = [0]
    worst = 0.0

    def chord_error(i: int, j: int) -> float:
        share = (grid[i : j + 1] - grid[i]) / (grid[j] - grid[i])
        line = values[i] + share * (values[j] - values[i])
        return float(np.max(np.abs(line / values[i : j + 1] - 1.0)))

    while knots[-1] < last:
        i = knots[-1]
        good, bad, step = i + 1, last + 1, 8
        while good + step <= last and bad > last:
            if chord_error(i, good + step) <= error:
                good, step = good + step, step * 2
            else:
                bad = good + step
        if bad > last and chord_error(i, last) <= error:
            good = last
        while bad - good > 1:
            middle = (good + bad) // 2
            if middle <= last and chord_error(i, middle) <= error:
                good = middle
            else:
                bad = middle
        worst = max(worst, chord_error(i, good))
        knots.append(good)
    x, y = grid[knots], values[knots]
    slope = float((y[-1] - y[-2]) / (x[-1] - x[-2]))
    return PiecewiseLinear(np.concatenate(([0.0], x)), np.concatenate((y[:1], y)), slope, worst)
