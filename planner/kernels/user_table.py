"""Times that the user measured (`cleave calibrate`) as a kernel library, asked before every other one.

A point that was measured is answered with what was measured. Between points, and up to a factor of `FURTHEST` outside
of them, the efficiency is interpolated: time(x) = analytic(x) x the weighted mean over neighbouring curves of
measured / analytic, the analytic time being the roofline of `planner.costs.analytic` for that very operator. All
interpolation is linear in the logarithms of keys and variable; beyond the measured variable the last efficiency holds.
Further away, and for operators of another shape or format, the table has no answer and the next library is asked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from planner.calibrate.table import FAMILIES, Header, Key, Row, Table
from planner.costs.analytic import LARGEST_TOKENS, AnalyticKernels, hottest_rank
from planner.costs.attention import clipped_area, local_kv_heads, mean_clipped, prefill_work
from planner.costs.efficiency import EFFICIENCY
from planner.costs.fabric import Collectives
from planner.costs.linear import FloatArray, PiecewiseLinear
from planner.costs.operators import DecodeAttention, Elementwise, Gemm, GroupedGemm, Operator, PrefillAttention
from planner.kernels.answer import Answer
from planner.kernels.blend import neighbours
from planner.kernels.collectives import ALL_REDUCE, CollectiveTables, Law
from planner.kernels.curves import CurveSet, Origin
from planner.kernels.distil import non_decreasing, segments
from planner.kernels.library import Used
from specs.errors import SpecError
from specs.hardware import GpuSpec
from specs.model import (
    BYTES_PER_ELEMENT,
    FactoredAttention,
    LatentAttention,
    Precision,
    SoftmaxAttention,
)

FURTHEST = 2.0
"""Factor outside the measured keys up to which the edge's efficiency is carried over."""

FASTEST, SLOWEST = 0.1, 300.0
"""A time outside these multiples of the analytic one is no time in ms on this GPU, and the table is refused."""

CHORD_ERROR = 0.005
"""Relative error of the chords that an interpolated time is given by."""

BLOCK_FORMAT = "fp8_block"

AXES: dict[str, tuple[str, ...]] = {
    "gemm": ("n", "k"),
    "grouped_gemm": ("active_experts",),
    "decode_attention": ("context",),
    "decode_mla": ("context",),
    "prefill_attention": ("context", "new_tokens"),
    "prefill_mla": ("context", "new_tokens"),
    "stream": (),
    "all_reduce": ("ranks",),
}
"""Keys between whose values the efficiency is interpolated; the others must be the same."""

Exact = tuple[str, tuple[tuple[str, Key], ...]]
"""Operator and the keys that must be the same."""


@dataclass(frozen=True)
class _Query:
    """An operator in the terms of the table.

    Args:
        exact: operator and keys that must be the same.
        at: values of the axes.
        moved: the operator with other values of the axes.
    """

    exact: Exact
    at: tuple[float, ...]
    moved: Callable[[Sequence[float]], Operator]


