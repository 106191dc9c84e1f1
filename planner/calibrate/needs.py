"""Which operators a model needs on a GPU, and at which sizes they are measured.

Products come from the cost model's own list (`planner.costs.sides`), so that what is measured is what is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

from planner.calibrate.harness import LARGEST_SAMPLE_MS, POINT_OVERHEAD_S, SAMPLES
from planner.calibrate.table import Curve, Key
from planner.calibrate.work import WorkItem, WorkList
from planner.costs.analytic import AnalyticKernels
from planner.costs.attention import local_kv_heads
from planner.costs.operators import DecodeAttention, Elementwise, Gemm, GroupedGemm, Operator, PrefillAttention
from planner.costs.sides import block_scaled
from planner.costs.site import Site
from planner.kernels.user_table import BLOCK_FORMAT, expanded_is_cheaper, weight_format
from planner.options.layouts import heads_divide, widths_divide
from specs.errors import SpecError
from specs.hardware import GpuSpec
from specs.model import (
    BYTES_PER_ELEMENT,
    Attention,
    FactoredAttention,
    LatentAttention,
    LinearAttention,
    MoeFfn,
    Precision,
    SoftmaxAttention,
)
from specs.scenario import Pool, resolve_pool
from specs.service import Service

ROWS = tuple(1 << power for power in range(15))
"""Rows of a product: 1 to 16,384 tokens."""

HEAD_ROWS = tuple(1 << power for power in range(11))
"""Rows of the output projection: positions that are sampled."""

CONTEXTS = (512, 2048, 8192, 32768)
"""Context tokens of a decode step."""

SEQUENCES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Sequences of a decode step."""

CHUNKS = (128, 512, 2048, 8192)
"""New tokens of a prompt's chunk."""

PREFIXES = (0, 2048, 8192, 32768)
"""Tokens before a chunk."""

PROMPTS = (1, 4, 16)
"""Prompts that bring such a chunk."""

LARGEST_CHUNK = 16384
"""New tokens of one step, over all prompts."""

LARGEST_KEYS = 65536
"""Keys of one step, over all prompts."""

LARGEST_PAIRS = 65536
"""Token-expert pairs of one rank."""

STREAM_BYTES = tuple(1 << power for power in range(14, 33, 2))
"""Bytes moved by an element-wise kernel: 16 KiB to 4 GiB."""

ALL_REDUCE_BYTES = tuple(1 << power for power in range(12, 29, 2))
"""Bytes of an all-reduce: 4 KiB to 256 MiB."""

CACHE_SHARE = 0.12
"""Share of device memory that the caches of one point may take."""

EXPERT_SHARE = 0.5
"""Share of device memory that the expert weights of one curve may take."""

MEASURABLE = ("bf16", "fp8", BLOCK_FORMAT)
"""Weight formats of products that the CUDA backend computes."""


def needs(
    model: str,
    gpu: GpuSpec,
    *,
    tp: Sequence[int],
    ep: Sequence[int],
    precision: Precision,
    kv_dtype: Precision,
    most_ms: float = math.inf,
) -> WorkList:
    """What to measure for a model.

    Args:
        model: catalogue id, or path of a config.json.
        gpu: the GPU type.
        tp: tensor-parallel degrees.
        ep: expert-parallel degrees.
        precision: of weights and products.
        kv_dtype: of the KV cache.
        most_ms: points that the analytic model expects to take longer on the GPU are left away, for a slow backend.

    Returns:
        The list, products first; degrees over which the model does not divide are left out with a word.

    Raises:
        SpecError: unknown model, or it divides over none of the degrees.
    """
    site = _site(model, gpu, precision, kv_dtype)
    found = _Needs(site, gpu, most_ms)
    degrees = []
    for degree in dict.fromkeys(tp):
        if heads_divide(site, degree) and widths_divide(site, degree, 1):
            degrees.append(degree)
        else:
            found.leave_out(f"tp {degree}: heads or widths do not divide")
    if not degrees:
        raise SpecError(f"{site.model.id} divides over none of {', '.join(map(str, tp))}", field="--tp")
    for degree in degrees:
        side = site.attention(degree)
        for index in range(len(site.model.layers)):
            for gemm in side.group_gemms(index):
                found.add_gemm(gemm, ROWS)
        found.add_gemm(side.head_gemm(), HEAD_ROWS)
    for degree in degrees:
        for group in site.model.layers:
            if group.attention is not None:
                found.add_attention(group.attention, degree, kv_dtype)
    for group in site.model.layers:
        if isinstance(group.ffn, MoeFfn):
            found.add_experts(group.ffn, degrees, ep, precision)
    found.add("stream", {}, STREAM_BYTES, Elementwise("stream", 1.0, 1))
    for degree in degrees:
        if degree > 1:
            found.add("all_reduce", {"ranks": degree}, ALL_REDUCE_BYTES, None)
    return WorkList(site.model.id, gpu.id, tuple(found.items.values()), tuple(found.left_out))


