"""Measured communication inside one scale-up domain: all-reduce, all-gather, and exchanges of expert parallelism."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from planner.costs.linear import FloatArray, PiecewiseLinear
from planner.kernels.answer import Answer
from planner.kernels.blend import neighbours
from planner.kernels.curves import CurveSet
from planner.kernels.distil import segments

ALL_REDUCE = "collective.all_reduce"
ALL_GATHER = "collective.all_gather"
REDUCE_SCATTER = "collective.reduce_scatter"
"""Tables over the bytes of the whole message at (ranks,)."""

EXCHANGE = "exchange."
"""Tables `exchange.<collective>.<phase>` over the tokens of one rank at (ranks, bytes of a copy, remote copies), some
with a further axis of experts."""

STEP = 2.0**0.5
"""Ratio of neighbouring points at which a carried-over efficiency is evaluated between knots."""

CHORD_ERROR = 0.002
"""Relative error of the chords through those points."""

Law = Callable[[tuple[float, ...]], PiecewiseLinear]


class CollectiveTables:
    """Measured collectives of one engine on one GPU type.

    Args:
        tables: by name; those of other families are ignored.
    """

    def __init__(self, tables: Mapping[str, CurveSet]) -> None:
        self._tables = {name: tables[name] for name in tables if name.startswith(("collective.", EXCHANGE))}

    def time_ms(self, name: str, key: tuple[float, ...], law: PiecewiseLinear, reference: Law) -> Answer | None:
        """Time of a collective: what the law says, times the measured share of the law at the nearest keys.

        On a measured key whose law is the reference's this is the measured curve; elsewhere the ratio of measurement
        and law is interpolated, and beyond the measurements it keeps the value that it has at their edge.

        Args:
            name: of the table.
            key: where on the table's axes; curves that differ in further axes alone are averaged.
            law: analytic time over the table's variable for this collective on these links.
            reference: analytic time at a measured key on the links that were measured.

        Returns:
            The answer, or None where there is no such table.
        """
        table = self._tables.get(name)
        if table is None:
            return None
        points, point_of = np.unique(table.keys[:, : len(key)], axis=0, return_inverse=True)
        near = neighbours(points, key)
        curves = []
        for point, weight in zip(near.curves, near.weights, strict=True):
            expected = reference(tuple(points[point].tolist()))
            same = np.flatnonzero(point_of.reshape(-1) == point)
            curves += [(weight / same.size, *table.rising(curve), expected) for curve in same.tolist()]
        low = min(float(x[0]) for _, x, _, _ in curves)
        high = max(float(x[-1]) for _, x, _, _ in curves)
        bends = [law.x, *(x for _, x, _, _ in curves), *(expected.x for _, _, _, expected in curves)]
        points = np.concatenate([*bends, np.geomspace(low, high, 2 + int(np.log(high / low) / np.log(STEP)))])
        points = np.unique(points[(points >= low) & (points <= high)])

        def share(at: FloatArray) -> FloatArray:
            result = np.zeros(at.shape)
            for weight, x, time, expected in curves:
                inside = np.clip(at, x[0], x[-1])
                result += weight * np.interp(inside, x, time) / expected(inside)
            return result

        times = np.maximum.accumulate(law(points) * share(points))
        knots = segments(points, times, CHORD_ERROR)
        x, y = points[knots], times[knots]
        # Below the measurements the law starts at 0 tokens, above them it goes on, both with the share at the edge.
        start = min(float(law(0.0) * share(points[:1])[0]), float(y[0]))
        last = float(law.slope * share(points[-1:])[0])
        time = PiecewiseLinear(np.concatenate(([0.0], x)), np.concatenate(([start], y)), last, CHORD_ERROR)
        return Answer(time, near.outside, table.origin, min(float(x[-1]) for _, x, _, _ in curves))
