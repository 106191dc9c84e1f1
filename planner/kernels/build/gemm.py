"""Dense matrix products: times over rows m at measured widths (n, k), per number format.

The times include what the engine does around the product on its input: a FP8 or FP4 GEMM quantises its activations
first (per token, per tensor or per group of 128, as the engine does). FP8 with one scale and NVFP4 serve checkpoints
that bring their activations' scales, while the source computed them on the fly: its table `computescale` holds that
part on its own, and it is taken off (`STATIC`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from planner.kernels.build.errors import provenance, stated
from planner.kernels.build.source import Kind, Rows, Source
from planner.kernels.curves import CurveSet
from planner.kernels.distil import distil

COLUMNS: dict[str, Kind] = {"gemm_dtype": "text", "m": "count", "n": "count", "k": "count", "latency": "ms"}

FASTEST_MS = (5e-4, 0.1)
"""The smallest products take 1.4 to 2.8 us on every GPU: a fastest row of more than 100 us is in another unit."""

HOST_BOUND_MS = 0.03
"""Small products take 2 to 14 us on the GPU, quantisation included. Where they take longer, launches were timed: vLLM's
block-scaled FP8 GEMMs were not run from a CUDA graph and show 57 to 290 us whatever their size."""

CHORD_ERROR = 0.02
"""Relative error of chords. As they are read the error is larger: times rise and fall with the tiles that products are
cut into, by up to tens of per cent."""

STATIC = {"trtllm": ("fp8", "nvfp4"), "vllm": ("fp8",), "sglang": ("fp8",)}
"""Formats whose rows include computing the activations' scale. TensorRT-LLM's NVFP4 rows do so too: they are slower
than the other engines' by what `computescale` takes, at every size."""

KEPT_SHARE = 0.4
"""Least share of a row that is left when the computing of scales is taken off."""

SCALES: dict[str, Kind] = {"m": "count", "k": "count", "latency": "ms_or_0"}

STAND_INS = {"vllm": ("sglang", "trtllm")}
"""Whose measurements stand in for host-bound ones: DeepGEMM, which vLLM's block-scaled GEMMs run on, behind SGLang."""


def tables(source: Source, system: str, framework: str) -> list[CurveSet]:
    """Curves `gemm.<dtype>` over m at (n, k), times in ms, for every number format that was measured.

    Each format comes from the newest version that has it. Host-bound measurements (`HOST_BOUND_MS`) are replaced by
    another engine's on the same GPU, or left out.

    Raises:
        SourceError: a file cannot be used.
    """
    found = _formats(source, system, framework)
    result = []
    for dtype, rows in sorted(found.items()):
        if not _host_bound(rows):
            result.append(_table(source, dtype, rows, framework, ""))
            continue
        for other in STAND_INS.get(framework, ()):
            stand_in = _formats(source, system, other).get(dtype)
            if stand_in is not None and not _host_bound(stand_in):
                note = f"measured behind {other}: {framework}'s rows ({rows.version}) time launches on the host"
                result.append(_table(source, dtype, stand_in, other, note))
                break
    return result


def _formats(source: Source, system: str, framework: str) -> dict[str, Rows]:
    """Rows of every number format, each from the newest version that has it."""
    found: dict[str, Rows] = {}
    for version in source.versions(system, "gemm", framework, "gemm"):
        rows = source.rows(system, "gemm", framework, "gemm", COLUMNS, version=version, fastest_ms=FASTEST_MS)
        if rows is not None:
            for dtype in sorted(set(rows["gemm_dtype"].tolist()) - found.keys()):
                part = rows.select(rows["gemm_dtype"] == dtype)
                found[dtype] = _static(source, system, part) if dtype in STATIC[framework] else part
    return found


def _static(source: Source, system: str, rows: Rows) -> Rows:
    """Rows without the computing of activation scales, where the source has measured it for their (m, k)."""
    scales = source.rows(system, "quantize", rows.framework, "computescale", SCALES)
    if scales is None:
        return rows
    known = dict(zip(zip(scales["m"].tolist(), scales["k"].tolist(), strict=True), scales["latency"], strict=True))
    taken = np.array([known.get(key, 0.0) for key in zip(rows["m"].tolist(), rows["k"].tolist(), strict=True)])
    latency = rows["latency"]
    left = np.maximum(latency - taken, KEPT_SHARE * latency)
    return Rows(rows.path, rows.framework, rows.version, {**rows.columns, "latency": left})


def _host_bound(rows: Rows) -> bool:
    return bool(np.quantile(rows["latency"], 0.02) > HOST_BOUND_MS)


def _table(source: Source, dtype: str, rows: Rows, framework: str, note: str) -> CurveSet:
    """One number format's curves."""
    order = np.lexsort((rows["m"], rows["k"], rows["n"]))
    rows = rows.select(order)
    keys = np.stack((rows["n"], rows["k"]), axis=1)
    ends = np.append(np.flatnonzero((np.diff(keys, axis=0) != 0).any(axis=1)) + 1, len(rows))
    curves, measured = [], []
    start = 0
    for end in ends.tolist():
        x, time = rows["m"][start:end].astype(float), rows["latency"][start:end]
        curves.append((keys[start].tolist(), *distil(*merged(x, time), error=CHORD_ERROR)))
        measured.append((x, time))
        start = end
    origin = provenance(f"{source.name}: {rows.path}", framework, rows.version, note)
    return stated(CurveSet.of(f"gemm.{dtype}", ("n", "k"), "m", curves, origin), measured)


def merged(x: NDArray[np.float64], time_ms: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Rows of one curve with repeats of a point replaced by their median.

    Args:
        x: ascending, shape (n,).
        time_ms: shape (n,).

    Returns:
        Distinct x and times, shape (distinct,).
    """
    distinct, starts = np.unique(x, return_index=True)
    if distinct.size == x.size:
        return x, time_ms
    return distinct, np.array([float(np.median(part)) for part in np.split(time_ms, starts[1:])])
