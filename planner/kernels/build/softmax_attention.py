"""Tables of softmax attention from published measurements.

One table per kind (decode, prefill), KV cache format, head dimension and window, as
`planner.kernels.softmax_attention` names them. Where the KV cache is FP8 and the engine's prefill was measured with
products in FP8 as well, those rows are taken: TensorRT-LLM and SGLang (FlashAttention-3) run a quantised checkpoint
with an FP8 cache that way, and the publisher's own tool selects them by the same rule. vLLM was measured with BF16
products only.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from planner.kernels.build.errors import provenance, with_errors
from planner.kernels.build.source import Kind, Rows, Source, SourceError
from planner.kernels.curves import CurveSet
from planner.kernels.distil import distil
from planner.kernels.softmax_attention import AXES, DECODE, PREFILL, VARIABLE, table_name
from specs.model import Precision

FloatArray = NDArray[np.float64]

FAMILY = "attention"
OPS = {DECODE: "generation_attention", PREFILL: "context_attention"}
DTYPES = {"bfloat16": Precision.BF16, "fp8": Precision.FP8}

COLUMNS: dict[str, Kind] = {
    "batch_size": "count",
    "isl": "count",
    "num_heads": "count",
    "num_key_value_heads": "count",
    "head_dim": "count",
    "attn_dtype": "text",
    "kv_cache_dtype": "text",
    "step": "index",
    "kernel_source": "text",
    "latency": "ms",
}
WINDOW = "window_size"

WITHOUT_WINDOWS = frozenset({("sglang", "0.5.10"), ("vllm", "0.14.0")})
"""Releases whose tables are older than the window column: full attention only."""

CHORD_ERROR = 0.02
"""Relative error of a chord along batches."""

TIME_STEP = 2.0**-6
"""Times are rounded to this in their base-2 logarithm, within 0.54%, so that tables compress."""

LINE_ERROR = 0.025
"""Relative error of the rows of a line of context or prompt length that is left out."""


def tables(source: Source, system: str, framework: str) -> list[CurveSet]:
    """Decode and prefill tables of one engine on one system.

    A table that the newest release lacks is taken from an older one.

    Raises:
        SourceError: the files are not what they should be.
    """
    found: dict[str, CurveSet] = {}
    for kind, op in OPS.items():
        for version in source.versions(system, FAMILY, framework, op):
            windows = (framework, version) not in WITHOUT_WINDOWS
            columns: dict[str, Kind] = {**COLUMNS, WINDOW: "index"} if windows else COLUMNS
            rows = source.rows(system, FAMILY, framework, op, columns, version=version)
            if rows is not None:
                for table in _tables(source, kind, rows):
                    found.setdefault(table.name, table)
    return list(found.values())


def _tables(source: Source, kind: str, rows: Rows) -> list[CurveSet]:
    for column in ("attn_dtype", "kv_cache_dtype"):
        unknown = np.flatnonzero(~np.isin(rows[column].astype(str), list(DTYPES)))
        if unknown.size:
            row, known = int(unknown[0]), ", ".join(DTYPES)
            raise SourceError(f"{rows.path}: column {column!r}, row {row + 1}: {rows[column][row]!r} is not in {known}")
    window = rows[WINDOW] if WINDOW in rows.columns else np.zeros(len(rows), dtype=np.int64)
    slices = zip(rows["kv_cache_dtype"].tolist(), rows["head_dim"].tolist(), window.tolist(), strict=True)
    made = []
    for kv_dtype, head_dim, size in sorted(set(slices)):
        which = (rows["kv_cache_dtype"] == kv_dtype) & (rows["head_dim"] == head_dim) & (window == size)
        chosen, note = _chosen(rows.select(which))
        made.append(_table(source, kind, table_name(kind, DTYPES[kv_dtype], head_dim, size), chosen, note))
    return made


def _chosen(rows: Rows) -> tuple[Rows, str]:
    """Rows of one kernel and one format of products, and what they are.

    SGLang's kernels are attention backends, of which a server runs one; with rows of several the one with most rows is
    taken (on data-centre Blackwell trtllm_mha, its default there). The other engines' kernel names tell phases of one
    backend apart, and all of them are taken. FP8 products are taken where they cover half of what BF16 ones do.
    """
    kernel, products = rows["kernel_source"], rows["attn_dtype"]
    note = ""
    if rows.framework == "sglang":
        names = sorted(set(kernel.tolist()), key=lambda name: (-int((kernel == name).sum()), name))
        note = f"kernel {names[0]}, "
        rows = rows.select(kernel == names[0])
        products = rows["attn_dtype"]
    quantised = products == "fp8"
    fp8 = 2 * int(quantised.sum()) >= int((~quantised).sum())
    return rows.select(quantised if fp8 else ~quantised), f"{note}products in {'FP8' if fp8 else 'BF16'}"


def _table(source: Source, kind: str, name: str, rows: Rows, note: str) -> CurveSet:
    line = rows["step"] + 1 if kind == DECODE else rows["isl"]
    pair = np.stack([rows["num_key_value_heads"], rows["num_heads"]], axis=1)
    curves: list[tuple[tuple[float, ...], FloatArray, FloatArray]] = []
    groups = []
    for key in np.unique(pair, axis=0):
        which = np.flatnonzero((pair == key).all(axis=1))
        lines, at = np.unique(line[which], return_inverse=True)
        batches, column = np.unique(rows["batch_size"][which], return_inverse=True)
        # Rows measured twice are averaged in the logarithm.
        total, count = np.zeros((lines.size, batches.size)), np.zeros((lines.size, batches.size))
        np.add.at(total, (at, column), np.log(rows["latency"][which]))
        np.add.at(count, (at, column), 1.0)
        time = np.exp(np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0))
        x = np.log(lines.astype(float)) if kind == PREFILL else lines.astype(float)
        knots = _kept(x, batches.astype(float), time, logarithmic=kind == PREFILL)
        first = len(curves)
        curves += [((*key.tolist(), float(lines[i])), *ends) for i, ends in knots.items()]
        groups.append((which, x[at], x[list(knots)], range(first, len(curves))))
    origin = provenance(f"{source.name}: {rows.path}", rows.framework, rows.version, note)
    table = CurveSet.of(name, AXES[kind], VARIABLE[kind], curves, origin)
    errors = np.empty((2, len(rows)))
    for which, place, kept, own in groups:
        batch = rows["batch_size"][which].astype(float)
        for error, read in zip(errors, (table.knots, table.rising), strict=True):
            time = np.array([np.interp(batch, *read(curve)) for curve in own])
            fitted = _between(kept, time, place, logarithmic=kind == PREFILL)
            error[which] = fitted / rows["latency"][which] - 1.0
    return with_errors(table, *errors)


def _between(x: FloatArray, time: FloatArray, at: FloatArray, *, logarithmic: bool) -> FloatArray:
    """Times between lines.

    Args:
        x: coordinates of the lines, ascending, shape (l,).
        time: of every line at n batches, shape (l, n).
        at: a coordinate for each of the batches, shape (n,).
        logarithmic: whether logarithms of times are interpolated.
    """
    if x.size == 1:
        return np.asarray(time[0])
    low = np.clip(np.searchsorted(x, at, side="right") - 1, 0, x.size - 2)
    share = (at - x[low]) / (x[low + 1] - x[low])
    level = np.log(time) if logarithmic else time
    column = np.arange(at.size)
    between = (1.0 - share) * level[low, column] + share * level[low + 1, column]
    return np.asarray(np.exp(between) if logarithmic else between)


def _kept(
    x: FloatArray, batches: FloatArray, time: FloatArray, *, logarithmic: bool
) -> dict[int, tuple[FloatArray, FloatArray]]:
    """Knots (batches and ms) of the lines that are kept, by index.

    Args:
        x: coordinate of the lines in which times (or their logarithms) are interpolated, ascending, shape (l,).
        batches: ascending, shape (b,).
        time: measured ms, NaN where there is no row, shape (l, b).
        logarithmic: whether logarithms of times are interpolated.
    """
    knots: list[tuple[FloatArray, FloatArray]] = []
    for row in time:
        there = ~np.isnan(row)
        ends, values = distil(batches[there], row[there], error=CHORD_ERROR)
        knots.append((ends, np.exp2(np.round(np.log2(values) / TIME_STEP) * TIME_STEP)))
    curves = np.array([np.interp(batches, *pair) for pair in knots])
    levels = np.log(curves) if logarithmic else curves
    kept = [0]
    while kept[-1] < x.size - 1:
        low = kept[-1]
        best = low + 1
        for high in range(low + 2, x.size):
            inner = slice(low + 1, high)
            share = ((x[inner] - x[low]) / (x[high] - x[low]))[:, None]
            between = (1.0 - share) * levels[low] + share * levels[high]
            between = np.exp(between) if logarithmic else between
            measured = ~np.isnan(time[inner])
            # A line that reaches batches which the next one does not is not left out.
            reached = ~np.isnan(time[low] + time[high])
            if (measured & ~reached).any() or (np.abs(between / time[inner] - 1.0) > LINE_ERROR)[measured].any():
                break
            best = high
        kept.append(best)
    return {i: knots[i] for i in kept}
