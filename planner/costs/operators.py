"""The operators of a step: what is computed, not how long it takes.

Each operator is a function of one variable, named in its docstring; a kernel library (`planner.costs.kernels`)
turns it into a time. Operators are frozen and hashable, so that times can be cached and looked up in tables.
"""

from dataclasses import dataclass

from specs.model import Attention, Precision


@dataclass(frozen=True)
class Gemm:
    """A dense matrix product; variable: rows (tokens).

    Args:
        inputs: width in.
        outputs: width out.
        precision: of weights and product.
        block: whether FP8 weights have a scale per block rather than one per matrix.
    """

    name: str
    inputs: int
    outputs: int
    precision: Precision
    block: bool = False


@dataclass(frozen=True)
class GroupedGemm:
    """The expert matrices of one MoE layer on its most loaded rank; variable: tokens entering the layer.

    Args:
        hidden: width in and out.
        intermediate: width of one expert on this rank (after sharding by `moe_tp`).
        gated: three matrices (gate, up, down) rather than two.
        experts: experts of the layer.
        slots_per_rank: expert slots that one rank holds (redundant ones included).
        ranks: expert-parallel ranks.
        experts_per_token: experts that one token activates.
        skew: exponent of the power law of expert popularity; 0 for uniform routing.
        precision: of weights and products.
        block: whether FP8 weights have a scale per block rather than one per matrix.
    """

    name: str
    hidden: int
    intermediate: int
    gated: bool
    experts: int
    slots_per_rank: int
    ranks: int
    experts_per_token: int
    skew: float
    precision: Precision
    block: bool = False


@dataclass(frozen=True)
class DecodeAttention:
    """The attention core of one decode step; variable: sequences on one rank.

    Args:
        attention: the architecture's attention.
        tp: ranks that share the heads.
        kv_dtype: format of the KV cache.
        first_context: context of the first decode step, tokens.
        last_context: context of the last decode step, tokens. The time is the mean over steps between the two.
        queries: tokens of one sequence that one step attends with (1, or 1 + draft tokens).
    """

    name: str
    attention: Attention
    tp: int
    kv_dtype: Precision
    first_context: float
    last_context: float
    queries: int = 1


@dataclass(frozen=True)
class PrefillAttention:
    """The attention core over one chunk of one prompt; variable: prompts that bring such a chunk to the rank.

    Args:
        attention: the architecture's attention.
        tp: ranks that share the heads.
        kv_dtype: format of the KV cache.
        new_tokens: tokens of the chunk.
        context: tokens before the chunk that it attends to.
    """

    name: str
    attention: Attention
    tp: int
    kv_dtype: Precision
    new_tokens: float
    context: float


@dataclass(frozen=True)
class Elementwise:
    """Memory-bound element-wise kernels (norms, rotary embedding, quantisation, residuals); variable: tokens."""

    name: str
    bytes_per_token: float
    kernels: int


Operator = Gemm | GroupedGemm | DecodeAttention | PrefillAttention | Elementwise
