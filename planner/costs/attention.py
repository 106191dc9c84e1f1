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


EXPANDED_BYTES_PER_ELEMENT = 2.0
"""Keys and values that MLA projects out of the latent for a prefill are BF16."""


@dataclass(frozen=True)
class CoreWork:
    """Work of one phase of an attention core for one sequence; phases follow one another.

    Args:
        flops: floating-point operations at the BF16 rate.
        flops_fp8: floating-point operations at the FP8 rate (the indexer).
        bytes_moved: bytes moved from and to HBM.
        kernels: kernels launched.
        sparse: whether the cache is gathered token by token.
    """

    flops: float
    flops_fp8: float
    bytes_moved: float
    kernels: int
    sparse: bool = False


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
    attention: Attention, tp: int, kv_dtype: Precision, first_context: float, last_context: float, queries: int = 1
) -> tuple[CoreWork, ...]:
    """Mean work of one sequence's decode step while its context grows from `first_context` to `last_context`.

    Several queries (draft tokens under verification) share one read of the cache, except where each gathers a
    selection of its own.

    Args:
        attention: the architecture's attention.
        tp: ranks that share the heads.
        kv_dtype: format of the KV cache.
        first_context: context of the first decode step, tokens.
        last_context: context of the last decode step, tokens.
        queries: tokens that one sequence brings to a step.

    Returns:
        The phases, one after the other.
    """
    element = BYTES_PER_ELEMENT[kv_dtype]
    mean = mean_clipped(first_context, last_context, math.inf)
    match attention:
        case SoftmaxAttention() | FactoredAttention():
            window = attention.window_tokens if isinstance(attention, SoftmaxAttention) else None
            context = mean_clipped(first_context, last_context, window or math.inf)
            flops = 4.0 * attention.heads / tp * attention.head_dim * context * queries
            read = 2.0 * local_kv_heads(attention.kv_heads, tp) * attention.head_dim * element * context
            return (CoreWork(flops, 0.0, read, 2),)
        case LatentAttention():
            context = mean_clipped(first_context, last_context, attention.index_topk or math.inf)
            width = attention.kv_lora_rank + attention.qk_rope_head_dim
            flops = 2.0 * attention.heads / tp * (width + attention.kv_lora_rank) * context * queries
            if not attention.index_topk:
                return (CoreWork(flops, 0.0, width * element * context, 2),)
            gathered = width * element * min(context * queries, mean)
            return (*_index_work(attention, mean, mean * queries), CoreWork(flops, 0.0, gathered, 2, sparse=True))
        case LinearAttention():
            # The state is read once and written after every query, so that rejected drafts can be undone.
            state = (1.0 + queries) * STATE_BYTES_PER_ELEMENT * attention.state_elements / tp
            return (CoreWork(attention.flops_per_token / tp * queries, 0.0, state, 2),)


def prefill_work(
    attention: Attention, tp: int, kv_dtype: Precision, new_tokens: float, context: float
) -> tuple[CoreWork, ...]:
    """Work of one prompt's chunk of `new_tokens` that attends to itself (causally) and to `context` tokens.

    Returns:
        The phases, one after the other.
    """
    element = BYTES_PER_ELEMENT[kv_dtype]
    end = context + new_tokens
    area = clipped_area(new_tokens, context, math.inf)
    match attention:
        case SoftmaxAttention() | FactoredAttention():
            window = (attention.window_tokens if isinstance(attention, SoftmaxAttention) else None) or math.inf
            seen = clipped_area(new_tokens, context, window)
            token = 2.0 * local_kv_heads(attention.kv_heads, tp) * attention.head_dim * element
            flops = 4.0 * attention.heads / tp * attention.head_dim * seen
            return (CoreWork(flops, 0.0, token * min(end, window + new_tokens), 1),)
        case LatentAttention():
            heads = attention.heads / tp
            width = attention.kv_lora_rank + attention.qk_rope_head_dim
            absorbed_per_pair = 2.0 * heads * (width + attention.kv_lora_rank)
            if attention.index_topk:
                # Each query gathers its own selection, whatever share of the heads the rank has. Reuse among queries
                # in the L2 is not counted: where it would help, on ranks with few heads, the kernels pad the heads to
                # 64 or 128 instead (FlashMLA's sparse prefill), which costs more still.
                selected = clipped_area(new_tokens, context, attention.index_topk)
                core = CoreWork(absorbed_per_pair * selected, 0.0, width * element * selected, 2, sparse=True)
                return (*_index_work(attention, end, area), core)
            expanded_width = attention.qk_nope_head_dim + attention.qk_rope_head_dim + attention.v_head_dim
            # The expanded form is cheaper per pair but first projects the latent of all tokens before the chunk
            # (the chunk's own projection is among the GEMMs), writes the result and reads it back; engines pick the
            # form with fewer operations.
            project = 2.0 * attention.kv_lora_rank * heads * (attention.qk_nope_head_dim + attention.v_head_dim)
            absorbed = absorbed_per_pair * area
            expanded = 2.0 * heads * expanded_width * area + project * context
            if absorbed <= expanded:
                return (CoreWork(absorbed, 0.0, width * element * end, 2),)
            copies = heads * expanded_width * EXPANDED_BYTES_PER_ELEMENT * (context + end)
            return (CoreWork(expanded, 0.0, width * element * end + copies, 2),)
        case LinearAttention():
            state = 2.0 * STATE_BYTES_PER_ELEMENT * attention.state_elements / tp
            return (CoreWork(attention.flops_per_token / tp * new_tokens, 0.0, state, 2),)


def _index_work(attention: LatentAttention, keys: float, pairs: float) -> tuple[CoreWork, ...]:
    """The lightning indexer: score `pairs` query-key pairs over `keys` keys, then select.

    A layer without index heads of its own reuses the selection of the layer before it (GLM-5.2). The indexer is not
    sharded over tensor-parallel ranks.
    """
    if not attention.index_heads:
        return ()
    flops = 2.0 * attention.index_heads * attention.index_head_dim * pairs
    read = attention.index_head_dim * INDEX_BYTES_PER_ELEMENT * keys
    return (CoreWork(0.0, flops, read, 1), CoreWork(0.0, 0.0, SELECTION_BYTES_PER_TOKEN * pairs, 1))


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
