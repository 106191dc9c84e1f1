"""Measured softmax attention (MHA, GQA, sliding windows): times of decode and prefill cores from tables.

A table holds one KV cache format, head dimension and window; its curves run over sequences (or prompts) at measured
KV heads, heads and context (or prompt length). For one model on one rank the curves around its heads become a
`_Surface`: times on a grid of lines (contexts or prompt lengths) and batches. From there

- a decode step's mean over its growing context is exact: between lines the time is linear in the context (the cache
  is read once), so the mean over an interval is a fixed combination of lines;
- a prefill chunk with a context before it is the prompt without context that has as many query-key pairs, for the core
  is bound by its products. Tables have no rows with a context, and this choice is continuous where the context is 0,
  never falls as the chunk or the context grows, and keeps the floor of small kernels. It assumes that kernels split
  long contexts over the GPU where a chunk has few query tiles. Between prompt lengths the time is a power law.

Heads between measured ones, head dimensions and formats that were not measured, batches, contexts and prompts beyond
the measured carry the efficiency (measured over analytic time) over.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.costs.analytic import AnalyticKernels
from planner.costs.attention import local_kv_heads
from planner.costs.linear import PiecewiseLinear, total
from planner.costs.operators import DecodeAttention, Operator, PrefillAttention
from planner.kernels.answer import Answer
from planner.kernels.blend import neighbours, reach
from planner.kernels.curves import CurveSet, Origin
from specs.model import BYTES_PER_ELEMENT, FactoredAttention, Precision, SoftmaxAttention

FloatArray = NDArray[np.float64]

DECODE = "decode_attention"
PREFILL = "prefill_attention"
AXES = {DECODE: ("kv_heads", "heads", "context"), PREFILL: ("kv_heads", "heads", "tokens")}
VARIABLE = {DECODE: "sequences", PREFILL: "prompts"}

Core = SoftmaxAttention | FactoredAttention
"""Attention that these tables answer for; Step-3's factored attention is grouped-query attention with one KV head."""

FAR_TOKENS = float(1 << 24)
"""A line at which every surface ends: the last measured line's time with the efficiency carried over."""


def table_name(kind: str, kv_dtype: Precision, head_dim: int, window: int) -> str:
    """Name of a table; window 0 is full attention."""
    return f"{kind}.{kv_dtype}.d{head_dim}.w{window}"


@dataclass(frozen=True)
class _Group:
    """Tables of one kind, KV format and head dimension, by window (0: full)."""

    kv_dtype: Precision
    head_dim: int
    windows: dict[int, CurveSet]


@dataclass(frozen=True, eq=False)
class _Surface:
    """Times of one attention on one rank at the window of one table.

    Args:
        lines: contexts or prompt lengths, ascending, shape (l,).
        batches: ascending, shape (b,).
        time_ms: shape (l, b), non-decreasing along lines and batches.
        slope: ms per sequence beyond the last batch, shape (l,).
        last: longest measured line.
        most: sequences or prompts up to which every line was measured, shape (l,).
        outside: factor by which heads, head dimension or format lie outside the measured.
        origin: the table.
    """

    lines: FloatArray
    batches: FloatArray
    time_ms: FloatArray
    slope: FloatArray
    last: float
    most: FloatArray
    outside: float
    origin: Origin

    def mean(self, first: float, last: float, cap: float) -> PiecewiseLinear:
        """Mean over c uniform on [first, last] of the time at min(c, cap)."""
        within = self.lines[(self.lines > first) & (self.lines < last)]
        points = np.concatenate(([first], within, [last]))
        if first < cap < last:
            points = np.sort(np.append(points, cap))
        share = np.zeros(points.size)
        if last > first:
            width = np.diff(points) / (2.0 * (last - first))
            share[:-1] += width
            share[1:] += width
        else:
            share[0] = 1.0
        below, above = self._between(np.minimum(points, cap))
        size = self.lines.size
        weights = np.bincount(below, share * (1.0 - above), size) + np.bincount(below + 1, share * above, size)
        return self._over_batches(weights @ self.time_ms, float(weights @ self.slope))

    def at(self, tokens: float) -> PiecewiseLinear:
        """Time of prompts of `tokens` tokens, power laws between lines."""
        below, share = self._between(np.array([tokens]), logarithmic=True)
        line, part = int(below[0]), float(share[0])

        def between(values: FloatArray) -> FloatArray:
            return np.asarray(values[line] ** (1.0 - part) * values[line + 1] ** part)

        return self._over_batches(between(self.time_ms), float(between(self.slope)))

    def _between(self, at: FloatArray, *, logarithmic: bool = False) -> tuple[NDArray[np.intp], FloatArray]:
        below = np.clip(np.searchsorted(self.lines, at, side="right") - 1, 0, self.lines.size - 2)
        low, high = self.lines[below], self.lines[below + 1]
        at = np.clip(at, low, high)
        return below, np.asarray(np.log(at / low) / np.log(high / low) if logarithmic else (at - low) / (high - low))

    def _over_batches(self, time_ms: FloatArray, slope: float) -> PiecewiseLinear:
        return PiecewiseLinear(np.concatenate(([0.0], self.batches)), np.concatenate((time_ms[:1], time_ms)), slope)