class UserKernels:
    """A user table as a `planner.costs.kernels.KernelLibrary`.

    Args:
        header: what was measured on what.
        rows: the points.
        gpu: the GPU type, which must be the table's.
        file: name of the table, for the plan's provenance.
        slowdown: factor on every time.
    """

    def __init__(self, header: Header, rows: Sequence[Row], gpu: GpuSpec, file: str, *, slowdown: float = 1.0) -> None:
        self.header = header
        self.file = file
        self.used: dict[Operator, Used] = {}
        self._gpu = gpu
        self._slowdown = slowdown
        self._analytic = AnalyticKernels(gpu)
        self._tables = {exact: self._table(exact, part) for exact, part in _grouped(rows).items()}

    @staticmethod
    def of(path: Path, table: Table, gpu: GpuSpec, *, slowdown: float = 1.0) -> UserKernels | None:
        """A table for a GPU type; None where it was measured on another one and so does not apply.

        Args:
            path: file that the table was read from.
            table: what it holds.
            gpu: the GPU type.
            slowdown: factor on every time.

        Raises:
            SpecError: a time cannot be one in milliseconds on this GPU (`FASTEST`, `SLOWEST`).
        """
        if table.header.gpu != gpu.id:
            return None
        kernels = UserKernels(table.header, table.rows, gpu, path.name, slowdown=slowdown)
        for line, row in enumerate(table.rows, start=2):
            kernels._check_plausible(row, path, line)
        return kernels

    @property
    def source(self) -> str:
        """Where the times come from."""
        return f"calibration {self.file}"

    @property
    def origins(self) -> frozenset[Origin]:
        """Provenance of everything that the table answers."""
        return frozenset(table.origin for table in self._tables.values())

    def time_ms(self, operator: Operator) -> PiecewiseLinear | None:
        """Time in ms as a function of the operator's variable, or None where the table has no answer."""
        if operator not in self.used:
            answer = self.answer(operator)
            if answer is None:
                return None
            self.used[operator] = Used(answer, borrowed=False)
        return self.used[operator].answer.time.scaled(self._slowdown)

    def answer(self, operator: Operator) -> Answer | None:
        """The time without slowdown, how far outside the measured keys it lies, its table; None where there is none."""
        match operator:
            case GroupedGemm():
                return self._experts(operator)
            case Elementwise():
                return self._elementwise(operator)
            case _:
                query = _query(operator)
        table = self._tables.get(query.exact) if query is not None else None
        if query is None or table is None:
            return None
        near = neighbours(table.keys, query.at)
        if near.outside > FURTHEST:
            return None
        parts = [
            (weight, table, curve, self._analytic.time_ms(query.moved(table.keys[curve].tolist())))
            for curve, weight in zip(near.curves, near.weights, strict=True)
        ]
        last = min(float(table.knots(curve)[0][-1]) for curve in near.curves)
        return Answer(_fused(self._analytic.time_ms(operator), parts), near.outside, table.origin, last)

    def collectives(self, others: Collectives | None) -> Collectives | None:
        """The measured all-reduces, asked before `others`; just those where none was measured.

        An all-reduce is no operator of `planner.costs.operators`, so `time_ms` does not give it.
        """
        table = self._tables.get(("all_reduce", ()))
        return others if table is None else UserCollectives(table, others)

    def _table(self, exact: Exact, rows: Sequence[Row]) -> CurveSet:
        axes = AXES[exact[0]]
        by_key: dict[tuple[float, ...], list[Row]] = {}
        for row in rows:
            keys = dict(row.keys)
            by_key.setdefault(tuple(float(keys[axis]) for axis in axes), []).append(row)
        curves, errors = [], []
        for key, points in by_key.items():
            points.sort(key=lambda row: row.value)
            measured = np.array([row.time_ms for row in points])
            times = non_decreasing(measured)
            errors.append(np.abs(times / measured - 1.0))
            curves.append((key, np.array([row.value for row in points], dtype=float), times))
        spread = np.array([row.spread for row in rows])
        fitted = np.concatenate(errors)
        origin = Origin(
            f"{self.source}, measured {self.header.date}",
            f"PyTorch on {self.header.device}",
            self.header.torch,
            len(rows),
            float(np.quantile(spread, 0.95)),
            float(spread.max()),
            int((spread > 0.15).sum()),
            float(np.quantile(fitted, 0.95)),
            int((fitted > 0.15).sum()),
            "errors are the spread of the samples; kernels: " + ", ".join(sorted({row.kernel for row in rows})),
        )
        return CurveSet.of(exact[0], axes, FAMILIES[exact[0]].variable, curves, origin)

    def _elementwise(self, operator: Elementwise) -> Answer | None:
        table = self._tables.get(("stream", ()))
        if table is None or operator.bytes_per_token <= 0 or not operator.kernels:
            return None
        # `kernels` kernels share the bytes; a measured one moves x bytes.
        per_kernel = operator.bytes_per_token / operator.kernels
        stretched = replace(table, x=table.x / per_kernel)
        one = self._analytic.time_ms(replace(operator, bytes_per_token=per_kernel, kernels=1))
        time = _fused(self._analytic.time_ms(operator), [(1.0, stretched, 0, one)])
        return Answer(time, 1.0, table.origin, float(stretched.x[-1]))

    def _experts(self, operator: GroupedGemm) -> Answer | None:
        """The two products by their measured efficiency; gather, activation and scatter as the analytic model has them.

        Pairs and activated experts of the most loaded rank follow from routing (`hottest_rank`); the table has times
        over both.
        """
        keys: dict[str, Key] = {
            "precision": weight_format(operator.precision, block=operator.block),
            "hidden": operator.hidden,
            "intermediate": operator.intermediate,
            "gated": operator.gated,
        }
        table = self._tables.get(("grouped_gemm", tuple(keys.items())))
        if table is None:
            return None
        measured_active = table.keys[:, 0]
        outside = max(1.0, operator.slots_per_rank / measured_active[-1])
        if outside > FURTHEST:
            return None
        tokens = np.unique(np.concatenate((np.geomspace(1.0, LARGEST_TOKENS, 81), table.x)))
        tokens = tokens[tokens <= LARGEST_TOKENS]
        pairs, active = hottest_rank(operator, tokens)
        products = self._products_ms(operator, pairs, active)
        around = np.maximum(self._analytic.time_ms(operator)(tokens) - products, 0.0)
        ratios = np.empty((measured_active.size, tokens.size))
        for curve, experts in enumerate(measured_active):
            x, time = table.knots(curve)
            ratios[curve] = np.interp(np.log(pairs), np.log(x), time / self._products_ms(operator, x, experts))
        time_ms = np.maximum.accumulate(around + products * _across(np.log(measured_active), ratios, np.log(active)))
        last = float(np.interp(table.x[-1], pairs, tokens))
        return Answer(_chords(tokens, time_ms), outside, table.origin, last)

    def _products_ms(self, operator: GroupedGemm, pairs: FloatArray, active: ArrayLike) -> FloatArray:
        """Analytic time in ms of the two products alone, of `pairs` pairs over `active` experts."""
        efficiency = EFFICIENCY[self._gpu.architecture]
        params = (3.0 if operator.gated else 2.0) * operator.hidden * operator.intermediate
        compute = 2.0 * params / (self._analytic.flops_per_ms(operator.precision) * efficiency.grouped_compute)
        read_ms = params * BYTES_PER_ELEMENT[operator.precision] / self._analytic.bytes_per_ms
        read_ms /= efficiency.weight_memory
        return np.asarray(2e-3 * efficiency.kernel_us + np.maximum(pairs * compute, np.asarray(active) * read_ms))

    def _check_plausible(self, row: Row, path: Path, line: int) -> None:
        expected = self._expected_ms(row)
        if expected is None or row.stand_in or FASTEST * expected <= row.time_ms <= SLOWEST * expected:
            return
        raise SpecError(
            f"{row.time_ms:g} ms is {row.time_ms / expected:.3g} times what the data sheet of {self._gpu.id} lets "
            f"expect ({expected:.3g} ms); is it in milliseconds? accepted: {FASTEST:g} to {SLOWEST:g} times",
            field="time_ms",
            file=str(path),
            line=line,
        )

    def _expected_ms(self, row: Row) -> float | None:
        """Analytic time of a row's point in ms; None for collectives."""
        operator = _operator(row)
        if isinstance(operator, GroupedGemm):
            active = float(dict(row.keys)["active_experts"])
            return float(self._products_ms(operator, np.array(float(row.value)), active))
        return None if operator is None else float(self._analytic.time_ms(operator)(row.value))


