"""Expert layers of MoE models: times over tokens, per number format, routing and measured shape.

What a row holds (the publisher's collector, `collector/vllm/collect_moe.py` and `collector/helper.py` of
ai-dynamo/aiconfigurator): one rank runs the engine's whole routed-expert module on `num_tokens` tokens, which are the
tokens of **all** ranks, and computes the pairs that fall to its own experts. Included are top-k selection,
quantisation, permutation, both products, activation and the weighted sum back; the collective around them is not.
`inter_size` is the full width of an expert, of which the rank holds 1 / `moe_tp_size`. Under a power law the experts'
loads are drawn (five draws are averaged) and the most loaded rank is the one measured; `balanced` gives every rank and
every expert the same, and activates as many experts as there are pairs to spread.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from planner.kernels.build.errors import provenance, stated
from planner.kernels.build.source import Kind, Rows, Source
from planner.kernels.curves import CurveSet
from planner.kernels.distil import distil

AXES = ("matrices", "hidden", "experts_per_token", "experts", "ranks", "intermediate")

COLUMNS: dict[str, Kind] = {
    "moe_dtype": "text",
    "num_tokens": "count",
    "hidden_size": "count",
    "inter_size": "count",
    "topk": "count",
    "num_experts": "count",
    "moe_tp_size": "count",
    "moe_ep_size": "count",
    "distribution": "text",
    "kernel_source": "text",
    "latency": "ms",
}

BF16, BALANCED = "bfloat16", "balanced"

DISTRIBUTIONS = (BALANCED, "power_law_1.01")
"""Routings that are kept. The third, power_law_1.2, follows from these by the load of the hottest rank."""

MIXED_TENSOR_PARALLEL = (2, 8)
"""Where experts are spread (EP > 1), these shardings of one expert are kept besides none: the others lie between."""

NON_GATED = frozenset({(2688, 1856), (1024, 2688), (4096, 2688), (2048, 5120), (8192, 5120)})
"""Hidden and expert width of the measured models whose experts have two matrices (squared ReLU: Nemotron 3)."""

MASKED_OP, CONTIGUOUS_OP = "wideep_generation_moe", "wideep_context_moe"
"""SGLang's grouped products behind DeepEP (DeepSeek-V3's experts): low-latency and normal dispatch."""

MASKED_TOKENS = 128
"""Tokens per rank up to which SGLang's low-latency dispatch serves; above, the normal one does."""

WIDE_DISTRIBUTIONS = {"balanced": "uniform", "power_law_1.01": "power_law_1.01"}

MEASURED_RANKS = {"trtllm": 256, "vllm": 8, "sglang": 8}
"""Ranks up to which the module's rows are kept. In vLLM and SGLang a rank also handles the pairs of other ranks'
experts, which dominates on many ranks (vLLM, H200, Qwen3-235B's shape, 16,384 tokens, BF16: 9.0 ms on one rank, 1.7 ms
on each of 32). Dispatched tokens, as wide deployments have them, are free of that."""

CHECKED_TOKENS = (64, 512)
"""Tokens over which the medians of the checks below are taken: weights dominate."""

CONCENTRATED = 0.95
"""Two ranks should halve what one rank takes. A shape that stays above this share is left out: DeepSeek's group-limited
selection resolves the collector's tied logits to the lowest groups, so that half of the experts, all of them on the
measured rank, get everything."""

SHARED_TOKENS = (4096, 1 << 20)
SHARED = 0.4
"""Eight ranks should take an eighth of the time of one where products dominate. Above this share a rank spends most of
its time on others' pairs, and only the rows of one rank are kept."""

UNTUNED = 1.25
"""Weights of 8 or 4 bits are read faster than BF16 ones. A shape that takes this much longer than in BF16 ran a kernel
without its tuning (vLLM 0.24's FP8 with one scale on Hopper: 3 times BF16's time) and is left out."""

CONCENTRATING_KERNELS = ("moe_torch_flow_min_latency",)
"""Measured behind DeepSeek's selection whatever the model, with the same effect."""

CHORD_ERROR = 0.025
"""Relative error of chords."""


def tables(source: Source, system: str, framework: str) -> list[CurveSet]:
    """Curves `experts.<dtype>.<distribution>` over the tokens of all ranks at `AXES`, times in ms.

    `intermediate` is the width on one rank. Each number format and model shape comes from the newest version that has
    it. Where several kernels were measured at one point the fastest counts. SGLang's DeepEP products, on more ranks
    than `MEASURED_RANKS`, are `experts.deepep_<dtype>.<distribution>`.

    Raises:
        SourceError: a file cannot be used.
    """
    parts: dict[tuple[str, str], list[Rows]] = {}
    seen: set[tuple[str, int, int, int, int]] = set()
    for version in source.versions(system, "moe", framework, "moe"):
        rows = source.rows(system, "moe", framework, "moe", COLUMNS, version=version)
        assert rows is not None
        rows = rows.select(_kept(rows, framework))
        shapes = {shape: rows.select(which) for shape, which in _shapes(rows).items()}
        for shape, part in sorted(shapes.items()):
            bf16 = shapes.get((BF16, *shape[1:]))
            untuned = bf16 is not None and _ratio(part, 1, bf16, 1, CHECKED_TOKENS) > UNTUNED
            if shape in seen or untuned or _ratio(part, 2, part, 1, CHECKED_TOKENS) > CONCENTRATED:
                continue
            seen.add(shape)
            if _ratio(part, 8, part, 1, SHARED_TOKENS) > SHARED:
                part = part.select(part["moe_ep_size"] == 1)
            for name in DISTRIBUTIONS:
                chosen = part["distribution"] == name
                if chosen.any():
                    parts.setdefault((shape[0], name), []).append(part.select(chosen))
    for (dtype, name), wide in _wide(source, system, framework).items():
        parts[f"deepep_{dtype}", name] = wide
    return [_table(source, f"experts.{dtype}.{name}", rows) for (dtype, name), rows in sorted(parts.items())]


