"""Memory that a model takes on one GPU, counted from its architecture.

Bytes per parameter and per cached element times counts of `specs.counts`: lower bounds of what an engine allocates,
since norms, scales, replicated projections, padding and fragmentation are left out. Nothing here is shared with the
cost model, so that a mistake in one is seen by the other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from specs.counts import (
    attention_params,
    embedding_params,
    expert_params,
    ffn_params,
    latent_projection_params,
    router_params,
    shared_expert_params,
)
from specs.model import (
    BYTES_PER_ELEMENT,
    Attention,
    DenseFfn,
    FactoredAttention,
    LatentAttention,
    LinearAttention,
    ModelSpec,
    MoeFfn,
    Precision,
    SoftmaxAttention,
)
from specs.plan import Role

STATE_BYTES = 4.0
"""Recurrent states are FP32 in the engines."""


@dataclass(frozen=True)
class Shards:
    """How one instance spreads over its GPUs.

    Args:
        tp: tensor-parallel ranks of attention.
        dp: attention data-parallel ranks.
        ep: expert-parallel ranks.
        moe_tp: tensor-parallel ranks of one expert.
        pp: pipeline stages.
    """

    tp: int = 1
    dp: int = 1
    ep: int = 1
    moe_tp: int = 1
    pp: int = 1

    @property
    def attention_gpus(self) -> int:
        """GPUs by the attention side."""
        return self.tp * self.dp * self.pp

    @property
    def expert_gpus(self) -> int:
        """GPUs by the expert side."""
        return self.ep * self.moe_tp * self.pp


def weight_bytes(model: ModelSpec, precision: Precision, shards: Shards, role: Role | None, slots: int = 0) -> float:
    """Weights on the GPU that holds an even share of the layers.

    Attention is cut over `tp`, experts over `ep x moe_tp`; of an AFD unit each side holds its own. Four-bit checkpoints
    of mixtures keep everything but the experts in BF16 or FP8: the smaller is counted.

    Args:
        model: what is served.
        precision: of the weights.
        shards: how they are cut.
        role: `ffn` holds routed experts alone, `attention` all but them, any other both.
        slots: physical experts of a layer, redundant ones included; 0: those of the model.
    """
    each = BYTES_PER_ELEMENT[precision]
    experts, rest = 0.0, 0.0
    for group in model.layers:
        if group.attention is not None:
            rest += group.count * attention_params(group.attention, model.hidden) / shards.tp
        if isinstance(group.ffn, DenseFfn):
            rest += group.count * ffn_params(group.ffn, model.hidden) / (shards.tp * shards.dp)
        elif isinstance(group.ffn, MoeFfn):
            physical = max(slots, group.ffn.experts)
            held = math.ceil(physical / shards.ep) * expert_params(group.ffn, model.hidden) / shards.moe_tp
            experts += group.count * held
            shared = shared_expert_params(group.ffn, model.hidden) + latent_projection_params(group.ffn, model.hidden)
            rest += group.count * (shared / (shards.tp * shards.dp) + router_params(group.ffn, model.hidden))
    # Embedding and head are BF16 everywhere; a stage in the middle of a pipeline holds neither.
    head = 0.0 if shards.pp > 1 else 2.0 * embedding_params(model) / (shards.tp * shards.dp)
    if role is Role.FFN:
        return each * experts / shards.pp
    if role is Role.ATTENTION:
        return each * rest / shards.pp + head
    return each * (experts + rest) / shards.pp + head


def cache_bytes(model: ModelSpec, tokens: float, kv_dtype: Precision, shards: Shards) -> float:
    """KV cache and recurrent state of one request of `tokens` tokens on one GPU of its DP rank."""
    total = sum(
        group.count * _layer_bytes(group.attention, tokens, BYTES_PER_ELEMENT[kv_dtype], shards.tp)
        for group in model.layers
        if group.attention is not None
    )
    return total / shards.pp


def _layer_bytes(attention: Attention, tokens: float, each: float, tp: int) -> float:
    match attention:
        case SoftmaxAttention():
            seen = tokens if attention.window_tokens is None else min(tokens, attention.window_tokens)
            return 2.0 * max(1.0, attention.kv_heads / tp) * attention.head_dim * seen * each
        case FactoredAttention():
            return 2.0 * max(1.0, attention.kv_heads / tp) * attention.head_dim * tokens * each
        case LatentAttention():
            # One latent per token, whole on every rank; the indexer's key is one byte per element (FP8).
            latent = (attention.kv_lora_rank + attention.qk_rope_head_dim) * each
            return tokens * (latent + (attention.index_head_dim if attention.index_heads else 0))
        case LinearAttention():
            return STATE_BYTES * attention.state_elements / tp
    raise TypeError(f"no cache size for {type(attention).__name__}")
