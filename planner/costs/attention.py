"""Work and memory of attention: FLOPs and bytes of the core, KV cache per token, per architecture.

Sources: MLA absorbed and expanded forms, DeepSeek-V2 (arXiv 2405.04434) section 2.1; sparse attention with a
lightning indexer, DeepSeek-V3.2 technical report; MFA, Step-3 (arXiv 2507.19427).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from specs.model import (
    BYTES_PER_ELEMENT,
    Attention,
    FactoredAttention,
    LatentAttention,
    LinearAttention,
    Precision,
    SoftmaxAttention,
)

INDEX_BYTES_PER_ELEMENT = 1.0 + 4.0 / 128.0
"""The indexer's keys are FP8 with one FP32 scale for every 128 elements."""

SELECTION_BYTES_PER_TOKEN = 12.0
"""Top-k selection writes an FP32 score per context token and reads it about twice."""

STATE_BYTES_PER_ELEMENT = 4.0
"""Recurrent states are kept in FP32."""


@dataclass(frozen=True)
class CoreWork:
    """Work of an attention core for one sequence.

    Args:
        flops: floating-point operations at the BF16 rate.
        flops_fp8: floating-point operations at the FP8 rate (the indexer).
        bytes_read: bytes moved from and to HBM.
        kernels: kernels launched.
    """

    flops: float
    flops_fp8: float
    bytes_read: float
    kernels: int


def mean_clipped(first: float, last: float, cap: float) -> float:
    """Mean of min(c, cap) for c uniform on [first, last]; the plain clipped value where first == last."""
    if last <= first:
        return min(first, cap)
    if cap >= last:
        return 0.5 * (first + last)
    if cap <= first:
        return cap
    below = 0.5 * (first + cap) * (cap - first)
    return (below + cap * (last - cap)) / (last - first)


def clipped_area(new_tokens: float, context: float, cap: float) -> float:
    """Sum over the new tokens i of min(context + i, cap): query-key pairs of a causal chunk (continuous in i)."""
    return new_tokens * mean_clipped(context, context + new_tokens, cap)


def local_kv_heads(kv_heads: int, tp: int) -> int:
    """KV heads on one of `tp` ranks; heads are copied where there are fewer than ranks."""
    return max(1, math.ceil(kv_heads / tp))


def decode_work(
    attention: Attention, tp: int, kv_dtype: Precision, first_context: float, last_context: float
) -> CoreWork:
    """Mean work of one sequence's decode step while its context grows from `first_context` to `last_context`."""
    element = BYTES_PER_ELEMENT[kv_dtype]
    mean = mean_clipped(first_context, last_context, math.inf)
    match attention:
        case SoftmaxAttention():
            context = mean_clipped(first_context, last_context, attention.window_tokens or math.inf)
            heads = attention.heads / tp
            read = 2.0 * local_kv_heads(attention.kv_heads, tp) * attention.head_dim * element * context
            return CoreWork(4.0 * heads * attention.head_dim * context, 0.0, read, 2)
        case FactoredAttention():
            heads = attention.heads / tp
            read = 2.0 * local_kv_heads(attention.kv_heads, tp) * attention.head_dim * element * mean
            return CoreWork(4.0 * heads * attention.head_dim * mean, 0.0, read, 2)
        case LatentAttention():
            context = mean_clipped(first_context, last_context, attention.index_topk or math.inf)
            heads = attention.heads / tp
            width = attention.kv_lora_rank + attention.qk_rope_head_dim
            flops = 2.0 * heads * (width + attention.kv_lora_rank) * context
            read = width * element * context
            if not attention.index_topk:
                return CoreWork(flops, 0.0, read, 2)
            index_flops = 2.0 * attention.index_heads * attention.index_head_dim * mean
            index_read = (attention.index_head_dim * INDEX_BYTES_PER_ELEMENT + SELECTION_BYTES_PER_TOKEN) * mean
            return CoreWork(flops, index_flops, read + index_read, 4)
        case LinearAttention():
            state = 2.0 * STATE_BYTES_PER_ELEMENT * attention.state_elements / tp
            return CoreWork(attention.flops_per_token / tp, 0.0, state, 2)


