"""The command of one SGLang engine: `python3 -m sglang.launch_server`."""

from __future__ import annotations

import math

from planner.launch.address import Address
from planner.launch.command import Process, Words
from planner.launch.component import Component
from planner.launch.refusal import refuse
from planner.launch.settings import Settings, checkpoint_note, conversion, is_afd, settings_of, static_memory_share
from specs.engine_table import EngineTable
from specs.plan import Role

PAGE_TOKENS = 64
"""Chunks are whole KV pages, and no attention backend has larger ones by default."""
MICROBATCHES = 2


def sglang_process(component: Component, table: EngineTable, address: Address) -> Process:
    """The process of one node of one instance.

    Raises:
        SpecError: SGLang cannot run the component.
    """
    if is_afd(component):
        reason = table.lacks.get("afd", "this version has no AFD")
        raise refuse(component, f"AFD: {reason}", ("vllm",))
    sizes, plan = settings_of(component), component.plan
    words = Words(table.server)
    words.add("model", component.service.model)
    words.add("host", "0.0.0.0")
    words.add("port", address.ports.http)
    env: dict[str, str] = {}
    _parallel(words, component, address)
    _experts(words, env, component, table, sizes)
    words.add("max_model_len", component.max_model_len)
    words.add("max_sequences", sizes.rank_sequences * component.dp)
    if sizes.rank_prompt_tokens:
        chunk = math.ceil(sizes.rank_prompt_tokens / PAGE_TOKENS) * PAGE_TOKENS
        # The server divides the chunk among its DP ranks, but not the budget of one prefill batch.
        words.add("max_prompt_tokens", chunk * component.dp)
        words.add("max_step_tokens", chunk)
    words.add("memory_fraction", static_memory_share(component))
    if component.role is not Role.PREFILL:
        words.add("graph_sequences", sizes.rank_sequences)
    words.choose("kv_cache_dtype", component.service.kv_cache_dtype.value)
    converted = conversion(component)
    if converted is not None:
        words.choose("quantization", converted)
    if sizes.drafts:
        # A chain: each step drafts one token after the last.
        words.add("draft_algorithm", "EAGLE")
        words.add("draft_steps", sizes.drafts)
        words.add("draft_width", 1)
        words.add("draft_tokens", sizes.drafts + 1)
    if sizes.overlap:
        if plan.microbatches > MICROBATCHES * plan.pp:
            raise refuse(component, f"{plan.microbatches} micro-batches (two, per pipeline stage, is the most)", ())
        words.add("overlap")
    if sizes.hands_over:
        words.add("disaggregation", component.role.value)
        words.choose("kv_transfer", "nixl")
        if component.role is Role.PREFILL:
            words.add("bootstrap_port", address.ports.bootstrap)
    note = checkpoint_note(component)
    return Process(words.words, env, notes=(note,) if note else ())


def _parallel(words: Words, component: Component, address: Address) -> None:
    plan = component.plan
    words.add("tensor_parallel", plan.tp * component.dp)
    if plan.pp > 1:
        words.add("pipeline_parallel", plan.pp)
    if component.dp > 1:
        words.add("attention_data_parallel", component.dp)
        if words.program.has("attention_data_parallel_switch"):
            words.add("attention_data_parallel_switch")
    if component.nodes > 1:
        words.add("nodes", component.nodes)
        words.add_shell("node_rank", address.node_rank)
        words.add_shell("rendezvous", f"{address.leader}:{address.ports.rendezvous}")


def _experts(words: Words, env: dict[str, str], component: Component, table: EngineTable, sizes: Settings) -> None:
    plan = component.plan
    if not sizes.experts or plan.ep == 1:
        if sizes.overlap and component.dp == 1:
            raise refuse(component, "two-batch overlap without data-parallel attention", ())
        return
    words.add("expert_parallel", plan.ep)
    if (sizes.crosses_domain or sizes.overlap) and component.dp > 1:
        if plan.moe_tp > 1:
            if sizes.overlap:
                raise refuse(component, "two-batch overlap with tensor-parallel experts", ())
        else:
            words.choose("expert_exchange", "far")
            words.choose("expert_exchange_mode", component.role.value)
            if component.role is not Role.PREFILL:
                env[table.variable("dispatch_tokens")] = str(sizes.rank_decode_tokens)
    elif sizes.overlap:
        raise refuse(component, "two-batch overlap without data-parallel attention", ())
    if sizes.redundant_experts:
        words.add("expert_balance")
        words.add("redundant_experts", sizes.redundant_experts)
