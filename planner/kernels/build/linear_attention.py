"""Tables of linear attention (gated delta net) from published measurements.

A layer runs two kernels one after the other: the causal convolution over queries, keys and values, and the recurrence.
Their times are added at the points that both were measured at. The key of a shape is what the cost model knows of it,
the elements of its recurrent and convolution state on one rank. The measured head counts are those of one rank (models
are measured at several tensor-parallel degrees). At large prompts the kernels were disturbed, by up to several times;
the fastest of the measurements of one shape counts, and what smaller problems contradict is left out.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from planner.kernels.build.latent_attention import added, fitted
from planner.kernels.build.source import Kind, Rows, Source
from planner.kernels.curves import CurveSet

CONVOLUTION = "causal_conv1d"
"""Kernels whose name starts so are the convolution; the others are the recurrence."""

_COLUMNS: dict[str, Kind] = {
    "kernel_source": "text",
    "phase": "text",
    "batch_size": "count",
    "seq_len": "count",
    "d_conv": "count",
    "num_k_heads": "count",
    "head_k_dim": "count",
    "num_v_heads": "count",
    "head_v_dim": "count",
    "latency": "ms",
}


def tables(source: Source, system: str, framework: str) -> list[CurveSet]:
    """`linear.decode` over (state) and `linear.prefill` over (state, new_tokens), where both kernels were measured."""
    rows = source.rows(system, "linear_attention", framework, "gdn", _COLUMNS)
    if rows is None:
        return []
    convolution = np.array([name.startswith(CONVOLUTION) for name in rows["kernel_source"]])
    found = []
    for phase, name in (("generation", "linear.decode"), ("context", "linear.prefill")):
        parts = [rows.select((rows["phase"] == phase) & which) for which in (convolution, ~convolution)]
        if not all(len(part) for part in parts):
            continue
        points, latency = added([(_points(part), part["latency"]) for part in parts])
        if name == "linear.decode":
            found.append(fitted(source, rows, name, ("state",), "sequences", points[:, :1], points[:, 2], latency))
        else:
            found.append(
                fitted(source, rows, name, ("state", "new_tokens"), "prompts", points[:, :2], points[:, 2], latency)
            )
    return found


def _points(rows: Rows) -> NDArray[np.float64]:
    """State elements, tokens of one sequence and sequences of every row, shape (n, 3)."""
    channels = 2 * rows["num_k_heads"] * rows["head_k_dim"] + rows["num_v_heads"] * rows["head_v_dim"]
    state = rows["num_v_heads"] * rows["head_k_dim"] * rows["head_v_dim"] + channels * (rows["d_conv"] - 1)
    return np.stack([state, rows["seq_len"], rows["batch_size"]], axis=1).astype(float)
