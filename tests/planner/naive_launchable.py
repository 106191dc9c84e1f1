"""What engines launch, written again from their documentation, one rule a line: no data file of rules is read.

vLLM 0.33 for colocated modes and 0.30 with the AFD plugin for AFD, SGLang 0.5.23, TensorRT-LLM 1.3.
"""

from __future__ import annotations

from planner.costs.layout import AfdLayout, Layout
from specs.scenario import ResolvedPool
from specs.service import Engine, Mode, Service

AFD = (Mode.AFD, Mode.PREFILL_DECODE_AFD)
PLUGIN = ("deepseek-ai/deepseek-v2", "deepseek-ai/deepseek-v3", "deepseek-ai/deepseek-r1", "moonshotai/kimi-k2-")
OVERLAPS = ("deepseek-ai/deepseek-", "moonshotai/kimi-k2", "zai-org/glm-5")


def sparse_qwen(model: str, *generations: str) -> bool:
    """Ids such as Qwen/Qwen3-30B-A3B."""
    return any(model.startswith(f"qwen/qwen{each}-") and "-a" in model.split("/")[1] for each in generations)


def mode_launches(service: Service, mode: Mode) -> bool:
    if not service.launchable or mode not in AFD:
        return True
    model = service.model.lower()
    supported = model.startswith(PLUGIN) or sparse_qwen(model, "3", "3.5", "3.6")
    speculates = service.speculative is not None and sparse_qwen(model, "3")
    decodes = mode is Mode.PREFILL_DECODE_AFD or service.phase.value == "decode"
    return service.engine is Engine.VLLM and supported and decodes and not speculates


def worker_launches(service: Service, pool: ResolvedPool, layout: Layout, experts: int, *, handed: str | None) -> bool:
    """Whether a worker launches; `handed` is its side of a hand-over, prefill or decode, or None."""
    if not service.launchable:
        return True
    moe = experts > 0
    redundant = moe and layout.expert_slots > experts
    speculates = service.speculative is not None
    sharded = layout.moe_tp > 1
    spread = layout.ep > 1 and layout.dp > 1 and not sharded
    if service.engine is not Engine.TRTLLM and spread and (layout.overlap or layout.ep > pool.scale_up_domain):
        if service.engine is Engine.VLLM and handed is None:
            return False
        if not deepep_launches(pool, layout.ep, low_latency=handed == "decode"):
            return False
    if service.engine is Engine.VLLM:
        old = pool.gpu.architecture.value == "ampere" and service.kv_cache_dtype.value == "fp8"
        bare = service.model.lower().startswith(("openai/gpt-oss", "stepfun-ai/step3", "minimaxai/minimax-m2"))
        rank, node = layout.tp * layout.pp, pool.gpus_per_node
        return not (
            old
            or (layout.gpus > node and node % rank != 0 and rank % node != 0)
            or (moe and layout.ep > 1 and sharded)
            or (redundant and (bare or layout.ep == 1))
            or (layout.overlap and sharded)
            or (handed is not None and layout.pp > 1)
        )
    if service.engine is Engine.SGLANG:
        model = service.model.lower()
        overlaps = model.startswith(OVERLAPS) or sparse_qwen(model, "3")
        return not (
            (layout.overlap and (sharded or not overlaps))
            or (redundant and layout.ep == 1)
            or (handed == "decode" and layout.pp > 1)
            or (handed != "prefill" and speculates and layout.pp > 1)
        )
    architecture, narrow = pool.gpu.architecture.value, service.precision.value
    supported = {"fp8": ("ada", "hopper", "blackwell"), "fp4": ("blackwell",)}.get(narrow, (architecture,))
    cached = service.kv_cache_dtype.value != "fp8" or architecture != "ampere"
    blocks = narrow == "fp8" and (architecture == "ada" or pool.gpu.id.startswith("rtx-pro")) and block_scales(service)
    nvidia = pool.gpu.vendor == "nvidia"
    return (
        nvidia
        and architecture in supported
        and cached
        and not blocks
        and not layout.overlap
        and not (layout.dp > 1 and layout.tp > 1)
        and not (speculates and layout.pp > 1)
    )


def deepep_launches(pool: ResolvedPool, ranks: int, *, low_latency: bool) -> bool:
    """Whether DeepEP has kernels for so many ranks: 8 are peers in NVLink, and normal kernels are tuned for sizes."""
    if low_latency:
        return ranks < 8 or ranks % 8 == 0
    tuned = ranks in {2, 4, 8, 16, 24, 32, 64, 128, 144, 160}
    return tuned and (ranks <= pool.gpus_per_node or pool.gpus_per_node == 8)


def block_scales(service: Service) -> bool:
    """Families whose FP8 checkpoints have a scale for every block."""
    return service.model.lower().startswith(("deepseek-ai/", "qwen/", "zai-org/", "moonshotai/kimi-k2-", "minimaxai/"))


def unit_launches(service: Service, near: ResolvedPool, far: ResolvedPool, unit: AfdLayout, experts: int) -> bool:
    """Whether the AFD plugin launches a unit on NVIDIA GPUs."""
    if not service.launchable:
        return True
    attention, ffn, node = unit.tp * unit.attention_replicas, unit.ep * unit.moe_tp, near.gpus_per_node
    good = attention >= ffn and unit.microbatches <= 2 and unit.moe_tp == 1 and unit.expert_slots == experts
    good &= unit.attention_replicas == 1 or unit.tp == 1
    good &= unit.attention_replicas >= 2 or unit.microbatches == 1
    if sparse_qwen(service.model.lower(), "3.5", "3.6"):
        good &= unit.microbatches == 1 and attention + ffn <= node
    good &= attention <= node or attention % node == 0
    good &= ffn <= far.gpus_per_node or ffn % far.gpus_per_node == 0
    if not unit.scale_up and near.scale_up_domain > node:
        good &= attention >= node or node % attention == 0
    return good and near.gpu.vendor == far.gpu.vendor == "nvidia"


def attention_items(service: Service, near: ResolvedPool, unit: AfdLayout) -> tuple[int, int]:
    """Blocks of the attention side of a unit outside one domain: how many, and of how many GPUs."""
    attention = unit.tp * unit.attention_replicas
    if not service.launchable:
        return unit.attention_replicas, unit.tp
    return (1, attention) if attention <= near.gpus_per_node else (attention // near.gpus_per_node, near.gpus_per_node)
