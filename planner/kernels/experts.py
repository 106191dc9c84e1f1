"""Times of expert layers from measured curves.

A measured time is carried from the measured point to the operator by the ratio of their rooflines. The roofline used
here is a yardstick, not a prediction: fixed time, traffic of all tokens of the layer (the module selects experts for
them and writes their sums), traffic of the rank's pairs, and the larger of products and weights. On a measured point it
cancels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.costs.analytic import AnalyticKernels, hottest_rank
from planner.costs.linear import PiecewiseLinear
from planner.costs.operators import GroupedGemm
from planner.kernels.answer import Answer
from planner.kernels.blend import neighbours
from planner.kernels.curves import CurveSet
from specs.model import BYTES_PER_ELEMENT, Precision

FloatArray = NDArray[np.float64]
Shape = tuple[int, int, int, int]

DTYPES: dict[tuple[Precision, bool], tuple[str, ...]] = {
    (Precision.BF16, False): ("bfloat16",),
    (Precision.FP8, False): ("fp8", "fp8_block"),
    (Precision.FP8, True): ("fp8_block", "fp8"),
    (Precision.FP4, False): ("nvfp4", "w4a8_mxfp4_mxfp8", "w4a16_mxfp4"),
    (Precision.INT4, False): ("int4_wo",),
}
"""Number formats of the source by precision and block scales, in the order of preference. An engine that has no experts
with one FP8 scale (SGLang) is answered from block scales. FP4 is what the model's shape was measured in: NVFP4, or
MXFP4 (gpt-oss, DeepSeek-V4)."""

WIDE = "deepep_"
"""Prefix of the number formats of products behind DeepEP, for more ranks than the engine's module is measured on."""

BALANCED, POWER_LAW = "balanced", "power_law_1.01"

MEASURED_SKEW = 0.7
"""Exponent of our power law (popularity of the i-th expert ~ i^-skew) that stands for the source's power_law_1.01.

The source draws every expert's load from a density ~ load^-1.01 between 1 and 0.8 times the tokens (nearly
log-uniform), places experts contiguously and measures the most loaded rank. Its load over the mean at 16,384 tokens
(simulated: 1.7 to 2.6 on 16 ranks, 2.3 to 3.8 on 32, 3.0 to 5.8 on 64, over 128 to 512 experts) is that of exponents
0.60 to 0.83.
"""

EXTENSION = (32768.0, 131072.0, 1048576.0)
"""Tokens beyond the measured ones at which the roofline goes on with the last efficiency."""

FIXED_MS = 0.02
"""Yardstick: launches and latencies of the module's kernels."""

REACHED_COMPUTE = 0.5
"""Yardstick: reachable share of the data-sheet FLOP/s."""

REACHED_MEMORY = 0.8
"""Yardstick: reachable share of the data-sheet bandwidth."""

SHAPES = 3
"""Measured model shapes that an unmeasured one is blended from."""


@dataclass(frozen=True, eq=False)
class _Family:
    """The tables of one number format.

    Args:
        balanced: times under balanced routing.
        skewed: times under the power law, or None where it was not measured.
        shapes: per measured shape (matrices, hidden, experts per token, experts) the indices of its balanced curves.
        twins: index of the same point's curve in `skewed`, per balanced curve; -1 where there is none.
        grid: tokens at which every curve is evaluated.
    """

    balanced: CurveSet
    skewed: CurveSet | None
    shapes: dict[Shape, NDArray[np.intp]]
    twins: tuple[int, ...]
    grid: FloatArray


