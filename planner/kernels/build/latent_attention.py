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
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planner.kernels.build.errors import provenance, stated, with_errors
from planner.kernels.build.source import Kind, Rows, Source
from planner.kernels.curves import CurveSet
from planner.kernels.distil import distil
from planner.kernels.rising import rising_together

FloatArray = NDArray[np.float64]

CHORD_ERROR = 0.015
"""Relative error of chords."""

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
    """A table of the fastest row of every point.

    Args:
        source: named in the origin.
        rows: of which file.
        name: of the table.
        axes: names of the keys; but for the first, times are read as rising along them too.
        variable: name of the variable.
        keys: of every row, shape (n, d).
        x: the variable of every row, shape (n,).
        time_ms: shape (n,).
    """
    points, times = added([(np.concatenate([keys, np.asarray(x, dtype=float)[:, None]], axis=1), time_ms)])
    found, curve_of = np.unique(points[:, :-1], axis=0, return_inverse=True)
    slices = [np.flatnonzero(curve_of.reshape(-1) == curve) for curve in range(len(found))]
    measured = [(points[part, -1], times[part]) for part in slices]
    curves = [(key, *distil(*row, error=CHORD_ERROR)) for key, row in zip(found.tolist(), measured, strict=True)]
    origin = provenance(f"{source.name}, {rows.path}", rows.framework, rows.version)
    table = CurveSet.of(name, axes, variable, curves, origin)
    if len(axes) == 1:
        return stated(table, measured)
    read = {}
    for first in np.unique(found[:, 0]):
        risen = rising_together(table, np.flatnonzero(found[:, 0] == first))
        read.update({tuple(key): risen.knots(curve) for curve, key in enumerate(risen.keys.tolist())})
    errors = np.empty((2, times.size))
    for curve, (part, (at, time)) in enumerate(zip(slices, measured, strict=True)):
        knots = read.get(tuple(found[curve].tolist()))
        errors[0, part] = table.at(curve, at) / time - 1.0
        errors[1, part] = np.nan if knots is None else np.interp(at, *knots) / time - 1.0
    return with_errors(table, *errors)
