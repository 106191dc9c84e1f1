"""Measured times of latent attention: multi-head (MLA) and sparse (DSA), in decode and prefill.

What a table holds of an operator is its efficiency: measured over analytic time. Between measured points (heads,
contexts, lengths) both times are interpolated linearly, which they nearly are, and then divided; beyond them the
efficiency is carried over. It multiplies the analytic time of the operator itself, so that other ranks, contexts and
draft tokens follow the work that they do.

**Modules.** Most engines were measured by whole modules: the core with its projections. The cost model adds the
projections itself (`planner.costs.sides.projections`), so the core is what a module takes beyond them:
core(x) = max(module(x) - projections(x), fixed time of its kernels), with the same projections at the same rows, priced
by whatever prices them in this plan (`gemm_ms`). Core and projections then add up to the measured module, whatever the
GEMM tables say, wherever the fixed time does not bind. The `kv_up` product stands for the absorbed products in decode
and for the expansion of the new tokens in prefill; modules contain both. Where the core of a decode step was measured
alone the absorbed products were too: the core takes on the difference between them and the `kv_up` product.

**Context before a chunk.** A chunk of n tokens after c tokens takes T(n) + e (A(n, c) - A(n, 0)), with T measured, A
analytic, and e the efficiency of what the context adds. Where chunks with context were measured (SGLang's sparse
attention) e is the measured over the analytic difference to no context, at n and c. Elsewhere it is the efficiency of
query-key pairs at the prompt n* = sqrt(n^2 + 2 n c) that has as many of them. That comes from two measurements of
equally many tokens, one prompt and p prompts of a p-th of its length: what they differ by are pairs alone, so that
projections, fixed times and errors in pricing them cancel. Either way the time is continuous at c = 0 and grows with c.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from planner.costs.analytic import AnalyticKernels
from planner.costs.linear import PiecewiseLinear, total
from planner.costs.operators import DecodeAttention, Gemm, PrefillAttention
from planner.costs.sides import projections
from planner.kernels.answer import Answer
from planner.kernels.blend import neighbours, reach
from planner.kernels.curves import CurveSet, Origin
from planner.kernels.rising import rising_together
from specs.model import LatentAttention, Precision

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Shape:
    """A measured layer.

    Args:
        attention: with the head count of the model.
        hidden: width of the residual stream.
    """

    attention: LatentAttention
    hidden: int


def _deepseek(index_heads: int, index_head_dim: int, index_topk: int) -> LatentAttention:
    return LatentAttention(
        heads=128,
        q_lora_rank=1536,
        kv_lora_rank=512,
        qk_nope_head_dim=128,
        qk_rope_head_dim=64,
        v_head_dim=128,
        index_heads=index_heads,
        index_head_dim=index_head_dim,
        index_topk=index_topk,
    )


def _glm(index_heads: int) -> LatentAttention:
    return LatentAttention(
        heads=64,
        q_lora_rank=2048,
        kv_lora_rank=512,
        qk_nope_head_dim=192,
        qk_rope_head_dim=64,
        v_head_dim=256,
        index_heads=index_heads,
        index_head_dim=128,
        index_topk=2048,
    )


SHAPES: Mapping[str, Shape] = {
    "v3": Shape(_deepseek(0, 0, 0), 7168),
    "v32": Shape(_deepseek(64, 128, 2048), 7168),
    "glm5": Shape(_glm(32), 6144),
    "glm5_reuse": Shape(_glm(0), 6144),
}
"""Layers that tables are named after: DeepSeek-V3, DeepSeek-V3.2, GLM-5, and GLM-5.2's layers that reuse a selection.
Source: config.json of the models."""

_KV_NAMES = {Precision.BF16: ("bf16", "fp8")}
"""KV formats of tables in order of preference, by the format asked for; 8-bit formats and others prefer `fp8`."""

EQUAL_PROMPTS = 16.0
"""Prompts among which equally many tokens are divided to tell what pairs take: enough that few pairs are left, few
enough that the short prompts' own inefficiency is a small part of the difference."""