class SoftmaxAttentionTables:
    """Times of softmax attention from measured tables.

    Args:
        tables: of one GPU and engine, by name; others than softmax attention's are passed over.
        analytic: of the same GPU.
    """

    def __init__(self, tables: Mapping[str, CurveSet], analytic: AnalyticKernels) -> None:
        self._analytic = analytic
        self._groups: dict[str, dict[tuple[Precision, int], _Group]] = {DECODE: {}, PREFILL: {}}
        self._surfaces: dict[tuple[str, Core, int, Precision, int, int], _Surface] = {}
        for name in sorted(tables):
            kind, *rest = name.split(".")
            if kind in self._groups:
                kv_dtype, head_dim, window = Precision(rest[0]), int(rest[1][1:]), int(rest[2][1:])
                group = self._groups[kind].setdefault((kv_dtype, head_dim), _Group(kv_dtype, head_dim, {}))
                group.windows[window] = tables[name]

    def time_ms(self, operator: Operator) -> Answer | None:
        """Time of a decode or prefill core; None for other operators, other attention, or without a table."""
        match operator:
            case DecodeAttention(attention=SoftmaxAttention() | FactoredAttention() as attention):
                return self._decode(operator, attention)
            case PrefillAttention(attention=SoftmaxAttention() | FactoredAttention() as attention):
                return self._prefill(operator, attention)
            case _:
                return None

    def _decode(self, operator: DecodeAttention, attention: Core) -> Answer | None:
        group = self._group(DECODE, attention, operator.kv_dtype)
        if group is None:
            return None
        window = _window(attention)
        # A window that was not measured reads as much of the cache as full attention over a context that long.
        measured = int(window) if window in group.windows else 0
        surface = self._surface(DECODE, group, attention, operator.tp, operator.kv_dtype, measured, operator.queries)
        cap = math.inf if measured else window
        time = surface.mean(operator.first_context, operator.last_context, cap)
        furthest = min(operator.last_context, window)
        outside = max(surface.outside, furthest / surface.last)
        mean = min(0.5 * (operator.first_context + operator.last_context), window)
        return Answer(time, outside, surface.origin, float(reach(surface.lines, surface.most, mean)))

    def _prefill(self, operator: PrefillAttention, attention: Core) -> Answer | None:
        tp, kv_dtype = operator.tp, operator.kv_dtype
        group = self._group(PREFILL, attention, kv_dtype)
        if group is None:
            return None
        window, end = _window(attention), operator.context + operator.new_tokens
        low, high, share = _windows(group, window, np.array(end))
        pairs = _pairs(np.array(end), window) - _pairs(np.array(operator.context), window)
        tokens = float(_prompt(pairs, high))
        surface = self._surface(PREFILL, group, attention, tp, kv_dtype, high)
        time, last = surface.at(tokens), float(reach(surface.lines, surface.most, tokens))
        if low is not None:
            narrow, shorter = self._surface(PREFILL, group, attention, tp, kv_dtype, low), float(_prompt(pairs, low))
            time = total([narrow.at(shorter).scaled(1.0 - float(share)), time.scaled(float(share))])
            last = min(last, float(reach(narrow.lines, narrow.most, shorter)))
        outside = max(surface.outside, tokens / surface.last)
        return Answer(time, outside, surface.origin, last)

    def _group(self, kind: str, attention: Core, kv_dtype: Precision) -> _Group | None:
        """The tables nearest in head dimension and bytes per element that have the window or full attention."""
        exact = self._groups[kind].get((kv_dtype, attention.head_dim))
        usable = {0, attention.window_tokens or 0} if isinstance(attention, SoftmaxAttention) else {0}
        if exact is not None and usable & exact.windows.keys():
            return exact
        groups = [group for group in self._groups[kind].values() if usable & group.windows.keys()]
        return min(
            groups, key=lambda group: sum(math.log(f) for f in _factors(group, attention, kv_dtype)), default=None
        )

    def _surface(
        self, kind: str, group: _Group, attention: Core, tp: int, kv_dtype: Precision, window: int, queries: int = 1
    ) -> _Surface:
        key = (kind, attention, tp, kv_dtype, window, queries)
        if key not in self._surfaces:
            self._surfaces[key] = self._blend(kind, group, attention, tp, kv_dtype, window, queries)
        return self._surfaces[key]

    def _blend(
        self, kind: str, group: _Group, attention: Core, tp: int, kv_dtype: Precision, window: int, queries: int
    ) -> _Surface:
        """Efficiencies (measured over analytic times) of the nearest heads, times the analytic time of the wanted."""
        table = group.windows[window]
        pairs, pair_of = np.unique(table.keys[:, :2], axis=0, return_inverse=True)
        near = neighbours(pairs, (local_kv_heads(attention.kv_heads, tp), attention.heads / tp))
        curves = [np.flatnonzero(pair_of.reshape(-1) == pair) for pair in near.curves]
        lines = np.append(np.unique(table.keys[np.concatenate(curves), 2]), FAR_TOKENS)
        batches = np.unique(table.x)
        efficiency = np.zeros((lines.size, batches.size))
        most = np.full(lines.size, np.inf)
        for pair, weight, rows in zip(near.curves, near.weights, curves, strict=True):
            kv_heads, heads = pairs[pair]
            shape = _shape(int(heads), int(kv_heads), group.head_dim, window)
            roof = self._roofline(kind, shape, 1, group.kv_dtype, lines, batches)
            efficiency += weight * _times(table, rows, lines, batches, roof, logarithmic=kind == PREFILL) / roof
            ends = np.array([table.knots(curve)[0][-1] for curve in rows.tolist()])
            most = np.minimum(most, reach(table.keys[rows, 2], ends, lines))
        shape = _shape(attention.heads, attention.kv_heads, attention.head_dim, window)
        roof = self._roofline(kind, shape, tp, kv_dtype, lines, batches, queries)
        time_ms = _rising(efficiency * roof)
        rise = (roof[:, -1] - roof[:, -2]) / (batches[-1] - batches[-2]) / roof[:, -1]
        last = min(float(table.keys[rows, 2].max()) for rows in curves)
        outside = max(near.outside, *_factors(group, attention, kv_dtype))
        return _Surface(lines, batches, time_ms, time_ms[:, -1] * rise, last, most, outside, table.origin)

    def _roofline(
        self,
        kind: str,
        shape: SoftmaxAttention,
        tp: int,
        kv_dtype: Precision,
        lines: FloatArray,
        batches: FloatArray,
        queries: int = 1,
    ) -> FloatArray:
        """Analytic ms at lines (rows) and batches (columns)."""
        if kind == DECODE:
            return np.array(
                [
                    self._analytic.time_ms(DecodeAttention("", shape, tp, kv_dtype, line, line, queries))(batches)
                    for line in lines.tolist()
                ]
            )
        return np.array(
            [
                self._analytic.time_ms(PrefillAttention("", shape, tp, kv_dtype, line, 0.0))(batches)
                for line in lines.tolist()
            ]
        )


