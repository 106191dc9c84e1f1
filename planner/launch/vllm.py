"""The command of one vLLM engine: `vllm serve`, with the AFD plugin where the component is one side of a unit."""

from __future__ import annotations

from planner.launch.address import Address
from planner.launch.command import Process, Words
from planner.launch.component import Component
from planner.launch.refusal import refuse
from planner.launch.settings import Settings, checkpoint_note, conversion, is_afd, memory_share, settings_of
from planner.launch.shell import Bare, expand
from specs.engine_table import EngineTable
from specs.plan import Role

MICROBATCHES = 2
"""Dual-batch overlap has two micro-batches, with and without AFD."""


def vllm_process(component: Component, table: EngineTable, address: Address, partner: Component | None) -> Process:
    """The process of one node of one instance.

    Args:
        component: what is launched.
        table: flags of the version.
        address: where this node and the others are.
        partner: the other side of an AFD unit.

    Raises:
        SpecError: vLLM cannot run the component.
    """
    sizes = settings_of(component)
    words = Words(table.server)
    words.text(component.weights)
    words.add("host", "0.0.0.0")
    words.add("port", address.ports.http)
    env: dict[str, str] = {}
    if is_afd(component):
        _afd(words, env, component, table, address, partner)
    else:
        _parallel(words, component, component.plan.tp, component.dp, address)
        _experts(words, component, sizes)
        _overlap(words, component, sizes)
    attention = partner if component.role is Role.FFN and partner is not None else component
    _sizes(words, component, settings_of(attention))
    _formats(words, component)
    if sizes.drafts:
        words.add_json("speculative_config", {"method": "mtp", "num_speculative_tokens": sizes.drafts})
    if sizes.hands_over:
        words.add_json("kv_transfer_config", {"kv_connector": "NixlConnector", "kv_role": "kv_both"})
        env[table.variable("kv_transfer_host")] = expand(address.own_host)
        env[table.variable("kv_transfer_port")] = str(address.ports.side_channel)
    note = checkpoint_note(component)
    return Process(words.words, env, notes=(note,) if note else ())


def _parallel(words: Words, component: Component, tp: int, dp: int, address: Address) -> None:
    """Degrees, and how the nodes of the instance find one another.

    DP ranks that fit a node are dealt out over the nodes, all but the first without an API server. Where a DP rank
    spans nodes the nodes form one world.
    """
    pp = component.plan.pp
    words.add("tensor_parallel", tp)
    if pp > 1:
        words.add("pipeline_parallel", pp)
    if dp > 1:
        words.add("data_parallel", dp)
    if component.nodes == 1:
        if dp > 1:
            words.add("data_parallel_port", address.ports.rpc)
        return
    rank_gpus, on_node = tp * pp, component.gpus_on_node
    if dp > 1 and on_node % rank_gpus == 0:
        local = on_node // rank_gpus
        words.add("data_parallel_local", local)
        words.add_shell("data_parallel_address", address.leader)
        words.add("data_parallel_port", address.ports.rpc)
        _follow(words, address, (words.program.flag("data_parallel_start"), address.times(local)))
        return
    if rank_gpus % on_node:
        raise refuse(component, f"DP ranks of {rank_gpus} GPUs do not divide evenly over nodes of {on_node} GPUs", ())
    words.add("nodes", component.nodes)
    words.add_shell("node_rank", address.node_rank)
    words.add_shell("master_host", address.leader)
    words.add("master_port", address.ports.rendezvous)
    if dp > 1:
        words.add_shell("data_parallel_address", address.leader)
        words.add("data_parallel_port", address.ports.rpc)
    _follow(words, address, ())


def _follow(words: Words, address: Address, extra: tuple[str, ...]) -> None:
    """What all nodes but the first are told: no API server, and `extra`."""
    headless = words.program.flag("headless")
    if address.follows:
        words.text(headless, *(expand(word) for word in extra))
    elif address.follows is None:
        words.text(Bare(f"$( (( {address.node_rank} > 0 )) && echo {' '.join((headless, *extra))})"))


def _experts(words: Words, component: Component, sizes: Settings) -> None:
    plan = component.plan
    if not sizes.experts:
        if component.dp > 1:
            raise refuse(component, "data-parallel attention of a dense model", ("sglang",))
        return
    if plan.ep == 1:
        return
    if plan.moe_tp > 1:
        raise refuse(
            component,
            f"experts in {plan.ep} groups of {plan.moe_tp} tensor-parallel shards (its experts "
            "are either all expert-parallel or all tensor-parallel)",
            ("sglang", "trtllm"),
        )
    words.add("expert_parallel")
    if component.dp > 1:
        words.choose("expert_exchange", _exchange(component, sizes))
    if sizes.redundant_experts:
        words.add("expert_balance")
        words.add_json("expert_balance_config", {"num_redundant_experts": sizes.redundant_experts})