def _site(model: str, gpu: GpuSpec, precision: Precision, kv_dtype: Precision) -> Site:
    described = {
        "name": "calibration",
        "model": model,
        "precision": precision.value,
        "kv_cache_dtype": kv_dtype.value,
        "workload": {"input_tokens": 1024, "output_tokens": 128},
        "slo": {"ttft_ms": 1e6, "tpot_ms": 1e6},
    }
    return Site.of(
        Service.model_validate(described),
        resolve_pool(Pool.model_validate({"name": "calibration", "gpu": gpu.id, "count": gpu.gpus_per_node})),
    )


class _Needs:
    """Collects curves, each once, and what no kernel here can measure."""

    def __init__(self, site: Site, gpu: GpuSpec, most_ms: float) -> None:
        self.items: dict[Curve, WorkItem] = {}
        self.left_out: dict[str, None] = {}
        self._model = site.model
        self._gpu = gpu
        self._most_ms = most_ms
        self._analytic = AnalyticKernels(gpu)

    def leave_out(self, reason: str) -> None:
        self.left_out[reason] = None

    def add(self, operator: str, keys: dict[str, Key], values: Sequence[int], kernel: Operator | None) -> None:
        """Add a curve; `kernel` is the cost model's operator, for the expected time."""
        times = self._analytic.time_ms(kernel)(values).tolist() if kernel is not None else [0.0] * len(values)
        kept = [(value, time) for value, time in zip(values, times, strict=True) if time <= self._most_ms]
        if not kept:
            return
        seconds = sum(_point_s(time) for _, time in kept)
        item = WorkItem(operator, tuple(keys.items()), tuple(value for value, _ in kept), seconds)
        if item.curve not in self.items or len(self.items[item.curve].values) < len(kept):
            self.items[item.curve] = item

    def add_gemm(self, gemm: Gemm, rows: Sequence[int]) -> None:
        name = weight_format(gemm.precision, block=gemm.block)
        if name not in MEASURABLE:
            self.leave_out(f"{name} products: no kernel here")
            return
        self.add("gemm", {"precision": name, "n": gemm.outputs, "k": gemm.inputs}, rows, gemm)

    def add_attention(self, attention: Attention, tp: int, kv_dtype: Precision) -> None:
        match attention:
            case LinearAttention():
                self.leave_out("linear attention: no kernel here")
                return
            case LatentAttention():
                if attention.index_topk:
                    self.leave_out("sparse attention: no kernel here")
                    return
                kind, window = "mla", None
                shape: dict[str, Key] = {"kv_lora_rank": attention.kv_lora_rank}
                rope: dict[str, Key] = {"qk_rope_head_dim": attention.qk_rope_head_dim}
                decode_shape = {**shape, **rope}
                prefill_shape = {
                    **shape,
                    "qk_nope_head_dim": attention.qk_nope_head_dim,
                    **rope,
                    "v_head_dim": attention.v_head_dim,
                }
                token_bytes = 2.0 * (attention.kv_lora_rank + attention.qk_rope_head_dim)
            case SoftmaxAttention() | FactoredAttention():
                kind, window = "attention", attention.window_tokens if isinstance(attention, SoftmaxAttention) else None
                kv_heads = local_kv_heads(attention.kv_heads, tp)
                decode_shape = prefill_shape = {"kv_heads": kv_heads, "head_dim": attention.head_dim}
                token_bytes = 4.0 * kv_heads * attention.head_dim
        if kv_dtype is not Precision.BF16:
            self.leave_out(f"attention over a {kv_dtype.value} cache: no kernel here")
            return
        heads: dict[str, Key] = {"kv_precision": kv_dtype.value, "heads": attention.heads // tp}
        longest = min(self._model.max_context_tokens, window or math.inf)
        room = CACHE_SHARE * self._gpu.memory_bytes
        for context in sorted({context for context in CONTEXTS if context <= longest} | {window or CONTEXTS[0]}):
            sequences = [count for count in SEQUENCES if count * context * token_bytes <= room]
            keys = {**heads, **decode_shape, "queries": 1, "context": context}
            kernel = DecodeAttention("decode", attention, tp, kv_dtype, context, context)
            self.add(f"decode_{kind}", keys, sequences, kernel)
        for context, chunk in product(PREFIXES, CHUNKS):
            end = context + chunk
            if end > longest:
                continue
            if isinstance(attention, LatentAttention) and not expanded_is_cheaper(attention, tp, chunk, context):
                continue
            prompts = [count for count in PROMPTS if count * chunk <= LARGEST_CHUNK and count * end <= LARGEST_KEYS]
            keys = {**heads, **prefill_shape, "context": context, "new_tokens": chunk}
            self.add(
                f"prefill_{kind}", keys, prompts, PrefillAttention("prefill", attention, tp, kv_dtype, chunk, context)
            )

    def add_experts(self, ffn: MoeFfn, tp: Sequence[int], ep: Sequence[int], precision: Precision) -> None:
        block = block_scaled(self._model, precision)
        name = weight_format(precision, block=block)
        if name not in MEASURABLE:
            self.leave_out(f"{name} expert products: no kernel here")
            return
        hidden = ffn.expert_hidden or self._model.hidden
        # Whole experts over EP ranks, and slices of all experts over the TP ranks.
        shards = [(max(1, -(-ffn.experts // ranks)), ffn.intermediate) for ranks in ep]
        shards += [(ffn.experts, ffn.intermediate // ranks) for ranks in tp if ffn.intermediate % ranks == 0]
        for slots, width in dict.fromkeys(shards):
            expert_bytes = (3.0 if ffn.gated else 2.0) * hidden * width * BYTES_PER_ELEMENT[precision]
            if slots * expert_bytes > EXPERT_SHARE * self._gpu.memory_bytes:
                self.leave_out(f"{slots} experts of width {width}: more than half of the GPU's memory")
                continue
            for active in _active(slots):
                keys: dict[str, Key] = {
                    "precision": name,
                    "hidden": hidden,
                    "intermediate": width,
                    "gated": ffn.gated,
                    "active_experts": active,
                }
                # One rank and one expert a token: tokens are pairs, as nearly even as random routing is.
                kernel = GroupedGemm("experts", hidden, width, ffn.gated, active, active, 1, 1, 0.0, precision, block)
                most = LARGEST_PAIRS if active == slots else LARGEST_PAIRS // 4
                self.add("grouped_gemm", keys, _doubling(active, most), kernel)


def _point_s(time_ms: float) -> float:
    """Seconds to measure one point: two candidates, each warmed up, estimated and sampled."""
    sample_ms = max(1.0, min(LARGEST_SAMPLE_MS, 60.0 * time_ms), time_ms)
    return 2.0 * (POINT_OVERHEAD_S + (2 * SAMPLES * sample_ms + 8.0 * time_ms) * 1e-3)


def _active(slots: int) -> list[int]:
    """Numbers of activated experts that are measured: powers of 4 below the slots, and the slots."""
    return [*(1 << power for power in range(0, 20, 2) if 1 << power < slots), slots]


def _doubling(first: int, last: int) -> list[int]:
    """first, 2 first, 4 first, up to `last`; `first` in any case."""
    return [first << power for power in range(max(1, int(math.log2(max(last, first) / first)) + 1))]
