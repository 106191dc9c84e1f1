"""What an engine is told beside its parallel degrees: sizes that follow from the plan, in no engine's words."""

from __future__ import annotations

import math
from dataclasses import dataclass

from planner.launch.component import Component
from specs.errors import SpecError
from specs.model import MoeFfn, Precision
from specs.plan import UNIT_ROLES, PoolPlan, Role
from specs.service import Mode

WORKER_ROLES = frozenset({Role.MIXED, Role.PREFILL, Role.DECODE})
DECODING_ROLES = frozenset({Role.MIXED, Role.DECODE, Role.ATTENTION, Role.FFN})
DISAGGREGATED_MODES = frozenset({Mode.PREFILL_DECODE, Mode.PREFILL_DECODE_AFD})
MEMORY_DIGITS = 3
"""Memory fractions are rounded down to so many digits."""


@dataclass(frozen=True)
class Settings:
    """Sizes of one engine instance.

    Args:
        rank_sequences: most requests in flight on one DP rank, over all its micro-batches and pipeline stages.
        rank_decode_tokens: tokens of a decode step on one DP rank, drafts included.
        rank_prompt_tokens: prompt tokens of one step on the fullest DP rank; 0 where the role computes none.
        drafts: tokens drafted per step.
        experts: routed experts of a layer; 0 for a dense model.
        redundant_experts: copies beyond one of each.
        overlap: whether communication overlaps computation in two batches (not AFD's micro-batches).
        deepep: whether DeepEP exchanges the tokens of experts: they lie beyond one scale-up domain, or overlap needs
            its kernels, which leave most of the GPU to computation.
        hands_over: whether the instance passes KV cache on, or receives it.
    """

    rank_sequences: int
    rank_decode_tokens: int
    rank_prompt_tokens: int
    drafts: int
    experts: int
    redundant_experts: int
    overlap: bool
    deepep: bool
    hands_over: bool

    @property
    def rank_step_tokens(self) -> int:
        """Most tokens of one step on one DP rank, where prompts and decoding share steps."""
        return self.rank_prompt_tokens + self.rank_decode_tokens


def settings_of(component: Component) -> Settings:
    """The sizes of one instance of a component.

    Raises:
        SpecError: its speculative decoding needs a draft model that the scenario does not name.
    """
    plan, role = component.plan, component.role
    moe = next((group.ffn for group in component.model.layers if isinstance(group.ffn, MoeFfn)), None)
    experts = moe.experts if moe is not None else 0
    drafts = _drafts(component)
    sequences = math.ceil(component.sequences / component.dp)
    decoding = role in DECODING_ROLES
    overlap = role in WORKER_ROLES and plan.microbatches > plan.pp
    crosses = plan.ep * plan.moe_tp > component.pool.scale_up_domain
    return Settings(
        rank_sequences=sequences,
        rank_decode_tokens=sequences * (1 + drafts) if decoding else 0,
        rank_prompt_tokens=math.ceil(plan.chunk_tokens / _prompt_ranks(plan)),
        drafts=drafts if decoding else 0,
        experts=experts,
        redundant_experts=max(plan.expert_slots - experts, 0) if experts else 0,
        overlap=overlap,
        deepep=plan.ep > 1 and plan.moe_tp == 1 and component.dp > 1 and (crosses or overlap),
        hands_over=component.mode in DISAGGREGATED_MODES and role is not Role.FFN,
    )


def _prompt_ranks(plan: PoolPlan) -> int:
    """DP ranks that share the prompt tokens of a step: a prefill worker puts each of its prompts on one rank."""
    return min(plan.batch, plan.dp) if plan.role is Role.PREFILL else plan.dp


def _drafts(component: Component) -> int:
    speculative = component.service.speculative
    if speculative is None or component.role is Role.PREFILL:
        return 0
    if not component.model.draft_params:
        raise SpecError(
            f"{component.name}: {component.model.id} has no multi-token-prediction module, and the scenario names no "
            "draft model; accepted: models with such a module, or no speculative decoding",
            field="speculative",
        )
    return speculative.draft_tokens


def is_afd(component: Component) -> bool:
    """Whether the component is one side of an AFD unit."""
    return component.role in UNIT_ROLES


def memory_share(component: Component) -> float:
    """Share of device memory that the plan lets the engine take, the reserve for CUDA context and graphs included."""
    from planner.costs.engines import ENGINES

    return ENGINES[component.service.engine].memory_fraction


def static_memory_share(component: Component) -> float:
    """Share of device memory for weights and cache alone: what the plan takes, less its reserve, rounded down.

    The plan counts activations inside that share as well, so that the cache gets no less than planned.
    """
    from planner.costs.engines import ENGINES

    traits = ENGINES[component.service.engine]
    share = traits.memory_fraction - traits.reserve_bytes / component.pool.gpu.memory_bytes
    steps: int = 10**MEMORY_DIGITS
    return math.floor(share * steps) / steps


def conversion(component: Component) -> str | None:
    """How the engine has to convert the weights: `fp8` from a BF16 checkpoint; None where it loads them as they are."""
    native, asked = component.model.native_precision, component.service.precision
    if native is Precision.BF16 and asked is Precision.FP8:
        return asked.value
    return None


def checkpoint_note(component: Component) -> str | None:
    """What has to be said about the checkpoint where the model's own is of another precision."""
    native, asked = component.model.native_precision, component.service.precision
    if asked is native or conversion(component) is not None:
        return None
    formats = {Precision.FP4: "an NVFP4", Precision.INT4: "an AWQ or GPTQ", Precision.INT8: "an INT8 (W8A8)"}
    kind = formats.get(asked, f"a {asked.value.upper()}")
    return (
        f"The plan is for {asked.value} weights, and {component.model.id} is published in {native.value}: "
        f"name {kind} checkpoint in the scenario"
    )
