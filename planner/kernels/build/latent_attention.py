"""Tables of latent attention (MLA) and sparse latent attention (DSA) from published measurements.

Two kinds of measurement exist. *Cores* time the attention kernel alone (`context_mla`, `generation_mla`); *modules*
time the layer's attention with its projections, the absorbed products, rotary embedding, norms, quantisation and cache
writes between them. A module is preferred where an engine has both: its total is what the engine runs, and the small
kernels between the projections are in no other table (on H200, TensorRT-LLM's prefill modules take 15 to 30% more than
cores and projections together). What the projections take of a module is subtracted at run time
(`planner.kernels.latent_attention`), by whatever prices them there, so that core and projections add up to the module.

Axes. `num_heads` are the heads of one rank in every file (cores: `num_heads * tp_size` is the model's head count;
modules of MLA: measured as one rank that holds so many heads). The context of a decode step is `step + 1` in the cores
(steps 1, 3, 7, ...) and `step` in the modules (2, 4, 8, ...); of a prefill `step` is the context before the chunk.
Where a point was measured more than once the fastest counts: interference only adds time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planner.kernels.build.source import Kind, Rows, Source
from planner.kernels.curves import CurveSet, Origin
from planner.kernels.distil import FLAG_ERROR, distil

FloatArray = NDArray[np.float64]

CONTRADICTION = 2.0 * np.log(1.0 + FLAG_ERROR)
"""Logarithm of the factor by which a smaller problem may be slower than a larger one before one of the two is dropped:
midway between them, each is then within the error that is flagged."""

DENSE_MODEL = "deepseek-ai/DeepSeek-V3"

SPARSE_MODELS: Mapping[str, tuple[str, Sequence[str]]] = {
    "v32": ("", ("deepseek-ai/DeepSeek-V3.2",)),
    "glm5": ("", ("zai-org/GLM-5-FP8", "zai-org/GLM-5", "nvidia/GLM-5.2-NVFP4")),
    "glm5_reuse": ("_skip_indexer", ("zai-org/GLM-5.2-FP8", "zai-org/GLM-5.2", "nvidia/GLM-5.2-NVFP4")),
}
"""Layer shapes (see `planner.kernels.latent_attention.SHAPES`): suffix of the op, and models in order of preference."""

GEMM_TYPES = ("fp8_block", "bfloat16")
"""Precisions of a module's projections in order of preference: those that are served, see `attention_precision`."""

LEAST_CONTEXTS = 4
"""Distinct contexts before a chunk that make a curve; fewer (one of 128 tokens) say nothing about long ones."""

LEAST_CHUNK = 512
"""Shortest chunk whose time over the context before it is kept; those of shorter ones are launches on the host."""

KV_DTYPES = {"bfloat16": "bf16", "fp8": "fp8"}


def tables(source: Source, system: str, framework: str) -> list[CurveSet]:
    """Tables of one system and engine; none where nothing was measured.

    Names are `latent.<phase>.<shape>.<scope>.<kv dtype>`, with scope `core`, `module_fp8` or `module_bf16` (after the
    precision of the projections); and `latent.bmm.<dtype>`, the absorbed products of a decode step, where its core
    alone was measured. Phases are `decode`, `prefill` (without context before the prompt), and `context`: one prompt's
    chunk over the context before it, where that was varied (SGLang's sparse modules).
    """
    found = []
    for phase in ("decode", "prefill"):
        dense = _dense_modules(source, system, framework, phase) or _dense_cores(source, system, framework, phase)
        if phase == "decode" and any(".core." in table.name for table in dense):
            dense = [*dense, *_absorbed_products(source, system, framework)]
        found += [*dense, *_sparse_modules(source, system, framework, phase)]
    return found


_SHARED: dict[str, Kind] = {
    "mla_dtype": "text",
    "kv_cache_dtype": "text",
    "num_heads": "count",
    "batch_size": "count",
    "isl": "count",
    "step": "index",
    "latency": "ms",
}
_MODULE: dict[str, Kind] = {**_SHARED, "model": "text", "gemm_type": "text"}