LEAST_DIFFERENCE = 0.4
"""Share of the analytic time below which a difference tells nothing (where bytes, not pairs, set the time)."""

_GAUSS = 0.5 - 0.5 / np.sqrt(3.0), 0.5 + 0.5 / np.sqrt(3.0)
"""Nodes of Gauss-Legendre quadrature with two points on [0, 1]."""


@dataclass(frozen=True, eq=False)
class EfficiencyGrid:
    """Measured and analytic times of one table at one value of its first axis.

    Args:
        points: measured values of the second axis (context or new tokens), shape (g,), ascending.
        last: last measured value of the variable at each point, shape (g,).
        x: values of the variable, shape (k,), ascending.
        measured: ms, shape (g, k); beyond a curve's last knot the efficiency changes as at the next smaller point.
        analytic: ms, shape (g, k).
    """

    points: FloatArray
    last: FloatArray
    x: FloatArray
    measured: FloatArray
    analytic: FloatArray

    @staticmethod
    def of(
        table: CurveSet,
        analytic: Callable[[float], PiecewiseLinear],
        measured: Callable[[float, FloatArray, FloatArray], FloatArray],
    ) -> EfficiencyGrid:
        """The grid of curves that differ in the second axis alone.

        Args:
            table: with two axes, the curves of one value of the first.
            analytic: time over the variable at a value of the second axis.
            measured: what to take for the measured times, from the value of the second axis, the variable and the times
                of the curve.
        """
        points = table.keys[:, 1]
        x = np.unique(table.x)
        work, ratio = np.empty((points.size, x.size)), np.empty((points.size, x.size))
        for row, point in enumerate(points.tolist()):
            knots = table.knots(row)[0]
            at = np.clip(x, knots[0], knots[-1])
            time = analytic(point)
            work[row] = time(x)
            ratio[row] = np.maximum.accumulate(measured(point, at, table.at(row, at))) / time(at)
            if row:
                # Larger problems were measured at fewer values of the variable; further on the row above has the steps.
                last = int(np.searchsorted(x, knots[-1]))
                ratio[row, last:] = ratio[row, last] * ratio[row - 1, last:] / ratio[row - 1, last]
        # A longer context or chunk never takes less: parts taken off a module may have outgrown it.
        ends = np.array([table.knots(row)[0][-1] for row in range(points.size)])
        return EfficiencyGrid(points, ends, x, np.maximum.accumulate(ratio * work, axis=0), work)

    def at(self, x: FloatArray, point: float) -> FloatArray:
        """Measured and analytic ms at values of the variable, shape (2, k), linear between points."""
        place = float(np.interp(point, self.points, np.arange(self.points.size)))
        low = min(int(place), self.points.size - 1)
        high = min(low + 1, self.points.size - 1)
        share = place - low
        return np.stack(
            [
                np.interp(x, self.x, values[low] + share * (values[high] - values[low]))
                for values in (self.measured, self.analytic)
            ]
        )

    def reach(self, point: float) -> float:
        """Value of the variable up to which was measured around a value of the second axis."""
        return float(reach(self.points, self.last, point))


def around(values: FloatArray, wanted: float) -> tuple[list[tuple[float, float]], float]:
    """The ascending values (one or two) around a wanted one, with linear weights, and the factor outside of them."""
    place = float(np.interp(wanted, values, np.arange(values.size)))
    low = min(int(place), values.size - 1)
    near = [(float(values[low]), 1.0 - (place - low))]
    if place > low:
        near.append((float(values[low + 1]), place - low))
    return near, outside_of(values, wanted)


def outside_of(points: FloatArray, *values: float) -> float:
    """Largest factor by which values lie outside ascending points."""
    low, high = float(points[0]), float(points[-1])
    return max(1.0, *(max(value / high, low / max(value, 1e-9)) for value in values))