def _times(
    table: CurveSet,
    curves: NDArray[np.intp],
    lines: FloatArray,
    batches: FloatArray,
    roof: FloatArray,
    *,
    logarithmic: bool,
) -> FloatArray:
    """Times of one pair of heads at lines (rows) and batches (columns); beyond what was measured the roofline's shape.

    Args:
        table: the table.
        curves: of the pair, in the order of their lines.
        lines: ascending; every line of the pair is among them, and the last lies beyond all.
        batches: ascending; every last knot is among them.
        roof: analytic times, of the shape of the result.
        logarithmic: power laws between the pair's lines rather than straight ones.
    """
    own = np.searchsorted(lines, table.keys[curves, 2])
    rows: list[FloatArray] = []
    for line, curve in zip(own, curves, strict=True):
        end = int(np.searchsorted(batches, table.knots(curve)[0][-1]))
        # Longer lines were measured with fewer sequences. Beyond a window they do the same work as the one before.
        same = bool(rows) and np.array_equal(roof[line], roof[own[len(rows) - 1]])
        growth = rows[-1] if same else roof[line]
        beyond = np.maximum(growth / growth[end], 1.0)
        rows.append(np.interp(batches, *table.rising(curve)) * beyond)
    rows.append(rows[-1] * roof[-1] / roof[own[-1]])
    own = np.append(own, lines.size - 1)
    time = np.array(rows)
    x = np.log(lines) if logarithmic else lines
    y = np.log(time) if logarithmic else time
    dense = np.array([np.interp(x, x[own], column) for column in y.T]).T
    return np.asarray(np.exp(dense) if logarithmic else dense)


