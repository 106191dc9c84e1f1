"""Parameter counts of an architecture, recomputed from its shape.

Counted are the matrices: projections, experts, router, embeddings. Norms, biases and other vectors are left out; they
are below 0.1% of every model in the catalogue. Vision towers and multi-token-prediction modules are not part of
`ModelSpec.layers`, hence not counted.
"""

from specs.model import (
    Attention,
    DenseFfn,
    FactoredAttention,
    Ffn,
    LatentAttention,
    LinearAttention,
    ModelSpec,
    MoeFfn,
    SoftmaxAttention,
)


def indexer_params(attention: LatentAttention, hidden: int) -> int:
    """Parameters of the sparse-attention indexer of one layer; 0 where there is none.

    Queries of every index head from the query latent (from the input where queries have no latent), one shared key,
    one weight per head: r_q h_i d_i + H d_i + H h_i.
    Source: DeepSeek-V3.2-Exp, `inference/model.py`, class `Indexer`.
    """
    query_input = attention.q_lora_rank or hidden
    per_head = query_input * attention.index_head_dim + hidden
    return attention.index_heads * per_head + hidden * attention.index_head_dim


def attention_params(attention: Attention, hidden: int) -> int:
    """Parameters of one attention part of a layer.

    With H = `hidden`, h heads of width d, g KV heads:

    - GQA: H h d (queries) + 2 H g d (keys, values) + h d H (output), and H h d more where the output is gated.
    - MLA: H r_q + r_q h (d_nope + d_rope) + H (r_kv + d_rope) + r_kv h (d_nope + d_v) + h d_v H; without a query
      latent the first two terms become H h (d_nope + d_rope). The indexer is added where there is one.
      Source: DeepSeek-V2, arXiv 2405.04434, section 2.1.
    - MFA: H (r_q + 2 g d) + r_q h d + h d H. Source: Step-3, arXiv 2507.19427.
    - linear: the projections as given.
    """
    if isinstance(attention, SoftmaxAttention):
        width = attention.heads * attention.head_dim
        query_and_output = (3 if attention.output_gate else 2) * hidden * width
        return query_and_output + 2 * hidden * attention.kv_heads * attention.head_dim
    if isinstance(attention, LatentAttention):
        query_width = attention.heads * (attention.qk_nope_head_dim + attention.qk_rope_head_dim)
        rank = attention.q_lora_rank
        query = hidden * query_width if rank is None else rank * (hidden + query_width)
        key_value = hidden * (attention.kv_lora_rank + attention.qk_rope_head_dim)
        up = attention.kv_lora_rank * attention.heads * (attention.qk_nope_head_dim + attention.v_head_dim)
        output = attention.heads * attention.v_head_dim * hidden
        return query + key_value + up + output + indexer_params(attention, hidden)
    if isinstance(attention, FactoredAttention):
        width = attention.heads * attention.head_dim
        down = hidden * (attention.q_lora_rank + 2 * attention.kv_heads * attention.head_dim)
        return down + width * (attention.q_lora_rank + hidden)
    if isinstance(attention, LinearAttention):
        return attention.projection_params
    raise TypeError(f"no parameter count for {type(attention).__name__}")


def _matrices(gated: bool) -> int:
    return 3 if gated else 2


def expert_params(ffn: MoeFfn, hidden: int) -> int:
    """Parameters of one routed expert: (3 if gated, else 2) x its input width x its intermediate width."""
    return _matrices(ffn.gated) * (ffn.expert_hidden or hidden) * ffn.intermediate


def shared_expert_params(ffn: MoeFfn, hidden: int) -> int:
    """Parameters of the shared experts of one layer together; they read the full hidden width."""
    return _matrices(ffn.gated) * hidden * ffn.shared_intermediate


def router_params(ffn: MoeFfn, hidden: int) -> int:
    """Parameters of the router of one layer: `hidden` x `experts`."""
    return hidden * ffn.experts


def latent_projection_params(ffn: MoeFfn, hidden: int) -> int:
    """Parameters of the projections into and out of the experts' latent width; 0 where experts read `hidden`.

    Source: Nemotron 3, latent mixture of experts: one down- and one up-projection per layer, shared by all experts.
    """
    return 0 if ffn.expert_hidden is None else 2 * hidden * ffn.expert_hidden


def ffn_params(ffn: Ffn, hidden: int) -> int:
    """Parameters of one FFN part of a layer, all experts included."""
    if isinstance(ffn, DenseFfn):
        return _matrices(ffn.gated) * hidden * ffn.intermediate
    return ffn.experts * expert_params(ffn, hidden) + _always_active(ffn, hidden)


def active_ffn_params(ffn: Ffn, hidden: int) -> int:
    """Parameters of one FFN part that one token passes through."""
    if isinstance(ffn, DenseFfn):
        return ffn_params(ffn, hidden)
    return ffn.experts_per_token * expert_params(ffn, hidden) + _always_active(ffn, hidden)


def _always_active(ffn: MoeFfn, hidden: int) -> int:
    """Parameters of a mixture of experts that every token passes through."""
    return shared_expert_params(ffn, hidden) + router_params(ffn, hidden) + latent_projection_params(ffn, hidden)


def embedding_params(model: ModelSpec) -> int:
    """Parameters of the input embedding and the output head; one matrix where they are tied."""
    return (1 if model.tied_embeddings else 2) * model.vocab * model.hidden


def total_params(model: ModelSpec) -> int:
    """Parameters of the whole language model: embeddings, and every layer's attention and FFN with all experts."""
    layers = 0
    for group in model.layers:
        attention = attention_params(group.attention, model.hidden) if group.attention else 0
        ffn = ffn_params(group.ffn, model.hidden) if group.ffn else 0
        layers += group.count * (attention + ffn)
    return layers + embedding_params(model)


def active_params(model: ModelSpec) -> int:
    """Parameters one token passes through, counted as `model.published_active_counts` says.

    `all` counts both embedding matrices, `no_input_embedding` the output head only (a token reads one row of the
    input embedding), `no_embedding` neither.
    """
    layers = 0
    for group in model.layers:
        attention = attention_params(group.attention, model.hidden) if group.attention else 0
        ffn = active_ffn_params(group.ffn, model.hidden) if group.ffn else 0
        layers += group.count * (attention + ffn)
    if model.published_active_counts == "all":
        return layers + embedding_params(model)
    if model.published_active_counts == "no_input_embedding":
        return layers + model.vocab * model.hidden
    return layers
