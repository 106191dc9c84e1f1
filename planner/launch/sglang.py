"""The command of one SGLang engine: `python3 -m sglang.launch_server`."""

from __future__ import annotations

import math
from fnmatch import fnmatchcase

from planner.launch.address import Address
from planner.launch.command import Process, Words
from planner.launch.component import Component
from planner.launch.refusal import refuse
from planner.launch.settings import Settings, checkpoint_note, conversion, is_afd, settings_of, static_memory_share
from specs.engine_table import EngineTable
from specs.plan import Role
from specs.service import Mode

PAGE_TOKENS = 64
"""Chunks are whole KV pages, and no attention backend has larger ones by default."""
BATCHES_IN_TRANSFER = 3
"""A prefill server counts a request until its cache has arrived: room for the batch that is computed and so many behind
it, so that prefill goes on while transfers take up to three times as long as a step."""
MICROBATCHES = 2


def sglang_process(
    component: Component, table: EngineTable, address: Address, partner: Component | None = None
) -> Process:
    """The process of one node of one instance.

    Args:
        component: what is launched.
        table: flags of the version.
        address: where this node and the others are.
        partner: the other side of an AFD unit.

    Raises:
        SpecError: SGLang cannot run the component.
    """
    if is_afd(component):
        return _afd_process(component, table, address, partner)
    sizes = settings_of(component)
    words, env = _start(component, table, address), dict[str, str]()
    _parallel(words, component, component.plan.tp, component.dp, address)
    _experts(words, env, component, table, sizes)
    _sizes(words, component, sizes, component.dp)
    if component.role is not Role.PREFILL:
        words.add("graph_sequences", sizes.rank_sequences)
    _formats(words, component)
    if sizes.drafts:
        # A chain: each step drafts one token after the last.
        words.add("draft_algorithm", "EAGLE")
        words.add("draft_steps", sizes.drafts)
        words.add("draft_width", 1)
        words.add("draft_tokens", sizes.drafts + 1)
    if sizes.overlap:
        if component.plan.microbatches > MICROBATCHES * component.plan.pp:
            message = f"{component.plan.microbatches} micro-batches (two, per pipeline stage, is the most)"
            raise refuse(component, message, ())
        words.add("overlap")
    if sizes.hands_over:
        words.add("disaggregation", component.role.value)
        words.choose("kv_transfer", "nixl")
        if component.role is Role.PREFILL:
            words.add("bootstrap_port", address.ports.bootstrap)
    note = checkpoint_note(component)
    return Process(words.words, env, notes=(note,) if note else ())


def _start(component: Component, table: EngineTable, address: Address) -> Words:
    words = Words(table.server)
    words.add("model", component.weights)
    words.add("host", "0.0.0.0")
    words.add("port", address.ports.http)
    return words


def _sizes(words: Words, component: Component, sizes: Settings, dp: int) -> None:
    words.add("max_model_len", component.max_model_len)
    batches = 1
    if component.role is Role.PREFILL:
        words.add("max_prompts", sizes.rank_sequences)
        batches += BATCHES_IN_TRANSFER if sizes.hands_over else 0
    words.add("max_sequences", batches * sizes.rank_sequences * dp)
    if sizes.rank_prompt_tokens:
        chunk = math.ceil(sizes.rank_prompt_tokens / PAGE_TOKENS) * PAGE_TOKENS
        # The server divides the chunk among its DP ranks, but not the budget of one prefill batch.
        words.add("max_prompt_tokens", chunk * dp)
        words.add("max_step_tokens", chunk)
    words.add("memory_fraction", static_memory_share(component))


def _formats(words: Words, component: Component) -> None:
    words.choose("kv_cache_dtype", component.service.kv_cache_dtype.value)
    converted = conversion(component)
    if converted is not None:
        words.choose("quantization", converted)