class ExpertTables:
    """Expert layers of one engine on one GPU.

    Args:
        tables: of one file, by name; those named `experts.<dtype>.<distribution>` are used.
        analytic: rooflines of the same GPU; its data-sheet rates scale the yardstick.
    """

    def __init__(self, tables: Mapping[str, CurveSet], analytic: AnalyticKernels) -> None:
        self._tables = tables
        self._analytic = analytic
        self._families: dict[str, _Family | None] = {}
        self._loads: dict[tuple[int, int, int, int, float, bytes], tuple[FloatArray, FloatArray]] = {}
        self._shares: dict[tuple[str, int, float, Precision], FloatArray] = {}

    def time_ms(self, operator: GroupedGemm) -> Answer | None:
        """Time over the tokens of all ranks, ms; None where the number format was not measured.

        Where the model's shape was measured, the efficiency against the yardstick is blended between the measured
        numbers of ranks and widths; for other shapes between the nearest shapes (`SHAPES`), at equal tokens per expert.
        Outside of what was measured (width, tokens) the nearest efficiency holds; on more ranks that of one rank, since
        tokens are dispatched there and a rank sees no others (`_yardstick`). Routing skew is blended between
        balanced routing (0) and the measured power law (`MEASURED_SKEW`); above it the hottest rank's load goes on.
        """
        shape = (3 if operator.gated else 2, operator.hidden, operator.experts_per_token, operator.experts)
        found = self._family(operator, shape)
        if found is None:
            return None
        dtype, family = found
        grid = family.grid
        times = np.zeros_like(grid)
        outside, last = 1.0, math.inf
        for near, weight in _nearest(family, shape):
            curves, beyond = _of_ranks(family, family.shapes[near], operator.ranks)
            yardstick = self._yardstick(operator, grid, dispatched=beyond > 1.0 or dtype.startswith(WIDE))
            keys = family.balanced.keys[curves][:, 4:]
            around = neighbours(keys, (min(operator.ranks, keys[:, 0].max()), operator.intermediate))
            outside = max(outside, around.outside, beyond)
            # Equal tokens per expert, where the other shape has another share of experts per token.
            aligned = np.log(grid * (shape[2] / shape[3]) / (near[2] / near[3]))
            for index, part in zip(around.curves, around.weights, strict=True):
                share = self._share(dtype, family, int(curves[index]), operator)
                times += weight * part * yardstick * np.interp(aligned, np.log(grid), share)
                furthest = float(family.balanced.knots(int(curves[index]))[0][-1])
                last = min(last, furthest * (near[2] / near[3]) / (shape[2] / shape[3]))
        if shape not in family.shapes:
            outside = max(outside, _outside(family, shape))
        times = np.maximum.accumulate(times)
        slope = float((times[-1] - times[-2]) / (grid[-1] - grid[-2]))
        line = PiecewiseLinear(np.append(0.0, grid), np.append(times[0], times), slope)
        return Answer(line, outside, family.balanced.origin, last)

    def _family(self, operator: GroupedGemm, shape: Shape) -> tuple[str, _Family] | None:
        """The number format's tables. FP4 has several formats: the one that was measured for the shape goes first."""
        block = operator.block and operator.precision is Precision.FP8
        found = []
        for dtype in DTYPES.get((operator.precision, block), ()):
            wide = self._tables_of(WIDE + dtype)
            if wide is not None and shape in wide.shapes and operator.ranks >= wide.balanced.coverage["ranks"][0]:
                return WIDE + dtype, wide
            family = self._tables_of(dtype)
            if family is not None:
                found.append((dtype, family))
        if operator.precision is Precision.FP4:
            found.sort(key=lambda pair: shape not in pair[1].shapes)
        return found[0] if found else None

    def _tables_of(self, dtype: str) -> _Family | None:
        if dtype not in self._families:
            self._families[dtype] = self._read(dtype)
        return self._families[dtype]

    def _read(self, dtype: str) -> _Family | None:
        balanced = self._tables.get(f"experts.{dtype}.{BALANCED}")
        if balanced is None:
            return None
        skewed = self._tables.get(f"experts.{dtype}.{POWER_LAW}")
        places = {} if skewed is None else {key: index for index, key in enumerate(map(tuple, skewed.keys.tolist()))}
        keys = balanced.keys.astype(np.int64)
        shapes: dict[Shape, list[int]] = {}
        for index, (matrices, hidden, chosen, experts) in enumerate(keys[:, :4].tolist()):
            shapes.setdefault((matrices, hidden, chosen, experts), []).append(index)
        return _Family(
            balanced,
            skewed,
            {shape: np.array(indices) for shape, indices in shapes.items()},
            tuple(places.get(key, -1) for key in map(tuple, balanced.keys.tolist())),
            np.union1d(balanced.x, [tokens for tokens in EXTENSION if tokens > balanced.x.max()]),
        )

    def _share(self, dtype: str, family: _Family, curve: int, operator: GroupedGemm) -> FloatArray:
        """Measured time over the yardstick on the grid, held beyond the curve's ends, at the operator's skew."""
        mix = min(operator.skew / MEASURED_SKEW, 1.0) if family.twins[curve] >= 0 else 0.0
        share = (1.0 - mix) * self._measured(dtype, family, curve, 0.0, operator.precision) if mix < 1.0 else 0.0
        if mix > 0.0:
            share = share + mix * self._measured(dtype, family, curve, MEASURED_SKEW, operator.precision)
        return np.asarray(share)

    def _measured(self, dtype: str, family: _Family, curve: int, skew: float, precision: Precision) -> FloatArray:
        known = self._shares.get((dtype, curve, skew, precision))
        if known is not None:
            return known
        matrices, hidden, chosen, experts, ranks, intermediate = (int(v) for v in family.balanced.keys[curve])
        point = GroupedGemm(
            "measured", hidden, intermediate, matrices == 3, experts, experts // ranks, ranks, chosen, skew, precision
        )
        table, index = (family.balanced, curve) if skew == 0.0 else (family.skewed, family.twins[curve])
        assert table is not None
        x, times = table.rising(index)
        at = np.clip(family.grid, x[0], x[-1])
        share = np.interp(at, x, times) / np.interp(
            at, family.grid, self._yardstick(point, family.grid, dispatched=dtype.startswith(WIDE))
        )
        self._shares[dtype, curve, skew, precision] = share
        return share

    def _yardstick(self, operator: GroupedGemm, tokens: FloatArray, dispatched: bool) -> FloatArray:
        """Roofline in ms at every token count of the grid.

        Args:
            operator: the layer.
            tokens: of all ranks, shape (n,).
            dispatched: whether the rank sees the tokens of its own pairs only, rather than all.
        """
        pairs, activated = self._rank_loads(operator, tokens)
        matrices = 3 if operator.gated else 2
        params = matrices * operator.hidden * operator.intermediate
        bandwidth = self._analytic.bytes_per_ms * REACHED_MEMORY
        flops = self._analytic.flops_per_ms(operator.precision) * REACHED_COMPUTE
        per_token = 0.0 if dispatched and operator.ranks > 1 else operator.hidden * 4.0 / bandwidth
        per_pair = (operator.hidden * 8.0 + matrices * operator.intermediate * 2.0) / bandwidth
        weights = activated * params * BYTES_PER_ELEMENT[operator.precision] / bandwidth
        return np.asarray(
            FIXED_MS + tokens * per_token + pairs * per_pair + np.maximum(pairs * 2.0 * params / flops, weights)
        )

    def _rank_loads(self, operator: GroupedGemm, tokens: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Pairs and activated experts of the measured rank on the grid.

        Without skew every rank and expert gets the same, as in the balanced measurements: T pairs activate T experts.
        From `MEASURED_SKEW` on they are those of the most loaded rank under random routing; between, a blend.
        """
        slots = operator.slots_per_rank
        routing = (operator.experts, slots, operator.ranks, operator.experts_per_token, operator.skew, tokens.tobytes())
        if routing not in self._loads:
            pairs = tokens * (operator.experts_per_token / operator.ranks)
            activated = np.minimum(pairs, slots)
            if operator.skew > 0.0:
                mix = min(operator.skew / MEASURED_SKEW, 1.0)
                hot_pairs, hot_activated = hottest_rank(operator, tokens)
                pairs = (1.0 - mix) * pairs + mix * hot_pairs
                activated = (1.0 - mix) * activated + mix * hot_activated
            self._loads[routing] = pairs, activated
        return self._loads[routing]


def _of_ranks(family: _Family, curves: NDArray[np.intp], ranks: int) -> tuple[NDArray[np.intp], float]:
    """Curves of one shape that answer for a number of ranks, and the factor by which it lies beyond the measured ones.

    Beyond, those of one rank answer; where there are none (DeepEP), those of the most ranks do.
    """
    measured = family.balanced.keys[curves, 4]
    most = float(measured.max())
    if ranks <= most:
        return curves, 1.0
    return (curves[measured == 1.0] if measured.min() == 1.0 else curves), ranks / most


def _nearest(family: _Family, shape: Shape) -> list[tuple[Shape, float]]:
    """Measured shapes to blend with their weights: the shape itself, or the nearest by inverse squared distance.

    Distance is in the logarithms of width, experts and experts per token; shapes with as many matrices come first.
    """
    if shape in family.shapes:
        return [(shape, 1.0)]
    like = [near for near in family.shapes if near[0] == shape[0]] or list(family.shapes)
    distance = np.array([sum(np.log(a / b) ** 2 for a, b in zip(near[1:], shape[1:], strict=True)) for near in like])
    best = np.argsort(distance, kind="stable")[:SHAPES]
    weights = 1.0 / distance[best]
    return [(like[index], float(weight)) for index, weight in zip(best, weights / weights.sum(), strict=True)]


def _outside(family: _Family, shape: Shape) -> float:
    """Factor by which a shape lies outside the measured ones on the worst of width, experts and experts per token."""
    measured = np.array(list(family.shapes), dtype=float)[:, 1:]
    wanted = np.array(shape[1:], dtype=float)
    return float(np.max(np.maximum(wanted / measured.max(axis=0), measured.min(axis=0) / wanted).clip(min=1.0)))