def _rising(time_ms: FloatArray) -> FloatArray:
    """Times nearest in the largest relative error that neither longer lines nor more sequences make shorter.

    Curves of neighbouring contexts were measured one by one, and their noise would let a longer context take less.
    Midway, in the logarithm, between the slowest of all smaller problems and the fastest of all larger ones, as in
    `planner.kernels.rising.monotone`.
    """
    logs = np.log(time_ms)
    slowest = np.maximum.accumulate(np.maximum.accumulate(logs, axis=0), axis=1)
    fastest = np.minimum.accumulate(np.minimum.accumulate(logs[::-1, ::-1], axis=0), axis=1)[::-1, ::-1]
    return np.asarray(np.exp(0.5 * (slowest + fastest)))


def _shape(heads: int, kv_heads: int, head_dim: int, window: int) -> SoftmaxAttention:
    return SoftmaxAttention(heads=heads, kv_heads=kv_heads, head_dim=head_dim, window_tokens=window or None)


def _factors(group: _Group, attention: Core, kv_dtype: Precision) -> tuple[float, float]:
    """How far a group's head dimension and bytes per element are from the wanted ones, as factors >= 1."""
    dims = group.head_dim / attention.head_dim
    size = BYTES_PER_ELEMENT[group.kv_dtype] / BYTES_PER_ELEMENT[kv_dtype]
    return max(dims, 1.0 / dims), max(size, 1.0 / size)


def _window(attention: Core) -> float:
    """Tokens that the attention sees at most; inf for full attention."""
    return float((isinstance(attention, SoftmaxAttention) and attention.window_tokens) or math.inf)


def _windows(group: _Group, window: float, end: FloatArray) -> tuple[int | None, int, FloatArray]:
    """The measured windows that a prompt of `end` tokens lies between, and the share of the larger.

    Kernels work on whole tiles, so that a window costs its own tokens and about a tile for every query: what it costs
    above its pairs falls with its reciprocal, in which the share is taken. A window that was not measured lies between
    the next smaller measured one and full attention, which a window as long as the prompt is.

    Returns:
        The smaller window (None where one table answers), the larger (0: full attention), the larger's share.
    """
    measured = int(window) if window < math.inf else 0
    if measured in group.windows:
        return None, measured, np.ones(())
    smaller = [size for size in group.windows if 0 < size < window]
    if not smaller:
        return None, 0, np.ones(())
    low = max(smaller)
    return low, 0, np.asarray((1.0 / low - 1.0 / window) / (1.0 / low - 1.0 / np.maximum(end, window)))


def _pairs(tokens: FloatArray, window: float) -> FloatArray:
    """Query-key pairs of a prompt of `tokens` tokens under a causal window (continuous in the tokens)."""
    inner = np.minimum(tokens, window)
    return np.asarray(0.5 * inner * inner + (tokens - inner) * (inner if window == math.inf else window))


def _prompt(pairs: FloatArray, window: int) -> FloatArray:
    """Length of the prompt without context that has as many query-key pairs; inverse of `_pairs`."""
    triangle = np.sqrt(2.0 * pairs)
    return np.asarray(np.where(triangle <= window, triangle, pairs / window + 0.5 * window) if window else triangle)
