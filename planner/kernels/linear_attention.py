"""Measured times of linear attention (gated delta net), in decode and prefill.

The tables' key is the state of one rank, which is what the cost model knows of a layer; convolution and recurrence are
added up in them. Measured times are interpolated linearly in state and tokens, which they nearly are; the analytic
time of the operator over that of the measured layers (at as many tokens) scales them, and carries the efficiency over
beyond the measured range. The recurrence sees of the context before a chunk only its state, so a chunk takes what a
prompt of its length takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from planner.costs.analytic import AnalyticKernels
from planner.costs.linear import PiecewiseLinear
from planner.costs.operators import DecodeAttention, PrefillAttention
from planner.kernels.answer import Answer
from planner.kernels.curves import CurveSet, Origin
from planner.kernels.latent_attention import EfficiencyGrid, around, outside_of, through
from planner.kernels.rising import rising_together
from specs.model import LinearAttention, Precision

FloatArray = NDArray[np.float64]

FLOPS_PER_STATE_ELEMENT = 7.0
"""Operations of the gated delta rule on one element of the state for one token (decay, read, correct, write, read)."""

SIMILAR = 0.1
"""Other recurrences (Mamba-2: 5 operations) have kernels of their own; operations per element may differ by this."""


class LinearAttentionTables:
    """Times of linear attention from the tables of one GPU and engine.

    Args:
        tables: by name; `linear.decode` and `linear.prefill` are used (`planner.kernels.build.linear_attention`).
        analytic: rooflines of the same GPU.
    """

    def __init__(self, tables: Mapping[str, CurveSet], analytic: AnalyticKernels) -> None:
        self._analytic = analytic
        self._tables = {name: tables[name] for name in ("linear.decode", "linear.prefill") if name in tables}
        self._grids: dict[tuple[float, float], EfficiencyGrid] = {}

    def time_ms(self, operator: DecodeAttention | PrefillAttention) -> Answer | None:
        """Time of a recurrence, or None where it is not a gated delta net or was not measured."""
        if not isinstance(operator.attention, LinearAttention) or not _delta_net(operator.attention):
            return None
        if isinstance(operator, DecodeAttention):
            return self._decode(operator, operator.attention)
        return self._prefill(operator, operator.attention)

    def _decode(self, operator: DecodeAttention, attention: LinearAttention) -> Answer | None:
        table = self._tables.get("linear.decode")
        if table is None:
            return None
        near, outside = around(table.keys[:, 0], attention.state_elements / operator.tp)
        curves = [(int(np.searchsorted(table.keys[:, 0], state)), state, weight) for state, weight in near]
        x = np.unique(np.concatenate([table.knots(curve)[0] for curve, _, _ in curves]))
        times = np.zeros((2, x.size))
        for curve, state, weight in curves:
            layer = DecodeAttention("core", _layer(state, attention), 1, operator.kv_dtype, 1.0, 1.0)
            analytic = self._analytic.time_ms(layer)
            at = np.clip(x, *table.knots(curve)[0][[0, -1]])
            measured = np.interp(at, *table.rising(curve))
            times += weight * np.stack([measured / analytic(at) * analytic(x), analytic(x)])
        last = min(float(table.knots(curve)[0][-1]) for curve, _, _ in curves)
        return _answer(self._analytic.time_ms(operator), x, times, outside, table.origin, last)

    def _prefill(self, operator: PrefillAttention, attention: LinearAttention) -> Answer | None:
        table = self._tables.get("linear.prefill")
        if table is None:
            return None
        grids, outside = self._around(table, attention, operator.tp)
        x = np.unique(np.concatenate([grid.x for _, grid, _ in grids]))
        times = np.zeros((2, x.size))
        for state, grid, weight in grids:
            within = float(np.clip(operator.new_tokens, grid.points[0], grid.points[-1]))
            layer = replace(operator, attention=_layer(state, attention), tp=1, new_tokens=within, context=0.0)
            measured = grid.at(x, operator.new_tokens)[0]
            times += weight * np.stack([measured, self._analytic.time_ms(layer)(x)])
            outside = max(outside, outside_of(grid.points, operator.new_tokens))
        last = min(grid.reach(operator.new_tokens) for _, grid, _ in grids)
        return _answer(self._analytic.time_ms(replace(operator, context=0.0)), x, times, outside, table.origin, last)

    def _around(
        self, table: CurveSet, attention: LinearAttention, tp: int
    ) -> tuple[list[tuple[float, EfficiencyGrid, float]], float]:
        """Measured states around a layer's, with their prefill grids and weights; and the factor outside of them."""
        near, outside = around(np.unique(table.keys[:, 0]), attention.state_elements / tp)
        return [(state, self._grid(table, state, attention), weight) for state, weight in near], outside

    def _grid(self, table: CurveSet, state: float, attention: LinearAttention) -> EfficiencyGrid:
        layer = _layer(state, attention)
        key = state, float(layer.flops_per_token)
        if key not in self._grids:

            def analytic(new_tokens: float) -> PiecewiseLinear:
                return self._analytic.time_ms(PrefillAttention("core", layer, 1, Precision.BF16, new_tokens, 0.0))

            measured = rising_together(table, np.flatnonzero(table.keys[:, 0] == state))
            self._grids[key] = EfficiencyGrid.of(measured, analytic, lambda point, x, time_ms: time_ms)
        return self._grids[key]


def _layer(state: float, attention: LinearAttention) -> LinearAttention:
    """A measured layer: the state of its rank, with operations in proportion to it as in the layer asked for.

    Projections do not enter a core.
    """
    elements = round(state)
    per_element = attention.flops_per_token / attention.state_elements
    return LinearAttention(
        projection_params=1, state_elements=elements, flops_per_token=max(1, round(per_element * elements))
    )


def _answer(
    work: PiecewiseLinear, x: FloatArray, times: FloatArray, outside: float, origin: Origin, last: float
) -> Answer:
    """Analytic time at the efficiency of measured and analytic times at `x`, shape (2, k)."""
    ratio = times[0] / times[1]
    return Answer(through(x, work(x) * ratio, work.slope * float(ratio[-1])), outside, origin, last)


def _delta_net(attention: LinearAttention) -> bool:
    per_element = attention.flops_per_token / attention.state_elements
    return abs(per_element / FLOPS_PER_STATE_ELEMENT - 1.0) < SIMILAR
