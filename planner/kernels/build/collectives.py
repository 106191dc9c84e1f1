"""Communication inside one node or rack: the engine's all-reduce, NCCL, DeepEP and one-sided NVLink exchanges.

Messages. `message_size` counts elements of 16 bits: eight H200 reduce 2^28 of them in 2.03 ms, 461 GB/s on the bus at
two bytes (NCCL with in-switch reduction), and 231, half of any published figure, at one. For all-gather it is the
gathered, for reduce-scatter the scattered whole.

All-reduce. The rows were measured through the engine's own dispatch, which takes its one-shot or two-shot kernels for
small messages and NCCL beyond (above 8 to 16 MB they agree with NCCL's table within 1 to 3%); so an engine's all-reduce
is its row, not the faster of the row and NCCL. Of the rows with and without CUDA graphs those with are taken: without,
20 to 30 us of host time show at every size, which an engine overlaps. TensorRT-LLM across nodes of a rack (8, 16 ranks)
has rows of the kernel that its strategy takes at each size, one-shot or two-shot.

Exchanges. DeepEP's library was timed on the device behind SGLang, in both modes; other engines run the same library, so
they borrow these rows. The source's `moe_a2a` tables, measured through vLLM and TensorRT-LLM, are left out: their
low-latency dispatch takes 45 to 75 us for one token (on the device 8 to 13), they time launches on the host, and many
curves fall by half and rise again. In these tables DeepSeek-V3's shape is routed without its expert groups (it takes as
long as 384 experts). One-sided kernels were measured behind TensorRT-LLM with perfectly even routing.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from planner.costs.exchange_laws import Phase
from planner.costs.routing import Collective, remote_copies
from planner.kernels.build.errors import provenance, stated
from planner.kernels.build.gemm import merged
from planner.kernels.build.source import Kind, Rows, Source, SourceError
from planner.kernels.collectives import ALL_GATHER, ALL_REDUCE, EXCHANGE, REDUCE_SCATTER
from planner.kernels.curves import CurveSet
from planner.kernels.distil import distil

ELEMENT_BYTES = 2
"""Of the tables' bfloat16 and half messages."""

GRAPH_KERNELS = {
    "vllm": ("vLLM_custom_graph",),
    "sglang": ("SGLang_CustomAllReduce_graph",),
    "trtllm": ("TRTLLM", "TRTLLM_MNNVL_oneshot", "TRTLLM_MNNVL_twoshot"),
}
"""`kernel_source` of an engine's all-reduce as it runs inside CUDA graphs."""

NORMAL_SMS = 20
"""Cores of DeepEP's normal mode: its default."""

NODE_GPUS = {"gb200": 4, "gb300": 4}
"""GPUs of one node, where not 8: ranks of the exchanges measured on one."""

FASTEST_MS = (1e-3, 0.3)
"""The smallest messages take 2 to 80 us."""

FEWEST_EXPERTS = 64
"""Shapes with fewer (of 8 or 16, up to three times slower per byte: few queues) are not run this way and left out."""

CHORD_ERROR = 0.015
"""Relative error of chords against the rows."""

AXES = ("ranks", "copy_bytes", "copies")
"""Axes of exchanges. DeepEP's have `experts` as well: its fixed times grow with them (H200, 1 token: 10 us among 128,
14 us among 512), which the cost model does not follow: it reads the mean."""

DEEPEP: dict[Collective, tuple[str, dict[Phase, str], dict[str, int]]] = {
    Collective.DEEPEP_LOW_LATENCY: (
        "wideep_deepep_ll",
        {Phase.DISPATCH: "dispatch_avg_t_us", Phase.COMBINE: "combine_avg_t_us"},
        {},
    ),
    Collective.DEEPEP_NORMAL: (
        "wideep_deepep_normal",
        {Phase.DISPATCH: "dispatch_transmit_us", Phase.COMBINE: "combine_transmit_us"},
        {"dispatch_sms": NORMAL_SMS},
    ),
}
"""File of either kind of exchange, its columns of times, and what other columns must hold."""

