"""Times of dense matrix products from measured curves."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from planner.costs.analytic import AnalyticKernels
from planner.costs.linear import PiecewiseLinear
from planner.costs.operators import Gemm
from planner.kernels.answer import Answer
from planner.kernels.blend import neighbours
from planner.kernels.curves import CurveSet
from specs.model import Precision

DTYPES = {
    Precision.BF16: "bfloat16",
    Precision.FP8: "fp8",
    Precision.FP4: "nvfp4",
    Precision.INT8: "sq",
    Precision.INT4: "int4_wo",
}
"""The source's names: `sq` is SmoothQuant (INT8 products), `int4_wo` has INT4 weights and BF16 products."""

BLOCK_DTYPE = "fp8_block"

KNOT_ERROR = 0.01
"""Relative error that leaving out knots may make: what is read of noisy curves has a step at every other row."""


class GemmTables:
    """Dense matrix products of one engine on one GPU.

    Args:
        tables: of one file, by name; those named `gemm.<dtype>` are used.
        analytic: rooflines of the same GPU without any slowdown.
    """

    def __init__(self, tables: Mapping[str, CurveSet], analytic: AnalyticKernels) -> None:
        self._tables = tables
        self._analytic = analytic

    def time_ms(self, operator: Gemm) -> Answer | None:
        """Time over rows; None where the engine's products of this number format were not measured on this GPU.

        The efficiency against the roofline is blended between the measured widths around the operator's and carried
        over outside of them; on measured widths the time is the measured curve's, made non-decreasing.
        """
        block = operator.block and operator.precision is Precision.FP8
        table = self._tables.get(f"gemm.{BLOCK_DTYPE if block else DTYPES[operator.precision]}")
        if table is None:
            return None
        around = neighbours(table.keys, (operator.outputs, operator.inputs))
        roofline = self._analytic.time_ms(operator)
        curves = [table.rising(curve) for curve in around.curves]
        x = np.unique(np.concatenate([knots for knots, _ in curves] + [roofline.x]))
        share = np.zeros_like(x)
        for curve, weight, (knots, times) in zip(around.curves, around.weights, curves, strict=True):
            outputs, inputs = (int(width) for width in table.keys[curve])
            near = self._analytic.time_ms(Gemm(operator.name, inputs, outputs, operator.precision, operator.block))
            clamped = np.clip(x, knots[0], knots[-1])
            share += weight * np.interp(clamped, knots, times) / near(clamped)
        times = np.maximum.accumulate(roofline(x) * share)
        slope = float(roofline.slope * share[-1])
        kept = [0] + [1 + knot for knot in _chords(x[1:].tolist(), times[1:].tolist(), KNOT_ERROR)]
        time = PiecewiseLinear(x[kept], times[kept], slope, KNOT_ERROR)
        return Answer(time, around.outside, table.origin, min(float(knots[-1]) for knots, _ in curves))


def _chords(x: list[float], time: list[float], error: float) -> list[int]:
    """Knots of chords within `error` of every point, as in `planner.kernels.distil.segments`.

    A plan asks for hundreds of blends of tens of points each: too short for array operations, so plain numbers are
    used, and a chord ends where no longer one can be admissible.
    """
    last = len(x) - 1
    knots = [0]
    while knots[-1] < last:
        i = knots[-1]
        low, high, best = 0.0, float("inf"), i + 1
        for j in range(i + 1, last + 1):
            width, rise = x[j] - x[i], time[j] - time[i]
            low = max(low, (rise - error * time[j]) / width)
            high = min(high, (rise + error * time[j]) / width)
            if low > high:
                break
            if low <= rise / width <= high:
                best = j
        knots.append(best)
    return knots