class UserCollectives:
    """Measured all-reduces of the user, for the numbers of ranks that were measured, before other tables.

    Args:
        table: times in ms over bytes at (ranks,).
        others: asked for everything else.
    """

    def __init__(self, table: CurveSet, others: Collectives | None) -> None:
        self._ranks = frozenset(table.keys[:, 0].tolist())
        self._tables = CollectiveTables({ALL_REDUCE: table})
        self._others = others

    def time_ms(self, name: str, key: tuple[float, ...], law: PiecewiseLinear, reference: Law) -> Answer | None:
        """As `planner.kernels.collectives.CollectiveTables.time_ms`."""
        if name == ALL_REDUCE and key[0] in self._ranks:
            return self._tables.time_ms(name, key, law, reference)
        return None if self._others is None else self._others.time_ms(name, key, law, reference)


def expanded_is_cheaper(attention: LatentAttention, tp: int, new_tokens: float, context: float) -> bool:
    """Whether a chunk's attention is computed on keys and values expanded from the latent, as `prefill_mla` is."""
    if attention.index_topk:
        return False
    width = 2.0 * attention.kv_lora_rank + attention.qk_rope_head_dim
    absorbed = 2.0 * attention.heads / tp * width * clipped_area(new_tokens, context, math.inf)
    (work,) = prefill_work(attention, tp, Precision.BF16, new_tokens, context)
    return work.flops < absorbed * (1.0 - 1e-9)


