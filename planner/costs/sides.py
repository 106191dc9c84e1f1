"""The two sides of a model: attention (with all that is computed once per token) and experts.

A colocated worker holds both sides on the same GPUs; an AFD unit holds them on different ones. What stands on which
side: attention projections and core, norms, router, shared experts, dense FFN layers, embedding, head and sampling
on the attention side; routed experts on the expert side (the split of the vLLM prototype of arXiv 2605.28302).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from planner.costs.attention import kv_bytes
from planner.costs.fabric import Fabric
from planner.costs.kernels import Kernels
from planner.costs.lengths import Lengths
from planner.costs.linear import FloatArray, PiecewiseLinear, constant, total
from planner.costs.operators import DecodeAttention, Elementwise, Gemm, GroupedGemm, PrefillAttention
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

ACTIVATION_BYTES = 2.0
"""Residual stream and collectives on it are BF16."""

EXACT_CHUNKS = 4
"""Prompt chunks whose attention is priced one by one; more are priced in this many equal blocks of chunks."""

ELEMENTWISE_PASSES = 10.0
"""Passes over the residual stream by norms, residual additions and quantisation in one layer."""


def attention_precision(precision: Precision, *, experts: bool) -> Precision:
    """Attention projections beside weights of `precision`.

    Four-bit checkpoints of models with experts leave attention in BF16 (NVFP4 of DeepSeek-R1, Kimi-K2.5 and Qwen3.5,
    MXFP4 of gpt-oss, INT4 of Kimi-K2: `ignore` or `exclude_modules` of their quantisation configs); those of dense
    models quantise every layer.
    """
    return Precision.BF16 if experts and precision in (Precision.FP4, Precision.INT4) else precision


def dense_precision(precision: Precision, *, experts: bool) -> Precision:
    """Dense FFN layers and shared experts: as the routed experts, but BF16 in INT4 checkpoints (Kimi-K2.5)."""
    return Precision.BF16 if experts and precision is Precision.INT4 else precision


def projections(attention: Attention, hidden: int, tp: int, precision: Precision, *, block: bool = False) -> list[Gemm]:
    """The matrix products around the attention core on one of `tp` ranks."""

    def gemm(name: str, inputs: int, outputs: float) -> Gemm:
        return Gemm(name, inputs, max(1, round(outputs)), precision, block)

    match attention:
        case SoftmaxAttention():
            width = attention.heads * attention.head_dim / tp
            kv_width = 2.0 * max(1, -(-attention.kv_heads // tp)) * attention.head_dim
            gate = width if attention.output_gate else 0.0
            return [gemm("qkv", hidden, width + gate + kv_width), gemm("out", round(width), hidden)]
        case FactoredAttention():
            width = attention.heads * attention.head_dim / tp
            kv_width = 2.0 * max(1, -(-attention.kv_heads // tp)) * attention.head_dim
            return [
                gemm("q_down_kv", hidden, attention.q_lora_rank + kv_width),
                gemm("q_up", attention.q_lora_rank, width),
                gemm("out", round(width), hidden),
            ]
        case LatentAttention():
            heads = attention.heads / tp
            q_width = heads * (attention.qk_nope_head_dim + attention.qk_rope_head_dim)
            latent = attention.kv_lora_rank + attention.qk_rope_head_dim
            # Queries of the indexer, its key and its head weights; a layer that reuses a selection has none of them.
            index_queries = attention.index_heads * attention.index_head_dim
            index_keys = attention.index_head_dim + attention.index_heads if attention.index_heads else 0
            down = latent + index_keys + (attention.q_lora_rank or q_width + index_queries)
            gemms = [
                gemm("down", hidden, down),
                gemm("kv_up", attention.kv_lora_rank, heads * (attention.qk_nope_head_dim + attention.v_head_dim)),
                gemm("out", round(heads * attention.v_head_dim), hidden),
            ]
            if attention.q_lora_rank:
                gemms.append(gemm("q_up", attention.q_lora_rank, q_width + index_queries))
            return gemms
        case LinearAttention():
            return [gemm("mix", hidden, attention.projection_params / hidden / tp)]


def block_scaled(model: ModelSpec, precision: Precision) -> bool:
    """Whether matrices of `precision` are FP8 with a scale per block."""
    return precision is Precision.FP8 and model.fp8_block_size is not None


def gemm_bytes(gemms: list[Gemm]) -> float:
    """Weight bytes of matrix products."""
    return sum(gemm.inputs * gemm.outputs * BYTES_PER_ELEMENT[gemm.precision] for gemm in gemms)


def ffn_gemms(
    intermediate: int, gated: bool, hidden: int, tp: int, precision: Precision, name: str, *, block: bool = False
) -> list[Gemm]:
    """Up and down projections of a dense FFN block on one of `tp` ranks."""
    width = max(1, round(intermediate / tp))
    return [
        Gemm(f"{name}_up", hidden, (2 if gated else 1) * width, precision, block),
        Gemm(f"{name}_down", width, hidden, precision, block),
    ]


@dataclass(frozen=True, eq=False)
class _Cores:
    """Attention cores of prompt chunks: chunk counts (k,), ascending, and times per layer group (k, groups)."""

    chunks: NDArray[np.int64]
    rows: FloatArray

    def covers(self, wanted: NDArray[np.int64]) -> bool:
        """Whether every wanted chunk count is there."""
        where = np.minimum(np.searchsorted(self.chunks, wanted), self.chunks.size - 1)
        return bool((self.chunks[where] == wanted).all())


@dataclass(frozen=True)
class AttentionSide:
    """The attention side of a model on the `tp` ranks of one data-parallel rank.

    Args:
        model: the model.
        tp: tensor-parallel ranks.
        precision: of weights and GEMMs.
        kv_dtype: of the KV cache.
        kernels: times on the pool's GPU.
        fabric: links of the pool.
        queries: tokens that one sequence brings to a decode step (1, or 1 + draft tokens).
    """

    model: ModelSpec
    tp: int
    precision: Precision
    kv_dtype: Precision
    kernels: Kernels
    fabric: Fabric
    queries: int = 1
    _cores: dict[Lengths, _Cores] = field(default_factory=dict, repr=False, compare=False)
    _totals: dict[int, PiecewiseLinear] = field(default_factory=dict, repr=False, compare=False)

    def group_gemms(self, index: int) -> list[Gemm]:
        """Matrix products of one layer of group `index`: projections, router, shared experts or dense FFN."""
        group, hidden = self.model.layers[index], self.model.hidden
        experts = moe_ffn(self.model) is not None
        gemms: list[Gemm] = []
        if group.attention is not None:
            attention = attention_precision(self.precision, experts=experts)
            gemms += projections(group.attention, hidden, self.tp, attention, block=block_scaled(self.model, attention))
        precision = dense_precision(self.precision, experts=experts)
        block = block_scaled(self.model, precision)
        match group.ffn:
            case DenseFfn():
                gemms += ffn_gemms(
                    group.ffn.intermediate, group.ffn.gated, hidden, self.tp, precision, "ffn", block=block
                )
            case MoeFfn():
                gemms.append(Gemm("router", hidden, group.ffn.experts, Precision.BF16))
                if group.ffn.shared_intermediate:
                    gemms += ffn_gemms(
                        group.ffn.shared_intermediate,
                        group.ffn.gated,
                        hidden,
                        self.tp,
                        precision,
                        "shared",
                        block=block,
                    )
                if group.ffn.expert_hidden is not None:
                    # Latent MoE: experts work in a narrower space, entered and left by two projections.
                    gemms.append(Gemm("latent_in", hidden, group.ffn.expert_hidden, precision, block))
                    gemms.append(Gemm("latent_out", group.ffn.expert_hidden, hidden, precision, block))
        return gemms

    def token_parts(self, index: int) -> dict[str, PiecewiseLinear]:
        """Per-token operators of one layer of group `index`, ms over tokens on the rank, by name."""
        group, hidden = self.model.layers[index], self.model.hidden
        parts = {gemm.name: self.kernels.time_ms(gemm) for gemm in self.group_gemms(index)}
        parts["elementwise"] = self.kernels.time_ms(
            Elementwise("elementwise", ELEMENTWISE_PASSES * hidden * ACTIVATION_BYTES, 4)
        )
        if self.tp > 1:
            # One after attention (its two halves, where experts work between them) and one after what is sharded of
            # the FFN. Routed experts over the same ranks add their partial sums to the shared experts' (`Worker`).
            reduced = (group.attention is not None) + isinstance(group.ffn, DenseFfn)
            reduced += isinstance(group.ffn, MoeFfn) and group.ffn.shared_intermediate > 0
            reduce = self.fabric.all_reduce(self.tp, hidden * ACTIVATION_BYTES)
            parts["all_reduce"] = reduce.scaled(float(reduced))
        return parts

    def token_time(self, index: int) -> PiecewiseLinear:
        """Sum of `token_parts`."""
        if index not in self._totals:
            self._totals[index] = total(self.token_parts(index).values())
        return self._totals[index]

    def decode_core(self, index: int, first_context: float, last_context: float) -> PiecewiseLinear:
        """Attention core of one decode step in one layer of group `index`, ms over sequences on the rank."""
        attention = self.model.layers[index].attention
        if attention is None:
            return constant(0.0)
        return self.kernels.time_ms(
            DecodeAttention(
                "decode_attention", attention, self.tp, self.kv_dtype, first_context, last_context, self.queries
            )
        )

    def prefill_core(self, index: int, new_tokens: float, context: float) -> PiecewiseLinear:
        """Attention core of one prompt chunk in one layer of group `index`, ms over prompts on the rank."""
        attention = self.model.layers[index].attention
        if attention is None:
            return constant(0.0)
        return self.kernels.time_ms(
            PrefillAttention("prefill_attention", attention, self.tp, self.kv_dtype, new_tokens, context)
        )

    def prefill_core_ms(self, lengths: Lengths, chunks: ArrayLike) -> list[FloatArray]:
        """Mean attention core of one prompt chunk in one layer, per layer group, ms.

        Args:
            lengths: of the requests.
            chunks: equal chunks that a prompt is computed in, any shape.

        Returns:
            Per layer group an array of the shape of `chunks`: the mean over the prompt's chunks.
        """
        wanted = np.asarray(chunks)
        known = self._cores.get(lengths)
        if known is None or not known.covers(wanted):
            values = np.unique(wanted if known is None else np.concatenate([known.chunks, wanted.ravel()]))
            rows = np.array([self._mean_core_ms(lengths, int(value)) for value in values])
            known = self._cores[lengths] = _Cores(values, rows)
        where = np.searchsorted(known.chunks, wanted)
        return [np.asarray(known.rows[where, index]) for index in range(len(self.model.layers))]

    def _mean_core_ms(self, lengths: Lengths, chunks: int) -> list[float]:
        size = lengths.input / chunks
        blocks = min(chunks, EXACT_CHUNKS)
        # Chunk k starts at prefix + k * size; a block's mean start stands for its chunks (attention is linear in it).
        starts = [lengths.prefix + ((block + 0.5) * chunks / blocks - 0.5) * size for block in range(blocks)]
        return [
            sum(float(self.prefill_core(index, size, start)(1.0)) for start in starts) / blocks
            for index in range(len(self.model.layers))
        ]

    def activation_bytes(self, tokens: float) -> float:
        """Activations on one GPU for a step of `tokens` tokens on the rank."""
        width = max([0.0] + [group.ffn.intermediate / self.tp for group in self.model.layers if group.ffn is not None])
        return tokens * ACTIVATION_BYTES * (6.0 * self.model.hidden + 3.0 * width)

    def head_gemm(self) -> Gemm:
        """The output projection on one rank; engines keep it in BF16."""
        return Gemm("head", self.model.hidden, max(1, round(self.model.vocab / self.tp)), Precision.BF16)

    def head_parts(self) -> dict[str, PiecewiseLinear]:
        """Head and sampling of one step, ms over positions that are sampled, by name."""
        sampling = Elementwise("sampling", 3.0 * 4.0 * self.model.vocab, 3)
        parts = {"head": self.kernels.time_ms(self.head_gemm()), "sampling": self.kernels.time_ms(sampling)}
        if self.tp > 1:
            # An all-gather of BF16 logits moves half of what an all-reduce of them does.
            parts["head_gather"] = self.fabric.all_reduce(self.tp, 0.5 * ACTIVATION_BYTES * self.model.vocab)
        return parts

    def weight_bytes(self, pp: int = 1) -> float:
        """Weight bytes on one GPU of the first or last of `pp` stages, whichever is larger, embeddings included."""
        layers = sum(group.count * gemm_bytes(self.group_gemms(index)) for index, group in enumerate(self.model.layers))
        table = self.model.hidden * self.model.vocab / self.tp * BYTES_PER_ELEMENT[Precision.BF16]
        tables = table if pp > 1 or self.model.tied_embeddings else 2.0 * table
        layers_per_stage = -(-self.model.layer_count // pp) / self.model.layer_count
        draft = 0.0
        if self.queries > 1:
            dense = self.model.draft_params - draft_expert_params(self.model)
            precision = attention_precision(self.precision, experts=moe_ffn(self.model) is not None)
            draft = dense * BYTES_PER_ELEMENT[precision] / self.tp
        return layers * layers_per_stage + tables + draft

    def kv_bytes(self, tokens: float, pp: int = 1) -> float:
        """Cache bytes of `tokens` tokens of one request on one GPU of one of `pp` stages."""
        layers = sum(
            group.count * kv_bytes(group.attention, self.tp, self.kv_dtype, tokens) for group in self.model.layers
        )
        return layers * (-(-self.model.layer_count // pp) / self.model.layer_count)


@dataclass(frozen=True)
class ExpertSide:
    """The routed experts of a model over `ep x moe_tp` GPUs.

    Args:
        model: the model.
        ep: expert-parallel ranks.
        moe_tp: ranks that share each expert.
        expert_slots: expert slots over all EP ranks, redundant copies included.
        precision: of weights and GEMMs.
        skew: power-law exponent of expert popularity.
        kernels: times on the pool's GPU.
        draft: whether a multi-token-prediction module with experts of its own is loaded.
    """

    model: ModelSpec
    ep: int
    moe_tp: int
    expert_slots: int
    precision: Precision
    skew: float
    kernels: Kernels
    draft: bool = False

    def expert_time(self, index: int) -> PiecewiseLinear:
        """Routed experts of one layer of group `index`, ms over tokens of all ranks together."""
        ffn = self.model.layers[index].ffn
        if not isinstance(ffn, MoeFfn):
            return constant(0.0)
        return self.kernels.time_ms(self._operator(ffn))

    def _operator(self, ffn: MoeFfn) -> GroupedGemm:
        return GroupedGemm(
            "experts",
            ffn.expert_hidden or self.model.hidden,
            max(1, round(ffn.intermediate / self.moe_tp)),
            ffn.gated,
            ffn.experts,
            max(1, self.expert_slots // self.ep),
            self.ep,
            ffn.experts_per_token,
            self.skew,
            self.precision,
            block_scaled(self.model, self.precision),
        )

    def weight_bytes(self, pp: int = 1) -> float:
        """Expert weight bytes on one GPU of one of `pp` stages."""
        layers = 0.0
        for group in self.model.layers:
            if isinstance(group.ffn, MoeFfn):
                operator = self._operator(group.ffn)
                matrices = 3 if operator.gated else 2
                params = matrices * operator.hidden * operator.intermediate * operator.slots_per_rank
                layers += group.count * params * BYTES_PER_ELEMENT[self.precision]
        layers *= -(-self.model.layer_count // pp) / self.model.layer_count
        moe = moe_ffn(self.model)
        if self.draft and moe is not None:
            share = max(1, self.expert_slots // self.ep) / (moe.experts * self.moe_tp)
            layers += draft_expert_params(self.model) * share * BYTES_PER_ELEMENT[self.precision]
        return layers


def draft_group(model: ModelSpec) -> int:
    """Layer group that a layer of the multi-token-prediction module resembles: the last with experts, else the last."""
    sparse = [index for index, group in enumerate(model.layers) if isinstance(group.ffn, MoeFfn)]
    return sparse[-1] if sparse else len(model.layers) - 1


def draft_expert_params(model: ModelSpec) -> float:
    """Routed-expert parameters of the multi-token-prediction module: one layer's, where it is large enough for them."""
    moe = moe_ffn(model)
    if moe is None:
        return 0.0
    matrices = 3 if moe.gated else 2
    params = float(matrices * (moe.expert_hidden or model.hidden) * moe.intermediate * moe.experts)
    return params if params <= model.draft_params else 0.0


def moe_ffn(model: ModelSpec) -> MoeFfn | None:
    """The model's (first) MoE block, or None for dense models."""
    for group in model.layers:
        if isinstance(group.ffn, MoeFfn):
            return group.ffn
    return None