Curve = tuple[tuple[float, ...], NDArray[np.float64], NDArray[np.float64]]


def tables(source: Source, system: str, framework: str) -> list[CurveSet]:
    """All-reduce, all-gather and reduce-scatter over message bytes, exchanges over tokens per rank; times in ms.

    Raises:
        SourceError: a file cannot be used.
    """
    parts = [
        _all_reduce(source, system, framework),
        *_nccl(source, system),
        *(part for kind in DEEPEP for part in _deepep(source, system, kind)),
        *_one_sided(source, system),
    ]
    return [part for part in parts if part is not None]


def _all_reduce(source: Source, system: str, framework: str) -> CurveSet | None:
    columns: dict[str, Kind] = {"kernel_source": "text", "num_gpus": "count", "message_size": "count", "latency": "ms"}
    rows = source.rows(system, "comm", framework, "custom_allreduce", columns, fastest_ms=FASTEST_MS)
    if rows is None:
        return None
    rows = _only(rows, "kernel_source", GRAPH_KERNELS[framework])
    return _table(
        source, ALL_REDUCE, ("ranks",), "bytes", _by_ranks(rows), rows, framework, "CUDA graphs, engine's dispatch"
    )


def _nccl(source: Source, system: str) -> Iterable[CurveSet]:
    columns: dict[str, Kind] = {
        "op_name": "text",
        "nccl_dtype": "text",
        "num_gpus": "count",
        "message_size": "count",
        "latency": "ms",
    }
    rows = source.rows(system, "comm", "nccl", "nccl", columns, fastest_ms=FASTEST_MS)
    if rows is None:
        return
    for op, name in (("all_gather", ALL_GATHER), ("reduce_scatter", REDUCE_SCATTER)):
        part = _only(_only(rows, "op_name", (op,)), "nccl_dtype", ("half",))
        yield _table(source, name, ("ranks",), "bytes", _by_ranks(part), part, "nccl", "")


def _by_ranks(rows: Rows) -> list[Curve]:
    """Times over the bytes of a message, by ranks."""
    curves: list[Curve] = []
    for ranks in np.unique(rows["num_gpus"]).tolist():
        x, time = _over(rows.select(rows["num_gpus"] == ranks), "message_size", "latency")
        curves.append(((float(ranks),), x * ELEMENT_BYTES, time))
    return curves


def _deepep(source: Source, system: str, kind: Collective) -> Iterable[CurveSet]:
    name, timed, further = DEEPEP[kind]
    columns: dict[str, Kind] = {
        "node_num": "count",
        "hidden_size": "count",
        "num_token": "count",
        "num_topk": "count",
        "num_experts": "count",
        **dict.fromkeys(further, "count"),
        **dict.fromkeys(timed.values(), "us"),
    }
    rows = source.rows(system, "comm", "sglang", name, columns, fastest_ms=FASTEST_MS)
    if rows is None:
        return
    for column, wanted in further.items():
        rows = _only(rows, column, (wanted,))
    for phase, column in timed.items():
        yield _exchange(source, system, rows, kind, phase, column)


def _exchange(source: Source, system: str, rows: Rows, kind: Collective, phase: Phase, column: str) -> CurveSet:
    """DeepEP on one node: FP8 out with an FP32 scale for every 128 elements, BF16 back."""
    ranks = NODE_GPUS.get(system, 8)
    rows = _only(rows, "node_num", (1,))
    rows = rows.select(rows["num_experts"] >= FEWEST_EXPERTS)
    shapes = np.stack((rows["hidden_size"], rows["num_topk"], rows["num_experts"]), axis=1)
    curves: list[Curve] = []
    for shape in np.unique(shapes, axis=0):
        hidden, topk, experts = shape.tolist()
        size = hidden * (1.0 + 4.0 / 128.0) if phase is Phase.DISPATCH else hidden * 2.0
        copies = remote_copies(kind, experts, topk, ranks, ranks).scale_up
        which = (shapes == shape).all(axis=1)
        curves.append(((float(ranks), size, copies, float(experts)), *_over(rows.select(which), "num_token", column)))
    return _exchange_table(
        source, kind, phase, (*AXES, "experts"), curves, rows, "sglang", "DeepEP on one node, timed on the device"
    )


