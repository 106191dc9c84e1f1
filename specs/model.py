"""The architecture of a language model: all that its cost depends on, and nothing else."""

from enum import StrEnum
from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from specs.base import Spec


class Precision(StrEnum):
    """Number formats of weights, GEMMs and KV cache."""

    BF16 = "bf16"
    FP8 = "fp8"
    FP4 = "fp4"
    INT8 = "int8"
    INT4 = "int4"
    """Weights only (AWQ, GPTQ, Kimi-K2.5): products run in BF16."""


NARROW_FLOATS = (Precision.FP8, Precision.FP4)


def default_cache(precision: object) -> Precision:
    """Format of the KV cache beside weights of `precision` (or what stands for one in a file) unless one is given."""
    return Precision.FP8 if precision in NARROW_FLOATS else Precision.BF16


BYTES_PER_ELEMENT: dict[Precision, float] = {
    Precision.BF16: 2.0,
    Precision.FP8: 1.0,
    Precision.INT8: 1.0,
    Precision.FP4: 0.5625,  # 4 bits plus one FP8 scale for every 16 elements (NVFP4)
    Precision.INT4: 0.5625,  # 4 bits plus one 16-bit scale for every 32 elements
}


class SoftmaxAttention(Spec):
    """Multi-head or grouped-query attention (MHA when `kv_heads == heads`), full or over a sliding window."""

    kind: Literal["gqa"] = "gqa"
    heads: PositiveInt
    kv_heads: PositiveInt
    head_dim: PositiveInt
    window_tokens: PositiveInt | None = None
    """Tokens that the sliding window sees; None for full attention."""
    output_gate: bool = False
    """Whether a gate as wide as the attention output is projected from the input (Qwen3.5)."""


class LatentAttention(Spec):
    """Multi-head latent attention (MLA), with DeepSeek sparse attention (DSA) where an indexer is given."""

    kind: Literal["mla"] = "mla"
    heads: PositiveInt
    q_lora_rank: PositiveInt | None = None
    kv_lora_rank: PositiveInt
    qk_nope_head_dim: PositiveInt
    qk_rope_head_dim: PositiveInt
    v_head_dim: PositiveInt
    index_heads: NonNegativeInt = 0
    index_head_dim: NonNegativeInt = 0
    index_topk: NonNegativeInt = 0
    """Tokens that the indexer selects for the attention core; 0 for dense attention."""


class LinearAttention(Spec):
    """A recurrent token mixer with a state of fixed size: Mamba-2 or gated delta net."""

    kind: Literal["linear"] = "linear"
    projection_params: PositiveInt
    """Weights of all projections and convolutions of one layer."""
    state_elements: PositiveInt
    """Elements of the recurrent and convolution state of one request in one layer (FP32 in the engines)."""
    flops_per_token: PositiveInt
    """Floating-point operations of the recurrence for one token in one layer, projections excluded."""


class FactoredAttention(Spec):
    """Multi-matrix factorisation attention (MFA, Step-3): low-rank queries of many heads over one shared KV head."""

    kind: Literal["mfa"] = "mfa"
    heads: PositiveInt
    kv_heads: PositiveInt
    head_dim: PositiveInt
    q_lora_rank: PositiveInt


Attention = SoftmaxAttention | LatentAttention | LinearAttention | FactoredAttention


class DenseFfn(Spec):
    """A dense feed-forward block."""

    kind: Literal["dense"] = "dense"
    intermediate: PositiveInt
    gated: bool = True
    """Three matrices (gate, up, down) when gated, two otherwise."""


class MoeFfn(Spec):
    """A mixture of experts, with shared experts beside it where `shared_intermediate` is positive."""

    kind: Literal["moe"] = "moe"
    experts: PositiveInt
    experts_per_token: PositiveInt
    intermediate: PositiveInt
    gated: bool = True
    shared_intermediate: NonNegativeInt = 0
    """Total width of the shared experts."""
    groups: PositiveInt = 1
    """Routing groups (`n_group`); 1 for ungrouped routing."""
    groups_per_token: PositiveInt = 1
    """Groups that one token may route to (`topk_group`)."""
    expert_hidden: PositiveInt | None = None
    """Width that the experts read and write where it is not the model's (latent MoE, Nemotron-3); None: `hidden`."""


Ffn = DenseFfn | MoeFfn


class LayerGroup(Spec):
    """Layers that are alike: `count` of them, each with an attention part, an FFN part, or both."""

    count: PositiveInt
    attention: Attention | None = Field(default=None, discriminator="kind")
    ffn: Ffn | None = Field(default=None, discriminator="kind")


class ModelSpec(Spec):
    """A language model.

    Layer groups stand in the order of their first layer; interleaved layers of one kind form one group, and
    `period` says how many consecutive layers repeat (1 where groups follow one another).
    """

    id: str
    """Hugging Face id."""
    aliases: tuple[str, ...] = ()
    hidden: PositiveInt
    vocab: PositiveInt
    tied_embeddings: bool = False
    layers: tuple[LayerGroup, ...] = Field(min_length=1)
    period: PositiveInt = 1
    max_context_tokens: PositiveInt
    native_precision: Precision = Precision.BF16
    fp8_block_size: PositiveInt | None = None
    """Width of the square blocks that share a scale in the model's FP8 checkpoint; None where no blocks do (a scale for
    every matrix or row)."""
    draft_params: NonNegativeInt = 0
    """Parameters of the multi-token-prediction module, outside the published total."""
    published_total_params_billion: PositiveFloat | None = None
    published_active_params_billion: PositiveFloat | None = None
    published_active_counts: Literal["all", "no_embedding", "no_input_embedding"] = "all"
    """What the published activated count includes: everything, or not the embeddings."""
    source: str

    @property
    def layer_count(self) -> int:
        """Number of layers."""
        return sum(group.count for group in self.layers)