def through(x: FloatArray, time_ms: FloatArray, slope: float) -> PiecewiseLinear:
    """Times at knots as a non-decreasing function; constant before the first knot."""
    time_ms = np.maximum.accumulate(time_ms)
    if x[0] > 0.0:
        x, time_ms = np.concatenate(([0.0], x)), np.concatenate((time_ms[:1], time_ms))
    return PiecewiseLinear(x, time_ms, max(slope, 0.0))


def context_nodes(first: float, last: float, splits: FloatArray) -> list[tuple[float, float]]:
    """Nodes and weights of the mean over contexts from `first` to `last`, exact for cubics between the splits."""
    if last <= first:
        return [(first, 1.0)]
    inner = splits[(splits > first) & (splits < last)]
    edges = np.concatenate(([first], inner, [last])).tolist()
    width = last - first
    return [(low + node * (high - low), 0.5 * (high - low) / width) for low, high in pairwise(edges) for node in _GAUSS]


def pair_efficiency(table: CurveSet, analytic: Callable[[float], PiecewiseLinear]) -> FloatArray:
    """Efficiency of query-key pairs per measured prompt length: measured over analytic difference of equal tokens.

    One prompt of n tokens is compared with p of n / p tokens, with p near `EQUAL_PROMPTS`.

    Args:
        table: prefill, curves that differ in the second axis alone, the prompt length.
        analytic: time over prompts at a length.

    Returns:
        Efficiencies, one for every curve; lengths too short to tell have that of the next longer one.
    """
    lengths = table.keys[:, 1]
    work, time = np.zeros(lengths.size), np.zeros(lengths.size)
    for row, length in enumerate(lengths.tolist()):
        short = max(0, int(np.searchsorted(lengths, length / EQUAL_PROMPTS, side="right")) - 1)
        prompts = length / float(lengths[short])
        if short == row or prompts > table.knots(short)[0][-1]:
            continue
        whole = float(analytic(length)(1.0))
        work[row] = whole - float(analytic(float(lengths[short]))(prompts))
        time[row] = float(table.at(row, 1.0)) - float(table.at(short, prompts))
        if work[row] < LEAST_DIFFERENCE * whole:
            work[row] = 0.0
    known = work > 0.0
    if not known.any():
        return np.ones(lengths.size)
    time = np.maximum.accumulate(np.where(known, time, 0.0))
    return np.asarray(np.interp(np.log(lengths), np.log(lengths[known]), time[known] / work[known]))


@dataclass(frozen=True, eq=False)
class _Table:
    """A table with what its name says: the layer, and what of it was measured."""

    shape: str
    scope: str
    curves: CurveSet
    heads: FloatArray


@dataclass(frozen=True, eq=False)
class _Measured:
    """Efficiencies at one head count; that of pairs (per point of the grid) for prefill, else empty."""

    grid: EfficiencyGrid
    pairs: FloatArray
    contexts: tuple[_Contexts, ...] = ()

    def added(self, new: float, context: float) -> float:
        """Efficiency of what context before a chunk adds."""
        if not self.contexts:
            equal = np.sqrt(new * (new + 2.0 * context))
            return float(np.interp(np.log(equal), np.log(self.grid.points), self.pairs))
        sizes = np.log([row.new_tokens for row in self.contexts])
        place = float(np.interp(np.log(new), sizes, np.arange(sizes.size)))
        shares = ((1.0 - abs(place - index), row) for index, row in enumerate(self.contexts))
        return sum(share * row.efficiency(context) for share, row in shares if share > 0.0)


@dataclass(frozen=True, eq=False)
class _Contexts:
    """What context before a chunk of `new_tokens` adds: measured and analytic ms at contexts, shape (k,), from 0."""

    new_tokens: float
    contexts: FloatArray
    measured: FloatArray
    analytic: FloatArray

    def efficiency(self, context: float) -> float:
        """Measured over analytic, each linear between contexts; that of the last one beyond it."""
        at = np.clip(context, 1.0, self.contexts[-1])
        measured, analytic = (float(np.interp(at, self.contexts, values)) for values in (self.measured, self.analytic))
        return measured / max(analytic, 1e-12)