def prefill_work(attention: Attention, tp: int, kv_dtype: Precision, new_tokens: float, context: float) -> CoreWork:
    """Work of one prompt's chunk of `new_tokens` that attends to itself (causally) and to `context` tokens."""
    element = BYTES_PER_ELEMENT[kv_dtype]
    end = context + new_tokens
    area = clipped_area(new_tokens, context, math.inf)
    match attention:
        case SoftmaxAttention():
            window = attention.window_tokens or math.inf
            seen = clipped_area(new_tokens, context, window)
            read = (
                2.0
                * local_kv_heads(attention.kv_heads, tp)
                * attention.head_dim
                * element
                * min(end, window + new_tokens)
            )
            return CoreWork(4.0 * attention.heads / tp * attention.head_dim * seen, 0.0, read, 1)
        case FactoredAttention():
            read = 2.0 * local_kv_heads(attention.kv_heads, tp) * attention.head_dim * element * end
            return CoreWork(4.0 * attention.heads / tp * attention.head_dim * area, 0.0, read, 1)
        case LatentAttention():
            heads = attention.heads / tp
            width = attention.kv_lora_rank + attention.qk_rope_head_dim
            absorbed_per_pair = 2.0 * heads * (width + attention.kv_lora_rank)
            if attention.index_topk:
                selected = clipped_area(new_tokens, context, attention.index_topk)
                index_flops = 2.0 * attention.index_heads * attention.index_head_dim * area
                index_read = attention.index_head_dim * INDEX_BYTES_PER_ELEMENT * end + SELECTION_BYTES_PER_TOKEN * area
                # Each query gathers its own selection: no reuse of the cache among queries beyond the L2.
                return CoreWork(absorbed_per_pair * selected, index_flops, width * element * end + index_read, 4)
            expanded_per_pair = (
                2.0 * heads * (attention.qk_nope_head_dim + attention.qk_rope_head_dim + attention.v_head_dim)
            )
            # The expanded form is cheaper per pair but first projects the latent of all tokens before the chunk
            # (the chunk's own projection is among the GEMMs); engines pick the cheaper one.
            project = 2.0 * attention.kv_lora_rank * heads * (attention.qk_nope_head_dim + attention.v_head_dim)
            flops = min(absorbed_per_pair * area, expanded_per_pair * area + project * context)
            return CoreWork(flops, 0.0, width * element * end, 2)
        case LinearAttention():
            state = 2.0 * STATE_BYTES_PER_ELEMENT * attention.state_elements / tp
            return CoreWork(attention.flops_per_token / tp * new_tokens, 0.0, state, 2)


def kv_bytes(attention: Attention | None, tp: int, kv_dtype: Precision, tokens: float) -> float:
    """Cache bytes that `tokens` tokens of one request take on one of `tp` ranks in one layer."""
    element = BYTES_PER_ELEMENT[kv_dtype]
    match attention:
        case None:
            return 0.0
        case SoftmaxAttention():
            kept = min(tokens, attention.window_tokens or math.inf)
            return 2.0 * local_kv_heads(attention.kv_heads, tp) * attention.head_dim * element * kept
        case FactoredAttention():
            return 2.0 * local_kv_heads(attention.kv_heads, tp) * attention.head_dim * element * tokens
        case LatentAttention():
            index = attention.index_head_dim * INDEX_BYTES_PER_ELEMENT if attention.index_topk else 0.0
            return ((attention.kv_lora_rank + attention.qk_rope_head_dim) * element + index) * tokens
        case LinearAttention():
            return STATE_BYTES_PER_ELEMENT * attention.state_elements / tp if tokens > 0 else 0.0