def _one_sided(source: Source, system: str) -> Iterable[CurveSet]:
    columns: dict[str, Kind] = {
        "kernel_source": "text",
        "op_name": "text",
        "num_tokens": "count",
        "hidden_size": "count",
        "topk": "count",
        "moe_ep_size": "count",
        "moe_dtype": "text",
        "latency": "ms",
    }
    rows = source.rows(system, "comm", "trtllm", "trtllm_alltoall", columns, fastest_ms=FASTEST_MS)
    if rows is None:
        return
    rows = _only(_only(rows, "kernel_source", ("NVLinkOneSided",)), "moe_dtype", ("nvfp4",))
    for phase, op in ((Phase.DISPATCH, "alltoall_dispatch"), (Phase.COMBINE, "alltoall_combine")):
        part = _only(rows, "op_name", (op,))
        shapes = np.stack((part["moe_ep_size"], part["hidden_size"], part["topk"]), axis=1)
        curves: list[Curve] = []
        for shape in np.unique(shapes, axis=0):
            ranks, hidden, topk = shape.tolist()
            # NVFP4 with a byte of scale for every 16 elements out, BF16 back; even routing reaches as many ranks as
            # it can, the sender's own among them once in `ranks`.
            size = hidden * (0.5 + 1.0 / 16.0) if phase is Phase.DISPATCH else hidden * 2.0
            copies = min(ranks, topk) * (ranks - 1) / ranks
            which = (shapes == shape).all(axis=1)
            curves.append(((float(ranks), size, copies), *_over(part.select(which), "num_tokens", "latency")))
        yield _exchange_table(
            source, Collective.ONE_SIDED, phase, AXES, curves, part, "trtllm", "one-sided NVLink kernels, even routing"
        )


def _only(rows: Rows, column: str, wanted: tuple[str | int, ...]) -> Rows:
    """The rows whose column holds one of the wanted values.

    Raises:
        SourceError: there are none.
    """
    which = np.isin(rows[column], wanted)
    if not which.any():
        found = ", ".join(map(str, np.unique(rows[column]).tolist()))
        raise SourceError(f"{rows.path}: column {column!r} holds {found}; wanted: {', '.join(map(str, wanted))}")
    return rows.select(which)


def _over(rows: Rows, variable: str, column: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """One curve's rows in ascending order."""
    order = np.argsort(rows[variable], kind="stable")
    return rows[variable][order].astype(float), rows[column][order]


def _exchange_table(
    source: Source,
    kind: Collective,
    phase: Phase,
    axes: tuple[str, ...],
    curves: list[Curve],
    rows: Rows,
    framework: str,
    note: str,
) -> CurveSet:
    return _table(source, f"{EXCHANGE}{kind}.{phase}", axes, "tokens", curves, rows, framework, note)


def _table(
    source: Source,
    name: str,
    axes: tuple[str, ...],
    variable: str,
    curves: list[Curve],
    rows: Rows,
    framework: str,
    note: str,
) -> CurveSet:
    """Curves distilled, with the error that they leave against every row."""
    curves = sorted(curves, key=lambda curve: curve[0])
    distilled = [(key, *distil(*merged(x, time), error=CHORD_ERROR)) for key, x, time in curves]
    origin = provenance(f"{source.name}: {rows.path}", framework, rows.version, note)
    return stated(CurveSet.of(name, axes, variable, distilled, origin), [(x, time) for _, x, time in curves])