class LatentAttentionTables:
    """Times of latent attention from the tables of one GPU and engine.

    Args:
        tables: by name; those whose name starts with `latent.` are used (`planner.kernels.build.latent_attention`).
        analytic: rooflines of the same GPU.
        gemm_ms: time of a matrix product over rows, as the cost model will price it.
    """

    def __init__(
        self,
        tables: Mapping[str, CurveSet],
        analytic: AnalyticKernels,
        gemm_ms: Callable[[Gemm], PiecewiseLinear],
    ) -> None:
        self._analytic = analytic
        self._gemm_ms = gemm_ms
        self._tables: dict[tuple[str, str, str], _Table] = {}
        self._absorbed: tuple[Precision, CurveSet] | None = None
        self._contexts: dict[str, CurveSet] = {}
        for name in tables:
            parts = name.split(".")
            if parts[0] != "latent":
                continue
            curves = tables[name]
            if parts[1] == "bmm":
                self._absorbed = Precision.FP8 if parts[2] == "fp8" else Precision.BF16, curves
            elif parts[1] == "context":
                self._contexts[name] = curves
            else:
                phase, shape, scope, kv_dtype = parts[1:]
                self._tables[phase, shape, kv_dtype] = _Table(shape, scope, curves, np.unique(curves.keys[:, 0]))
        self._grids: dict[tuple[str, float], _Measured] = {}

    def time_ms(self, operator: DecodeAttention | PrefillAttention) -> Answer | None:
        """Time of an attention core, or None where it is not latent attention or was not measured."""
        if not isinstance(operator.attention, LatentAttention):
            return None
        phase = "decode" if isinstance(operator, DecodeAttention) else "prefill"
        found = self._find(phase, operator.attention, operator.kv_dtype)
        if found is None:
            return None
        table, origin = found
        grids, outside = self._around(table, phase, operator.attention.heads / operator.tp)
        if isinstance(operator, DecodeAttention):
            return self._decode(operator, grids, outside, origin)
        return self._prefill(operator, grids, outside, origin)

    def _work(self, attention: LatentAttention, tp: int, kv_dtype: Precision, new: float, context: float) -> float:
        time = self._analytic.time_ms(PrefillAttention("prefill_attention", attention, tp, kv_dtype, new, context))
        return float(time.y[0] + time.slope) if time.x.size == 1 else float(time(1.0))

    def _find(self, phase: str, attention: LatentAttention, kv_dtype: Precision) -> tuple[_Table, Origin] | None:
        """The table of the nearest measured layer and KV format, and its origin with a note on what differs."""
        best: tuple[tuple[float, float, int], _Table, str, str] | None = None
        wanted = _KV_NAMES.get(kv_dtype, ("fp8", "bf16"))
        for (of, name, stored), table in self._tables.items():
            shape = SHAPES[name].attention
            if of != phase or bool(shape.index_topk) != bool(attention.index_topk):
                continue
            # A layer that reuses a selection is first of all to be compared with one that does.
            rank = (
                float(bool(shape.index_heads) != bool(attention.index_heads)),
                _distance(shape, attention),
                wanted.index(stored),
            )
            if best is None or rank < best[0]:
                best = rank, table, name, stored
        if best is None:
            return None
        (reuse, distance, other), table, name, stored = best
        notes = [table.curves.origin.note] if table.curves.origin.note else []
        if reuse or distance > 0.0:
            notes.append(f"efficiency of the layer shape {name}")
        if other:
            notes.append(f"measured with a {stored} KV cache")
        return table, replace(table.curves.origin, note="; ".join(notes))

    def _around(self, table: _Table, phase: str, heads: float) -> tuple[list[tuple[_Measured, float]], float]:
        """Grids at the measured head counts around `heads`, with weights, and the factor outside of them."""
        near, outside = around(table.heads, heads)
        return [(self._grid(table, phase, value), weight) for value, weight in near], outside

    def _grid(self, table: _Table, phase: str, heads: float) -> _Measured:
        key = table.curves.name, heads
        if key not in self._grids:
            self._grids[key] = self._measure(table, phase, heads)
        return self._grids[key]

    def _measure(self, table: _Table, phase: str, heads: float) -> _Measured:
        shape = SHAPES[table.shape]
        attention = shape.attention.model_copy(update={"heads": round(heads)})
        kv_dtype = Precision.FP8 if table.curves.name.endswith(".fp8") else Precision.BF16

        def analytic(point: float) -> PiecewiseLinear:
            if phase == "decode":
                return self._analytic.time_ms(DecodeAttention("core", attention, 1, kv_dtype, point, point))
            return self._analytic.time_ms(PrefillAttention("core", attention, 1, kv_dtype, point, 0.0))

        around = self._around_core(table, phase, attention, shape.hidden)

        def core(point: float, x: FloatArray, time_ms: FloatArray) -> FloatArray:
            if around is None:
                return time_ms
            rows = x if phase == "decode" else x * point
            # No core is faster than its kernels' fixed time, however the projections next to it were priced.
            return np.maximum(time_ms - around(rows), float(analytic(point)(0.0)))

        measured = rising_together(table.curves, np.flatnonzero(table.curves.keys[:, 0] == heads))
        grid = EfficiencyGrid.of(measured, analytic, core)
        if phase == "decode":
            return _Measured(grid, np.zeros(0))
        contexts = self._contexts.get(table.curves.name.replace("latent.prefill.", "latent.context."))
        rows = () if contexts is None else tuple(self._rows(measured, contexts, attention, kv_dtype, heads))
        return _Measured(grid, pair_efficiency(measured, analytic), rows)

    def _rows(
        self, prefill: CurveSet, contexts: CurveSet, attention: LatentAttention, kv_dtype: Precision, heads: float
    ) -> Iterator[_Contexts]:
        """What context adds to one prompt's chunk, per measured chunk size at one head count."""
        at_heads = np.flatnonzero(contexts.keys[:, 0] == heads)
        if at_heads.size == 0:
            return
        contexts = rising_together(contexts, at_heads)
        for curve in range(len(contexts.keys)):
            new = float(contexts.keys[curve, 1])
            without = np.flatnonzero((prefill.keys == contexts.keys[curve]).all(axis=1))
            if without.size == 0:
                continue
            before = contexts.knots(curve)[0]
            # The selection sets in where contexts reach its size: the analytic time has a kink there.
            before = np.unique(np.append(before, np.clip(attention.index_topk, before[0], before[-1])))
            measured = contexts.at(curve, before) - float(prefill.at(int(without[0]), 1.0))
            analytic = np.array([self._work(attention, 1, kv_dtype, new, context) for context in before.tolist()])
            yield _Contexts(
                new,
                np.concatenate(([0.0], before)),
                np.concatenate(([0.0], np.maximum.accumulate(np.maximum(measured, 0.0)))),
                np.concatenate(([0.0], np.maximum.accumulate(analytic - self._work(attention, 1, kv_dtype, new, 0.0)))),
            )

    def _around_core(
        self, table: _Table, phase: str, attention: LatentAttention, hidden: int
    ) -> Callable[[FloatArray], FloatArray] | None:
        """What the cost model will add that the measured times already hold, ms over rows; None for nothing."""
        if table.scope == "core":
            return self._beyond_absorbed(attention, hidden) if phase == "decode" and self._absorbed else None
        precision = Precision.FP8 if table.scope == "module_fp8" else Precision.BF16
        return total([self._gemm_ms(gemm) for gemm in projections(attention, hidden, 1, precision)])

    def _beyond_absorbed(self, attention: LatentAttention, hidden: int) -> Callable[[FloatArray], FloatArray]:
        """What the cost model's `kv_up` product takes beyond the measured absorbed products, ms over rows."""
        assert self._absorbed is not None
        precision, products = self._absorbed
        gemm = next(gemm for gemm in projections(attention, hidden, 1, precision) if gemm.name == "kv_up")
        priced = self._gemm_ms(gemm)
        near = neighbours(products.keys, [float(attention.heads)])

        def beyond(rows: FloatArray) -> FloatArray:
            measured = [
                weight * np.interp(rows, *products.rising(curve))
                for curve, weight in zip(near.curves, near.weights, strict=True)
            ]
            return np.asarray(priced(rows) - sum(measured, np.zeros(rows.shape)))

        return beyond

    def _decode(
        self,
        operator: DecodeAttention,
        grids: list[tuple[_Measured, float]],
        outside: float,
        origin: Origin,
    ) -> Answer:
        assert isinstance(operator.attention, LatentAttention)
        topk = float(operator.attention.index_topk)
        splits = np.unique(np.concatenate([*(measured.grid.points for measured, _ in grids), [topk] if topk else []]))
        x = np.unique(np.concatenate([measured.grid.x for measured, _ in grids]))
        times = np.zeros(x.size)
        slope = 0.0
        for context, share in context_nodes(operator.first_context, operator.last_context, splits):
            work = self._analytic.time_ms(replace(operator, first_context=context, last_context=context))
            ratio = _blended(grids, x, context)
            times += share * work(x) * ratio
            slope += share * work.slope * float(ratio[-1])
        ends = operator.first_context, operator.last_context
        outside = max([outside, *(outside_of(measured.grid.points, *ends) for measured, _ in grids)])
        last = min(measured.grid.reach(0.5 * sum(ends)) for measured, _ in grids)
        return Answer(through(x, times, slope), outside, origin, last)

    def _prefill(
        self,
        operator: PrefillAttention,
        grids: list[tuple[_Measured, float]],
        outside: float,
        origin: Origin,
    ) -> Answer:
        new, context = operator.new_tokens, operator.context
        equal = float(np.sqrt(new * (new + 2.0 * context)))
        x = np.unique(np.concatenate([measured.grid.x for measured, _ in grids]))
        alone = self._analytic.time_ms(replace(operator, context=0.0))
        whole = self._analytic.time_ms(operator)
        ratio = _blended(grids, x, new)
        marginal = sum(weight * measured.added(new, context) for measured, weight in grids)
        times = alone(x) * ratio + (whole(x) - alone(x)) * marginal
        slope = alone.slope * float(ratio[-1]) + (whole.slope - alone.slope) * marginal
        outside = max([outside, *(outside_of(measured.grid.points, new, equal) for measured, _ in grids)])
        last = min(measured.grid.reach(new) for measured, _ in grids)
        return Answer(through(x, times, slope), outside, origin, last)


def _blended(grids: list[tuple[_Measured, float]], x: FloatArray, point: float) -> FloatArray:
    """Efficiencies at `x`: both times blended over head counts, then divided; shape of `x`."""
    times = np.zeros((2, x.size))
    for measured, weight in grids:
        times += weight * measured.grid.at(x, point)
    return np.asarray(times[0] / times[1])


def _distance(shape: LatentAttention, attention: LatentAttention) -> float:
    """How far two layers' dimensions lie apart: sum of absolute logarithms; head counts aside."""
    sizes = [
        (each.kv_lora_rank, each.qk_nope_head_dim, each.qk_rope_head_dim, each.v_head_dim)
        + ((each.index_heads, each.index_head_dim) if shape.index_heads and attention.index_heads else ())
        + ((each.index_topk,) if each.index_topk else ())
        for each in (shape, attention)
    ]
    return float(np.abs(np.log(np.array(sizes[0], dtype=float) / np.array(sizes[1], dtype=float))).sum())