def _wide(source: Source, system: str, framework: str) -> dict[tuple[str, str], list[Rows]]:
    """DeepEP rows per number format and routing: low latency up to `MASKED_TOKENS` a rank, normal dispatch above."""
    found: dict[tuple[str, str], list[Rows]] = {}
    for op in (MASKED_OP, CONTIGUOUS_OP):
        rows = source.rows(system, "moe", framework, op, COLUMNS)
        if rows is None:
            continue
        served = (rows["num_tokens"] <= MASKED_TOKENS * rows["moe_ep_size"]) == (op == MASKED_OP)
        rows = rows.select(served & (rows["moe_ep_size"] > MEASURED_RANKS[framework]))
        for dtype in sorted(set(rows["moe_dtype"].tolist())):
            for name, label in WIDE_DISTRIBUTIONS.items():
                chosen = (rows["moe_dtype"] == dtype) & (rows["distribution"] == label)
                if chosen.any():
                    found.setdefault((dtype, name), []).append(rows.select(chosen))
    return found


def _shapes(rows: Rows) -> dict[tuple[str, int, int, int, int], NDArray[np.intp]]:
    """Indices of the rows of every number format, hidden width, expert width, experts per token and experts."""
    columns = [rows[name].tolist() for name in ("moe_dtype", "hidden_size", "inter_size", "topk", "num_experts")]
    found: dict[tuple[str, int, int, int, int], list[int]] = {}
    for index, shape in enumerate(zip(*columns, strict=True)):
        found.setdefault(shape, []).append(index)
    return {shape: np.array(indices) for shape, indices in found.items()}


def _kept(rows: Rows, framework: str) -> NDArray[np.bool_]:
    """Rows whose sharding is kept, whose experts divide over the ranks and whose kernel was measured as it is used."""
    tensor, ranks = rows["moe_tp_size"], rows["moe_ep_size"]
    plain = (tensor == 1) | (ranks == 1) | np.isin(tensor, MIXED_TENSOR_PARALLEL)
    whole = (rows["num_experts"] % ranks == 0) & (rows["inter_size"] % tensor == 0)
    usual = ~np.isin(rows["kernel_source"], CONCENTRATING_KERNELS)
    return np.asarray(plain & whole & usual & (ranks <= MEASURED_RANKS[framework]))


def _ratio(above: Rows, ranks: int, below: Rows, other_ranks: int, tokens: tuple[int, int]) -> float:
    """Median ratio of balanced times of unsharded experts at equal tokens; 0 where not measured.

    Args:
        above: rows of the numerator's shape.
        ranks: of the numerator.
        below: rows of the denominator's shape.
        other_ranks: of the denominator.
        tokens: smallest and largest number of tokens.
    """
    times = []
    for rows, count in ((above, ranks), (below, other_ranks)):
        usable = (rows["distribution"] == BALANCED) & (rows["moe_tp_size"] == 1) & (rows["moe_ep_size"] == count)
        usable &= (rows["num_tokens"] >= tokens[0]) & (rows["num_tokens"] <= tokens[1])
        fastest: dict[int, float] = {}
        for n, time in zip(rows["num_tokens"][usable].tolist(), rows["latency"][usable].tolist(), strict=True):
            fastest[n] = min(time, fastest.get(n, time))
        times.append(fastest)
    ratios = [time / times[1][n] for n, time in times[0].items() if n in times[1]]
    return float(np.median(ratios)) if ratios else 0.0


def _keys(rows: Rows) -> NDArray[np.int64]:
    """Coordinates of every row, shape (n, axes)."""
    gated = [
        pair not in NON_GATED for pair in zip(rows["hidden_size"].tolist(), rows["inter_size"].tolist(), strict=True)
    ]
    return np.stack(
        (
            np.where(gated, 3, 2),
            rows["hidden_size"],
            rows["topk"],
            rows["num_experts"],
            rows["moe_ep_size"],
            rows["inter_size"] // rows["moe_tp_size"],
        ),
        axis=1,
    )


def _table(source: Source, name: str, parts: list[Rows]) -> CurveSet:
    """One table from the rows of one or more versions."""
    keys = np.concatenate([_keys(rows) for rows in parts])
    tokens = np.concatenate([rows["num_tokens"] for rows in parts])
    times = np.concatenate([rows["latency"] for rows in parts])
    # Ascending time last, so that the first of equal points is the fastest kernel there.
    order = np.lexsort((times, tokens, *keys.T[::-1]))
    keys, tokens, times = keys[order], tokens[order], times[order]
    point = np.column_stack((keys, tokens))
    first = np.append(True, (np.diff(point, axis=0) != 0).any(axis=1))
    keys, x, times = keys[first], tokens[first].astype(float), times[first]
    starts = np.append(0, np.flatnonzero((np.diff(keys, axis=0) != 0).any(axis=1)) + 1)
    slices = [slice(start, end) for start, end in zip(starts.tolist(), [*starts[1:].tolist(), len(keys)], strict=True)]
    curves = [(keys[part.start].tolist(), *distil(x[part], times[part], error=CHORD_ERROR)) for part in slices]
    versions = list(dict.fromkeys(rows.version for rows in parts))
    origin = provenance(
        f"{source.name}: {', '.join(dict.fromkeys(rows.path for rows in parts))}",
        parts[0].framework,
        versions[0],
        f"shapes that {versions[0]} lacks are from {', '.join(versions[1:])}" if versions[1:] else "",
    )
    return stated(CurveSet.of(name, AXES, "tokens", curves, origin), [(x[part], times[part]) for part in slices])
