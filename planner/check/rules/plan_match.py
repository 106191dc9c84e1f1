"""The files against the plan: every number of every pool, by service and role, whatever things are named."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import permutations

from planner.check.expected import Expected, experts_of
from planner.check.findings import Findings
from planner.check.instance import Instance, Process
from planner.check.layout import Layout, Value
from planner.check.model_memory import Shards
from planner.check.names import service_of
from planner.check.place import Place
from planner.check.rules.memory import model_name
from specs.model import Precision
from specs.plan import Role
from specs.service import Engine, Mode

RULE = "plan"
PAGE_TOKENS = 64
"""SGLang computes chunks of whole KV pages."""
TRTLLM_BLOCK = 32
"""TensorRT-LLM cuts chunks where KV blocks end."""
BATCHES_IN_TRANSFER = 3
"""Batches whose caches may be on their way beside the one that an SGLang prefill server computes."""

DECODING = frozenset({Role.MIXED, Role.DECODE, Role.ATTENTION, Role.FFN})
SPLIT = frozenset({Mode.PREFILL_DECODE, Mode.PREFILL_DECODE_AFD})

Components = Mapping[str, Sequence[Instance]]
Layouts = Mapping[str, Layout]
"""Layout of the first node, by component."""


def match(
    components: Components, layouts: Layouts, wanted: Sequence[Expected], file: str, findings: Findings
) -> dict[str, Expected]:
    """Give every component the pool of the plan that it launches; what has no counterpart is a violation.

    Args:
        components: instances by component.
        layouts: what each is told.
        wanted: what the plan asks for.
        file: where something that is missing is noted.
        findings: where violations go.

    Returns:
        Pools of the plan by component.
    """
    services = {each.service.name for each in wanted}
    given: dict[tuple[str, Role], list[str]] = {}
    for name, instances in components.items():
        first = instances[0]
        deployment = first.service.value if first.service is not None else ""
        service = service_of(deployment, services)
        if service is None or first.role is None:
            findings.wrong(RULE, first.place, f"{name} is of no service of the plan: {', '.join(sorted(services))}")
            continue
        given.setdefault((service, first.role.value), []).append(name)
    asked: dict[tuple[str, Role], list[Expected]] = {}
    for each in wanted:
        asked.setdefault((each.service.name, each.role), []).append(each)
    matched: dict[str, Expected] = {}
    for key in {**asked, **given}:
        names, pools = given.get(key, []), asked.get(key, [])
        if len(names) != len(pools):
            place = components[names[0]][0].place if names else Place(file)
            message = (
                f"service {key[0]} has {len(pools)} pools of role {key[1].value} in the plan, and {len(names)} here"
            )
            findings.wrong(RULE, place, message)
        matched |= _assigned(names, pools, components, layouts)
    return matched


def _assigned(
    names: Sequence[str], pools: Sequence[Expected], components: Components, layouts: Layouts
) -> dict[str, Expected]:
    """Components with the pools that they differ least from."""
    if not names or not pools:
        return {}
    distance = {
        (name, p): len(list(_differences(components[name], layouts.get(name), pool)))
        for name in names
        for p, pool in enumerate(pools)
    }
    count = min(len(names), len(pools))
    if max(len(names), len(pools)) > 6:
        orders: list[tuple[int, ...]] = [tuple(range(count))]
    elif len(names) <= len(pools):
        orders = list(permutations(range(len(pools)), count))
    else:
        orders = [tuple(range(count))]
    best = min(orders, key=lambda order: sum(distance[names[i], p] for i, p in enumerate(order)))
    return {names[i]: pools[p] for i, p in enumerate(best)}


def check_match(
    name: str, instances: Sequence[Instance], layout: Layout | None, wanted: Expected, findings: Findings
) -> None:
    """Note every difference between a component and the pool of the plan."""
    for what, place, expected, got in _differences(instances, layout, wanted):
        findings.wrong(RULE, place, f"{name}: the plan has {what} {expected}, got {got}", what)


Difference = tuple[str, Place, object, object]


def _differences(instances: Sequence[Instance], layout: Layout | None, wanted: Expected) -> list[Difference]:
    first = instances[0]
    found: list[Difference] = []
    copies = sum(instance.copies.value for instance in instances)
    if copies != wanted.instances:
        found.append(("instances", first.copies.place, wanted.instances, copies))
    for instance in instances:
        if instance.gpus != wanted.gpus:
            found.append(("GPUs per instance", instance.place, wanted.gpus, instance.gpus))
            break
    if first.pool is not None and first.pool.value != wanted.pool.name:
        found.append(("pool", first.pool.place, wanted.pool.name, first.pool.value))
    if first.gpu is not None and first.gpu.value != wanted.pool.gpu.id:
        found.append(("GPU type", first.gpu.place, wanted.pool.gpu.id, first.gpu.value))
    nodes = math.ceil(wanted.gpus / wanted.pool.gpus_per_node)
    if not first.scattered and first.nodes != nodes:
        found.append(("nodes per instance", first.place, nodes, first.nodes))
    leader = first.leader
    if leader is None or layout is None:
        return found
    if leader.engine is not wanted.service.engine:
        found.append(("engine", leader.place, wanted.service.engine.value, leader.engine.value))
        return found
    if model_name(first) != wanted.service.model:
        found.append(("model", leader.arguments.place_of("model"), wanted.service.model, model_name(first)))
    shards = _shards(wanted)
    for degree in ("tp", "dp", "ep", "moe_tp", "pp"):
        expected, got = getattr(shards, degree), getattr(layout.shards, degree)
        if expected != got:
            found.append((degree, layout.place(degree, leader.place), expected, got))
    for setting, value in _settings(leader, wanted).items():
        if layout.values.get(setting) != value:
            found.append((setting, layout.place(setting, leader.place), value, layout.values.get(setting)))
    return found


def _shards(wanted: Expected) -> Shards:
    """Degrees as flags say them: the FFN side of a unit is told its ranks as data parallelism."""
    if wanted.role is Role.FFN:
        return Shards(1, wanted.plan.ep * wanted.plan.moe_tp, wanted.plan.ep, wanted.plan.moe_tp, wanted.plan.pp)
    if wanted.role is Role.ATTENTION:
        # Both sides load through expert-parallel ranks.
        ranks = wanted.shards.tp * wanted.shards.dp
        return Shards(wanted.shards.tp, wanted.shards.dp, ranks, 1, wanted.shards.pp)
    return wanted.shards


def _settings(process: Process, wanted: Expected) -> dict[str, Value]:
    """Settings that follow from the plan, by the names of `planner.check.layout`."""
    found: dict[str, Value] = {"max_length": wanted.max_length, "kv_dtype": wanted.service.kv_cache_dtype.value}
    decoding = wanted.role in DECODING
    drafts = wanted.drafts if decoding else 0
    sequences = wanted.rank_sequences
    if wanted.role is Role.FFN:
        sequences = wanted.partner_sequences  # both sides of a unit are told the attention side's
    decode_tokens = sequences * (1 + drafts) if decoding else 0
    found["sequences"] = sequences
    moved = wanted.mode in SPLIT and wanted.role is not Role.FFN
    native = wanted.model.native_precision
    converted = native is Precision.BF16 and wanted.service.precision is Precision.FP8
    if process.engine is Engine.VLLM:
        found |= _vllm(wanted, sequences, decode_tokens, drafts, moved)
    elif process.engine is Engine.SGLANG:
        found |= _sglang(wanted, sequences, decode_tokens, drafts, moved)
    else:
        found |= _trtllm(wanted, sequences, decode_tokens, drafts, moved)
    if process.engine is not Engine.TRTLLM:
        found["quantization"] = "fp8" if converted else None
    return found


def _overlap(wanted: Expected) -> bool:
    if wanted.role in (Role.ATTENTION, Role.FFN):
        return wanted.plan.microbatches > 1
    return wanted.plan.microbatches > wanted.plan.pp


def _far(wanted: Expected) -> bool:
    """Whether experts are spread beyond a scale-up domain."""
    plan = wanted.plan
    return plan.ep > 1 and plan.ep * plan.moe_tp > wanted.pool.scale_up_domain


def _vllm(wanted: Expected, sequences: int, decode_tokens: int, drafts: int, moved: bool) -> dict[str, Value]:
    plan = wanted.plan
    afd = wanted.role in (Role.ATTENTION, Role.FFN)
    exchange: Value = None
    if afd:
        exchange = "near"
    elif experts_of(wanted.model) and plan.ep > 1 and plan.dp > 1:
        near = wanted.role is Role.MIXED or (not _far(wanted) and not _overlap(wanted))
        exchange = "near" if near else "far_decode" if wanted.role is Role.DECODE else "far_prefill"
    return {
        "step_tokens": max(wanted.rank_prompt_tokens + decode_tokens, sequences),
        "graph_size": decode_tokens or None,
        "exchange": exchange,
        "overlap": _overlap(wanted),
        "overlap_from": 2 if _overlap(wanted) else None,
        "overlap_prompts_from": 2 if _overlap(wanted) else None,
        "redundant": None if afd else wanted.redundant or None,
        "balance": not afd and wanted.redundant > 0,
        "drafts": drafts or None,
        "draft_method": "mtp" if drafts else None,
        "transfer": "NixlConnector" if moved else None,
        "transfer_role": "kv_both" if moved else None,
    }


def _sglang(wanted: Expected, sequences: int, decode_tokens: int, drafts: int, moved: bool) -> dict[str, Value]:
    plan, prompt = wanted.plan, wanted.rank_prompt_tokens
    chunk = math.ceil(prompt / PAGE_TOKENS) * PAGE_TOKENS if prompt else None
    far = experts_of(wanted.model) > 0 and plan.ep > 1 and plan.dp > 1 and (_far(wanted) or _overlap(wanted))
    far = far and plan.moe_tp == 1
    if wanted.role in (Role.ATTENTION, Role.FFN):
        # Both sides of a unit are as wide, and decode one batch without CUDA graphs and without drafts.
        return {
            "total_sequences": sequences * _shards(wanted).dp,
            "graph_size": None,
            "exchange": None,
            "overlap": False,
            "drafts": None,
            "disaggregation": None,
        }
    modes = {Role.PREFILL: "prefill", Role.DECODE: "decode", Role.MIXED: "mixed"}
    prefills = wanted.role is Role.PREFILL
    return {
        "prompts": sequences if prefills else None,
        "total_sequences": sequences * plan.dp * (1 + BATCHES_IN_TRANSFER if prefills and moved else 1),
        "total_chunk": chunk * plan.dp if chunk else None,
        "step_tokens": chunk,
        "graph_size": None if wanted.role is Role.PREFILL else sequences,
        "exchange": "far" if far else None,
        "exchange_mode": modes[wanted.role] if far else None,
        "dispatch_tokens": decode_tokens if far and wanted.role is not Role.PREFILL else None,
        "overlap": _overlap(wanted),
        "redundant": wanted.redundant or None,
        "balance": wanted.redundant > 0,
        "drafts": drafts or None,
        "draft_width": 1 if drafts else None,
        "draft_tokens": drafts + 1 if drafts else None,
        "draft_method": "EAGLE" if drafts else None,
        "disaggregation": wanted.role.value if moved else None,
        "transfer": "nixl" if moved else None,
    }


def _trtllm(wanted: Expected, sequences: int, decode_tokens: int, drafts: int, moved: bool) -> dict[str, Value]:
    plan = wanted.plan
    stage = math.ceil(sequences / plan.pp)
    prompt = math.ceil(wanted.rank_prompt_tokens / TRTLLM_BLOCK) * TRTLLM_BLOCK
    return {
        "sequences": stage * plan.pp,
        "step_tokens": max(prompt + decode_tokens, sequences),
        "reuse": True,
        "chunked": wanted.rank_prompt_tokens > 0,
        "graph_size": stage if decode_tokens else None,
        "graph_padding": True if decode_tokens else None,
        "slots": plan.expert_slots if wanted.redundant else None,
        "drafts": drafts or None,
        "draft_method": "MTP" if drafts else None,
        "transfer": "DEFAULT" if moved else None,
        "transfer_tokens": wanted.max_length if moved else None,
        "no_overlap": moved and not decode_tokens,
    }