def weight_format(precision: Precision, *, block: bool) -> str:
    """Name of a weight format in the table."""
    return BLOCK_FORMAT if block else precision.value


def _precision(name: str) -> tuple[Precision, bool]:
    """Inverse of `weight_format`: the precision, and whether FP8 weights have a scale per block."""
    return (Precision.FP8, True) if name == BLOCK_FORMAT else (Precision(name), False)


def _grouped(rows: Sequence[Row]) -> dict[Exact, list[Row]]:
    """Rows by operator and exact keys; stand-ins are left out."""
    found: dict[Exact, list[Row]] = {}
    for row in rows:
        if not row.stand_in:
            exact = tuple((name, value) for name, value in row.keys if name not in AXES[row.operator])
            found.setdefault((row.operator, exact), []).append(row)
    return found


def _query(operator: Gemm | DecodeAttention | PrefillAttention) -> _Query | None:
    """The operator in the terms of the table; None where its shape is not one that is measured."""
    match operator:
        case Gemm():
            return _Query(
                ("gemm", (("precision", weight_format(operator.precision, block=operator.block)),)),
                (operator.outputs, operator.inputs),
                lambda at: replace(operator, outputs=round(at[0]), inputs=round(at[1])),
            )
        case DecodeAttention():
            found = _decode_keys(operator)
            if found is None:
                return None
            exact, whole, context = found
            return _Query(exact, (context,), lambda at: replace(whole, first_context=at[0], last_context=at[0]))
        case PrefillAttention():
            prefill = _prefill_exact(operator)
            if prefill is None:
                return None
            return _Query(
                prefill,
                (operator.context, operator.new_tokens),
                lambda at: replace(operator, context=at[0], new_tokens=at[1]),
            )