def _dense_modules(source: Source, system: str, framework: str, phase: str) -> list[CurveSet]:
    op = "mla_generation_module" if phase == "decode" else "mla_context_module"
    rows = source.rows(system, "mla", framework, op, _MODULE)
    return [] if rows is None else _modules(source, [rows], phase, "v3", [DENSE_MODEL])


def _dense_cores(source: Source, system: str, framework: str, phase: str) -> list[CurveSet]:
    op = "generation_mla" if phase == "decode" else "context_mla"
    rows = source.rows(system, "mla", framework, op, _SHARED)
    return [] if rows is None else _by_kv_dtype(source, rows, phase, "v3", "core")


def _sparse_modules(source: Source, system: str, framework: str, phase: str) -> list[CurveSet]:
    op = "dsa_generation_module" if phase == "decode" else "dsa_context_module"
    # Newest first: an older version serves the shapes that the newest was not measured with.
    versions = [
        rows
        for version in source.versions(system, "sparse_attention", framework, op)
        if (
            rows := source.rows(
                system, "sparse_attention", framework, op, {**_MODULE, "op_name": "text"}, version=version
            )
        )
    ]
    found = []
    for shape, (suffix, models) in SPARSE_MODELS.items():
        wanted = [rows.select(rows["op_name"] == op + suffix) for rows in versions]
        found += _modules(source, wanted, phase, shape, models)
    return found


def _modules(source: Source, versions: Sequence[Rows], phase: str, shape: str, models: Sequence[str]) -> list[CurveSet]:
    """Tables of the first version, precision of projections and model, in this order, that has rows."""
    for rows in versions:
        for gemm_type in GEMM_TYPES:
            for model in models:
                part = rows.select((rows["model"] == model) & (rows["gemm_type"] == gemm_type))
                if len(part):
                    scope = "module_fp8" if gemm_type == "fp8_block" else "module_bf16"
                    return _by_kv_dtype(source, part, phase, shape, scope)
    return []


def _by_kv_dtype(source: Source, rows: Rows, phase: str, shape: str, scope: str) -> list[CurveSet]:
    # Where attention was also measured in FP8 arithmetic, the engine's default is kept: BF16.
    rows = rows.select(rows["mla_dtype"] == "bfloat16")
    found = []
    for kv_dtype in sorted(set(rows["kv_cache_dtype"]) & set(KV_DTYPES)):
        part = rows.select(rows["kv_cache_dtype"] == kv_dtype)
        name = f"{shape}.{scope}.{KV_DTYPES[kv_dtype]}"
        if phase == "decode":
            keys = np.stack([part["num_heads"], part["step"] + (1 if scope == "core" else 0)], axis=1).astype(float)
            axes, variable = ("heads", "context"), "sequences"
            found.append(
                fitted(source, part, f"latent.decode.{name}", axes, variable, keys, part["batch_size"], part["latency"])
            )
            continue
        for kind, variable, column, which in (
            ("prefill", "prompts", "batch_size", part["step"] == 0),
            (
                "context",
                "context",
                "step",
                (part["step"] > 0) & (part["batch_size"] == 1) & (part["isl"] >= LEAST_CHUNK),
            ),
        ):
            rest = part.select(which)
            if not len(rest) or (kind == "context" and np.unique(rest["step"]).size < LEAST_CONTEXTS):
                continue
            keys = np.stack([rest["num_heads"], rest["isl"]], axis=1).astype(float)
            axes = ("heads", "new_tokens")
            found.append(
                fitted(source, rest, f"latent.{kind}.{name}", axes, variable, keys, rest[column], rest["latency"])
            )
    return found


def _absorbed_products(source: Source, system: str, framework: str) -> list[CurveSet]:
    """The products with the key and value halves of the up-projection around a decode core, added up."""
    columns: dict[str, Kind] = {
        "op_name": "text",
        "bmm_dtype": "text",
        "num_tokens": "count",
        "num_heads": "count",
        "latency": "ms",
    }
    rows = source.rows(system, "mla_bmm", framework, "mla_bmm", columns)
    if rows is None:
        return []
    dtype = "fp8" if "fp8" in set(rows["bmm_dtype"]) else "bfloat16"
    rows = rows.select(rows["bmm_dtype"] == dtype)
    parts = [rows.select(rows["op_name"] == name) for name in ("mla_gen_pre", "mla_gen_post")]
    keys, latency = added(
        [(np.stack([part["num_heads"], part["num_tokens"]], axis=1), part["latency"]) for part in parts]
    )
    name = f"latent.bmm.{KV_DTYPES[dtype]}"
    return [fitted(source, rows, name, ("heads",), "tokens", keys[:, :1], keys[:, 1], latency)]