def _exchange(component: Component, sizes: Settings) -> str:
    """The exchange of experts' tokens, which is one for all steps of an engine.

    DeepEP's high throughput turns CUDA graphs off, and its low latency sets aside buffers that a prompt's tokens
    outgrow, so that workers with both kinds of steps keep to all-gather.
    """
    if not sizes.deepep:
        return "near"
    if component.role is not Role.MIXED:
        return "far_decode" if component.role is Role.DECODE else "far_prefill"
    if sizes.overlap:
        raise refuse(component, "two-batch overlap of prompts and decoding in one worker", ("sglang",))
    return "near"


def _overlap(words: Words, component: Component, sizes: Settings) -> None:
    if not sizes.overlap:
        return
    plan = component.plan
    if plan.microbatches > MICROBATCHES * plan.pp:
        raise refuse(component, f"{plan.microbatches} micro-batches (two, per pipeline stage, is the most)", ())
    if plan.ep == 1 or component.dp == 1:
        raise refuse(component, "two-batch overlap without expert parallelism over DP ranks", ("sglang",))
    _split_every_step(words)


def _split_every_step(words: Words) -> None:
    """Two micro-batches from the smallest step on, as the plan prices every step."""
    words.add("overlap")
    words.add("overlap_decode_tokens", MICROBATCHES)
    words.add("overlap_prefill_tokens", MICROBATCHES)


def _sizes(words: Words, component: Component, sizes: Settings) -> None:
    words.add("max_model_len", component.max_model_len)
    words.add("max_sequences", sizes.rank_sequences)
    words.add("max_step_tokens", max(sizes.rank_step_tokens, sizes.rank_sequences))
    words.add("memory_fraction", memory_share(component))
    if sizes.rank_decode_tokens:
        words.add("graph_tokens", sizes.rank_decode_tokens)


def _formats(words: Words, component: Component) -> None:
    words.choose("kv_cache_dtype", component.service.kv_cache_dtype.value)
    converted = conversion(component)
    if converted is not None:
        words.choose("quantization", converted)


def _afd(
    words: Words,
    env: dict[str, str],
    component: Component,
    table: EngineTable,
    address: Address,
    partner: Component | None,
) -> None:
    """One side of an AFD unit: two servers that are told the ranks of both sides.

    Attention ranks are dealt out to FFN ranks as evenly as they go: at least as many as those, and any number.
    """
    if not table.afd:
        reason = table.lacks.get("afd", "this version has no AFD")
        raise refuse(component, f"AFD: {reason}", ())
    if partner is None:
        raise ValueError(f"{component.name}: an AFD side needs the other as its partner")
    sides = {component.role: component, partner.role: partner}
    attention, ffn = sides[Role.ATTENTION], sides[Role.FFN]
    if ffn.plan.moe_tp > 1:
        raise refuse(component, "AFD with tensor-parallel experts", ())
    if attention.plan.pp > 1 or ffn.plan.pp > 1:
        raise refuse(component, "AFD with pipeline stages", ())
    ranks, ffn_ranks = attention.instance_gpus, ffn.instance_gpus
    if ranks < ffn_ranks:
        raise refuse(
            component, f"AFD of {ranks} attention ranks to {ffn_ranks} FFN ranks (at least as many as those)", ()
        )
    if attention.plan.tp > 1 and attention.dp > 1:
        # vLLM would then shard the tokens of experts over TP, which the plugin refuses.
        raise refuse(
            component, f"AFD of {attention.dp} attention replicas with TP {attention.plan.tp} (one or TP 1)", ()
        )
    if attention.plan.microbatches > MICROBATCHES:
        raise refuse(component, f"AFD with {attention.plan.microbatches} micro-batches (1 or 2)", ())
    if attention.plan.microbatches == MICROBATCHES and attention.dp == 1:
        raise refuse(component, "AFD with two micro-batches of one attention replica (two replicas at least)", ())
    if settings_of(ffn).redundant_experts:
        raise refuse(component, "AFD with redundant experts", ())
    if component.role is Role.ATTENTION:
        _parallel(words, component, component.plan.tp, component.dp, address)
    else:
        _parallel(words, component, 1, component.plan.ep, address)
    words.add("expert_parallel")
    words.choose("expert_exchange", "near")
    tokens = settings_of(attention).rank_decode_tokens
    words.add_json("compilation_config", {"cudagraph_mode": "FULL_DECODE_ONLY", "cudagraph_capture_sizes": [tokens]})
    if attention.plan.microbatches == MICROBATCHES:
        _split_every_step(words)
    ffn_host = address.leader if component.role is Role.FFN else address.peers.get("ffn", address.leader)
    ports = address.ports if component.role is Role.FFN else address.peer_ports.get("ffn", address.ports)
    words.add_json(
        "additional_config",
        {
            "afd": {
                "role": component.role.value,
                "connector": str(table.afd["connector"]),
                "host": ffn_host,
                "port": ports.afd,
                "num_attention_ranks": ranks,
                "num_ffn_ranks": ffn_ranks,
            }
        },
        shell=True,
    )
    env[table.variable("model_runner")] = str(table.afd["model_runner"])