def _decode_keys(operator: DecodeAttention) -> tuple[Exact, DecodeAttention, float] | None:
    """Exact keys, the operator over the whole context, and the mean context that it reads.

    A window only shortens the context: reading the last w tokens of a longer one costs what reading w tokens costs.
    """
    attention, tp = operator.attention, operator.tp
    queries = ("queries", operator.queries)
    precision = ("kv_precision", operator.kv_dtype.value)
    match attention:
        case SoftmaxAttention() | FactoredAttention() if attention.heads % tp == 0:
            window = math.inf
            if isinstance(attention, SoftmaxAttention):
                window = attention.window_tokens or math.inf
                operator = replace(operator, attention=attention.model_copy(update={"window_tokens": None}))
            kv_heads = ("kv_heads", local_kv_heads(attention.kv_heads, tp))
            keys = (precision, ("heads", attention.heads // tp), kv_heads, ("head_dim", attention.head_dim), queries)
            context = mean_clipped(operator.first_context, operator.last_context, window)
            return ("decode_attention", keys), operator, context
        case LatentAttention() if attention.heads % tp == 0 and not attention.index_topk:
            latent = (("kv_lora_rank", attention.kv_lora_rank), ("qk_rope_head_dim", attention.qk_rope_head_dim))
            context = mean_clipped(operator.first_context, operator.last_context, math.inf)
            return ("decode_mla", (precision, ("heads", attention.heads // tp), *latent, queries)), operator, context
    return None


def _prefill_exact(operator: PrefillAttention) -> Exact | None:
    attention, tp = operator.attention, operator.tp
    precision = ("kv_precision", operator.kv_dtype.value)
    match attention:
        case SoftmaxAttention() | FactoredAttention() if attention.heads % tp == 0:
            window = attention.window_tokens if isinstance(attention, SoftmaxAttention) else None
            if window is not None and window < operator.context + operator.new_tokens:
                return None  # a window that hides keys saves products, which no measured row does
            kv_heads = ("kv_heads", local_kv_heads(attention.kv_heads, tp))
            keys = (precision, ("heads", attention.heads // tp), kv_heads, ("head_dim", attention.head_dim))
            return "prefill_attention", keys
        case LatentAttention() if attention.heads % tp == 0:
            if not expanded_is_cheaper(attention, tp, operator.new_tokens, operator.context):
                return None
            return "prefill_mla", (
                precision,
                ("heads", attention.heads // tp),
                ("kv_lora_rank", attention.kv_lora_rank),
                ("qk_nope_head_dim", attention.qk_nope_head_dim),
                ("qk_rope_head_dim", attention.qk_rope_head_dim),
                ("v_head_dim", attention.v_head_dim),
            )
    return None


def _operator(row: Row) -> Operator | None:
    """The operator that a row measured; None for collectives."""
    keys: dict[str, Any] = dict(row.keys)
    kv = Precision(keys.get("kv_precision", Precision.BF16))
    match row.operator:
        case "gemm":
            return Gemm("row", keys["k"], keys["n"], *_precision(keys["precision"]))
        case "grouped_gemm":
            active, precision = keys["active_experts"], _precision(keys["precision"])
            return GroupedGemm(
                "row", keys["hidden"], keys["intermediate"], keys["gated"], active, active, 1, 1, 0.0, *precision
            )
        case "decode_attention" | "prefill_attention":
            softmax = SoftmaxAttention(heads=keys["heads"], kv_heads=keys["kv_heads"], head_dim=keys["head_dim"])
            if row.operator == "prefill_attention":
                return PrefillAttention("row", softmax, 1, kv, keys["new_tokens"], keys["context"])
            return DecodeAttention("row", softmax, 1, kv, keys["context"], keys["context"], keys["queries"])
        case "decode_mla" | "prefill_mla":
            rank = keys["kv_lora_rank"]
            latent = LatentAttention(
                heads=keys["heads"],
                kv_lora_rank=rank,
                # The absorbed form of a decode step knows neither of these widths.
                qk_nope_head_dim=keys.get("qk_nope_head_dim", rank),
                v_head_dim=keys.get("v_head_dim", rank),
                qk_rope_head_dim=keys["qk_rope_head_dim"],
            )
            if row.operator == "prefill_mla":
                return PrefillAttention("row", latent, 1, kv, keys["new_tokens"], keys["context"])
            return DecodeAttention("row", latent, 1, kv, keys["context"], keys["context"], keys["queries"])
        case "stream":
            return Elementwise("row", 1.0, 1)
    return None


def _fused(query: PiecewiseLinear, parts: Sequence[tuple[float, CurveSet, int, PiecewiseLinear]]) -> PiecewiseLinear:
    """The analytic time times the weighted mean efficiency of measured curves.

    Args:
        query: analytic time of the operator.
        parts: weight, table, curve and the analytic time of that curve's operator.
    """
    knots = [table.knots(curve)[0] for _, table, curve, _ in parts]
    top = max(float(query.x[-1]), *(float(x[-1]) for x in knots))
    low = min(float(x[0]) for x in knots)
    grid = np.unique(np.concatenate((np.zeros(1), query.x, *knots, np.geomspace(low, max(top, 2.0 * low), 33))))
    ratio = np.zeros_like(grid)
    for (weight, table, curve, analytic), x in zip(parts, knots, strict=True):
        measured = table.knots(curve)[1] / analytic(x)
        ratio += weight * np.interp(np.log(np.maximum(grid, x[0])), np.log(x), measured)
    time_ms = np.maximum.accumulate(query(grid) * ratio)
    return replace(_chords(grid, time_ms), slope=query.slope * float(ratio[-1]))


def _chords(x: FloatArray, time_ms: FloatArray) -> PiecewiseLinear:
    """The fewest chords within `CHORD_ERROR` of a non-decreasing time; constant below the first x."""
    keep = segments(x, time_ms, CHORD_ERROR)
    knots, values = x[keep], time_ms[keep]
    slope = float((values[-1] - values[-2]) / (knots[-1] - knots[-2])) if knots.size > 1 else 0.0
    error = float(np.max(np.abs(np.interp(x, knots, values) / time_ms - 1.0)))
    if knots[0] > 0.0:
        knots, values = np.concatenate(([0.0], knots)), np.concatenate((values[:1], values))
    return PiecewiseLinear(knots, values, slope, error)


def _across(x: FloatArray, rows: FloatArray, at: FloatArray) -> FloatArray:
    """Column j of `rows`, a function of the ascending x, linear between and constant outside, at `at[j]`."""
    if x.size == 1:
        return np.asarray(rows[0])
    where = np.clip(np.searchsorted(x, at) - 1, 0, x.size - 2)
    share = np.clip((at - x[where]) / (x[where + 1] - x[where]), 0.0, 1.0)
    columns = np.arange(at.size)
    return np.asarray((1.0 - share) * rows[where, columns] + share * rows[where + 1, columns])
