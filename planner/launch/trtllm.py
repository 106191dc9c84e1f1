"""The command of one TensorRT-LLM engine: `trtllm-serve`, with its settings in a YAML file."""

from __future__ import annotations

import math
from typing import Any

from planner.launch.address import Address
from planner.launch.command import Process, Words
from planner.launch.component import Component
from planner.launch.refusal import refuse
from planner.launch.settings import Settings, checkpoint_note, conversion, is_afd, settings_of, static_memory_share
from specs.engine_table import EngineTable, Flag
from specs.errors import SpecError

BLOCK_TOKENS = 32
"""Chunks end at KV blocks, of so many tokens by default."""


def trtllm_process(component: Component, table: EngineTable, address: Address, config_dir: str) -> Process:
    """The process of one node of one instance.

    Where an instance spans nodes, MPI starts the command once per GPU, and rank 0 serves.

    Raises:
        SpecError: TensorRT-LLM cannot run the component.
    """
    if is_afd(component):
        raise refuse(component, f"AFD: {table.lacks.get('afd', 'this version has no AFD')}", ("vllm",))
    sizes = settings_of(component)
    file = f"{component.name}.yaml"
    words = Words(table.server)
    words.text(component.weights)
    words.add("host", "0.0.0.0")
    words.add("port", address.ports.http)
    words.add("backend", "pytorch")
    words.add("config", file if config_dir == "." else f"{config_dir}/{file}")
    spans = component.nodes > 1
    launched = (*table.programs["launcher"].command, *words.words) if spans else words.words
    notes = [checkpoint_note(component)]
    if conversion(component) is not None:
        notes = [
            f"The plan is for {component.service.precision.value} weights, and TensorRT-LLM reads them from the "
            f"checkpoint: name an FP8 checkpoint of {component.model.id} in the scenario"
        ]
    return Process(
        launched,
        files={file: _yaml(_settings(component, table, sizes), table.documents["server"])},
        tasks_per_node=component.gpus_on_node if spans else 0,
        notes=tuple(note for note in notes if note),
    )


def _settings(component: Component, table: EngineTable, sizes: Settings) -> dict[str, Any]:
    plan = component.plan
    if sizes.overlap:
        raise refuse(component, "two-batch overlap", ("vllm", "sglang"))
    if component.dp > 1 and plan.tp > 1:
        raise refuse(
            component,
            f"data-parallel attention with {plan.tp} tensor-parallel GPUs in each DP rank "
            "(its attention is either all data-parallel or all tensor-parallel)",
            ("vllm", "sglang"),
        )
    prompt_tokens = math.ceil(sizes.rank_prompt_tokens / BLOCK_TOKENS) * BLOCK_TOKENS
    step_tokens = max(prompt_tokens + sizes.rank_decode_tokens, sizes.rank_sequences)
    settings: dict[str, Any] = {
        "tensor_parallel_size": plan.tp * component.dp,
        "pipeline_parallel_size": plan.pp,
        "enable_attention_dp": component.dp > 1,
        "max_batch_size": -(-sizes.rank_sequences // plan.pp),
        "max_num_tokens": step_tokens,
        "max_seq_len": component.max_model_len,
        "kv_cache_config": {
            "free_gpu_memory_fraction": static_memory_share(component),
            "dtype": table.server.value("kv_cache_dtype", component.service.kv_cache_dtype.value),
            "enable_block_reuse": True,
        },
    }
    if sizes.rank_prompt_tokens:
        settings["enable_chunked_prefill"] = True
    if sizes.rank_decode_tokens:
        settings["cuda_graph_config"] = {"enable_padding": True, "max_batch_size": settings["max_batch_size"]}
    if sizes.experts:
        settings["moe_expert_parallel_size"] = plan.ep
        settings["moe_tensor_parallel_size"] = plan.moe_tp
        if sizes.redundant_experts:
            settings["moe_config"] = {"load_balancer": {"num_slots": plan.expert_slots, "layer_updates_per_iter": 1}}
    if sizes.drafts:
        settings["speculative_config"] = {"decoding_type": "MTP", table.server.value("draft", "tokens"): sizes.drafts}
    if sizes.hands_over:
        settings["cache_transceiver_config"] = {"backend": "DEFAULT", "max_tokens_in_buffer": component.max_model_len}
        if not sizes.rank_decode_tokens:
            # The overlap scheduler is for decode steps; context servers run without it.
            settings["disable_overlap_scheduler"] = True
    return settings


def _yaml(settings: dict[str, Any], keys: dict[str, Flag]) -> str:
    import yaml

    _check(settings, keys, "")
    return str(yaml.safe_dump(settings, sort_keys=False))


def _check(settings: dict[str, Any], keys: dict[str, Flag], prefix: str) -> None:
    """Refuse a key or a value that the version's table does not have."""
    for key, value in settings.items():
        path = f"{prefix}{key}"
        if path not in keys:
            raise SpecError(f"this version has no YAML key {path}", field="--engine-version")
        refusal = keys[path].refusal(value)
        if refusal is not None:
            raise SpecError(f"YAML key {path} takes {refusal}, got {value!r}", field="--engine-version")
        if isinstance(value, dict):
            _check(value, keys, f"{path}.")