def _parallel(words: Words, component: Component, tp: int, dp: int, address: Address) -> None:
    pp = component.plan.pp
    words.add("tensor_parallel", tp * dp)
    if pp > 1:
        words.add("pipeline_parallel", pp)
    if dp > 1:
        words.add("attention_data_parallel", dp)
        if words.program.has("attention_data_parallel_switch"):
            words.add("attention_data_parallel_switch")
    if component.nodes > 1:
        words.add("nodes", component.nodes)
        words.add_shell("node_rank", address.node_rank)
    if component.nodes > 1 or dp > 1:
        # DP ranks derive more ports from this one, and without it from the API server's, which instances on one node
        # have next to one another.
        words.add_shell("rendezvous", f"{address.leader}:{address.ports.rendezvous}")


def _experts(words: Words, env: dict[str, str], component: Component, table: EngineTable, sizes: Settings) -> None:
    plan = component.plan
    if not sizes.experts or plan.ep == 1:
        if sizes.overlap and component.dp == 1:
            raise refuse(component, "two-batch overlap without data-parallel attention", ())
        return
    words.add("expert_parallel", plan.ep)
    if sizes.overlap and component.dp == 1:
        raise refuse(component, "two-batch overlap without data-parallel attention", ())
    if sizes.overlap and plan.moe_tp > 1:
        raise refuse(component, "two-batch overlap with tensor-parallel experts", ())
    if sizes.deepep:
        words.choose("expert_exchange", "far")
        words.choose("expert_exchange_mode", component.role.value)
        if component.role is not Role.PREFILL:
            env[table.variable("dispatch_tokens")] = str(sizes.rank_decode_tokens)
    if sizes.redundant_experts:
        words.add("expert_balance")
        words.add("redundant_experts", sizes.redundant_experts)


def _afd_process(component: Component, table: EngineTable, address: Address, partner: Component | None) -> Process:
    """One side of an AFD unit: as many GPUs on either side, each attention GPU a DP rank with an FFN GPU of its own."""
    if not table.afd:
        reason = table.lacks.get("afd", "this version has no AFD")
        raise refuse(component, f"AFD: {reason}", ("vllm",))
    if partner is None:
        raise ValueError(f"{component.name}: an AFD side needs the other as its partner")
    sides = {component.role: component, partner.role: partner}
    attention, ffn = sides[Role.ATTENTION], sides[Role.FFN]
    _check_afd(component, attention, ffn, table)
    ranks = ffn.instance_gpus
    words, env = _start(component, table, address), dict[str, str]()
    _parallel(words, component, 1, ranks, address)
    if component.role is Role.FFN:
        words.add("expert_parallel", component.plan.ep)
    _sizes(words, component, settings_of(attention), ranks)
    _formats(words, component)
    words.add("no_graphs")
    words.add("no_overlap_schedule")
    words.choose("afd_role", component.role.value)
    words.choose("afd_transfer", "stepmesh")
    ffn_host = address.leader if component.role is Role.FFN else address.peers.get("ffn", address.leader)
    ports = address.ports if component.role is Role.FFN else address.peer_ports.get("ffn", address.ports)
    words.add_shell("afd_meeting", f"{ffn_host}:{ports.afd}")
    env[table.variable("afd_scheduler_port")] = str(ports.afd + 1)
    notes = (
        f"AFD of {table.title}: {table.afd['note']}",
        checkpoint_note(component),
    )
    return Process(words.words, env, notes=tuple(note for note in notes if note))


def _check_afd(component: Component, attention: Component, ffn: Component, table: EngineTable) -> None:
    """Refuse what the pull request does not launch."""
    unfit = {
        f"of {component.model.id} (Qwen3 MoE alone)": not fnmatchcase(
            component.model.id.lower(), str(table.afd["models"])
        ),
        "behind P/D": component.mode is Mode.PREFILL_DECODE_AFD,
        f"with {attention.plan.microbatches} micro-batches (one)": attention.plan.microbatches > 1,
        f"with TP {attention.plan.tp} in an attention replica (1)": attention.plan.tp > 1,
        f"of {attention.instance_gpus} attention GPUs to {ffn.instance_gpus} FFN GPUs (as many)": (
            attention.instance_gpus != ffn.instance_gpus
        ),
        "over several nodes of one side (one)": max(attention.nodes, ffn.nodes) > 1,
        "with redundant experts": settings_of(ffn).redundant_experts > 0,
    }
    for what, holds in unfit.items():
        if holds:
            raise refuse(component, f"AFD {what} in version {table.version}", ("vllm",))