def added(parts: Iterable[tuple[NDArray[Any], FloatArray]]) -> tuple[FloatArray, FloatArray]:
    """Times of kernels that run one after the other, at the points that all of them were measured at.

    Args:
        parts: per kernel its points (n, d) and times (n,); of several times at one point the fastest counts.

    Returns:
        Points (m, d), distinct, and the sums of the times (m,).
    """
    known: list[dict[tuple[float, ...], float]] = []
    for points, times in parts:
        fastest: dict[tuple[float, ...], float] = {}
        for point, time in zip(points.tolist(), times.tolist(), strict=True):
            fastest[tuple(point)] = min(time, fastest.get(tuple(point), np.inf))
        known.append(fastest)
    common = sorted(set.intersection(*(set(fastest) for fastest in known)))
    return np.array(common, dtype=float), np.array([sum(fastest[point] for fastest in known) for point in common])


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
    below = np.all(points[:, None, :] <= points[None, :, :], axis=2)
    excess = np.where(below, logs[:, None] - logs[None, :] - CONTRADICTION, 0.0).clip(min=0.0)
    excess += excess.T
    kept = np.ones(logs.size, dtype=bool)
    while True:
        counts = (excess > 0.0).sum(axis=1)
        if not counts.any():
            break
        worst = int(np.lexsort((excess.sum(axis=1), counts))[-1])
        kept[worst] = False
        excess[worst, :] = excess[:, worst] = 0.0
    below, logs = below[np.ix_(kept, kept)], logs[kept]
    upper = np.where(below, logs[:, None], -np.inf).max(axis=0)
    lower = np.where(below, logs[None, :], np.inf).min(axis=1)
    return Monotone(kept, np.exp(0.5 * (upper + lower)))


def fitted(
    source: Source,
    rows: Rows,
    name: str,
    axes: Sequence[str],
    variable: str,
    keys: FloatArray,
    x: NDArray[Any],
    time_ms: FloatArray,
) -> CurveSet:
    """A table that is non-decreasing in the variable and in every axis but the first (heads: kernels differ).

    Args:
        source: named in the origin.
        rows: of which file.
        name: of the table.
        axes: names of the keys.
        variable: name of the variable.
        keys: of every row, shape (n, d).
        x: the variable of every row, shape (n,).
        time_ms: shape (n,).
    """
    points, times = added([(np.concatenate([keys, np.asarray(x, dtype=float)[:, None]], axis=1), time_ms)])
    curves = []
    errors = []
    left_out = 0
    for head in np.unique(points[:, 0]):
        mine = points[:, 0] == head
        part, measured = points[mine], times[mine]
        fit = monotone(part[:, 1:], measured)
        for key in np.unique(part[:, :-1], axis=0):
            at_key = (part[:, :-1] == key).all(axis=1)
            good = at_key & fit.kept
            if not good.any():
                left_out += int(at_key.sum())
                continue
            knots, values, _ = distil(part[good, -1], fit.time_ms[good[fit.kept]])
            curves.append((key.tolist(), knots, values))
            errors.append(np.abs(np.interp(part[at_key, -1], knots, values) / measured[at_key] - 1.0))
    error = np.concatenate(errors)
    origin = Origin(
        source=f"{source.name}, {rows.path}",
        framework=rows.framework,
        version=rows.version,
        rows=int(times.size),
        error_p95=round(float(np.quantile(error, 0.95)), 5),
        error_max=round(float(error.max()), 5),
        flagged=int((error > FLAG_ERROR).sum()) + left_out,
    )
    return CurveSet.of(name, axes, variable, curves, origin)
