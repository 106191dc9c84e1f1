"""Launch rules of the engines (`specs.launch_rules`), applied to the layouts that were read."""

from __future__ import annotations

from planner.check.expected import Expected, experts_of
from planner.check.findings import Findings
from planner.check.instance import Instance
from planner.check.layout import Layout
from specs.errors import SpecError
from specs.hardware import GpuSpec
from specs.launch_rules import Comparison, Rule, Subject, launch_rules
from specs.plan import Role

RULE = "launch-rule"


def check_launchable(
    instance: Instance, layout: Layout, gpu: GpuSpec | None, expected: Expected | None, findings: Findings
) -> None:
    """Note every rule of the engine's version that blocks a worker.

    Rules about whole units and modes are the planner's: a single component does not show them.
    """
    leader = instance.leader
    if leader is None or instance.role is None or instance.role.value in (Role.ATTENTION, Role.FFN):
        return
    try:
        rules = launch_rules(leader.engine, leader.table.version)
    except SpecError:
        findings.skip(instance.place.file, f"launch rules of {leader.table.title}", "there are none of this version")
        return
    facts = _facts(instance, layout, expected)
    for rule in rules.rules:
        if rule.subject is not Subject.WORKER or not _applies(rule, instance, gpu, expected):
            continue
        if not any(_holds(comparison, facts) for comparison in rule.require):
            place = layout.place("tp", instance.place)
            findings.wrong(RULE, place, f"{instance.component}: {rules.sentence(rule)}")


def _facts(instance: Instance, layout: Layout, expected: Expected | None) -> dict[str, int]:
    shards = layout.shards
    node = expected.pool.gpus_per_node if expected is not None else max(seat.gpus.value for seat in instance.seats)
    return {
        "tp": shards.tp,
        "dp": shards.dp,
        "ep": shards.ep,
        "moe_tp": shards.moe_tp,
        "pp": shards.pp,
        "overlap": int(layout.values.get("overlap") is True),
        "redundant_experts": int(layout.number("redundant") or 0) if expected is None else expected.redundant,
        "gpus": instance.gpus,
        "rank_gpus": shards.tp * shards.pp,
        "node_gpus": node,
    }


def _applies(rule: Rule, instance: Instance, gpu: GpuSpec | None, expected: Expected | None) -> bool:
    """Whether a rule is about this component; one that asks for what is not known is not."""
    when = rule.when
    assert instance.role is not None
    if when.roles is not None and instance.role.value not in when.roles:
        return False
    about_gpus = when.gpus or when.vendors_except or when.architectures
    if about_gpus and (gpu is None or not when.about_gpu(gpu.id, gpu.vendor, gpu.architecture)):
        return False
    if expected is None:
        asks = (when.modes, when.phases, when.models, when.models_except, when.precisions, when.kv_cache_dtypes,
                when.block_fp8, when.speculative)  # fmt: skip
        return all(ask is None for ask in asks)
    service = expected.service
    return (
        (when.modes is None or expected.mode in when.modes)
        and (when.phases is None or service.phase in when.phases)
        and when.about_model(expected.model.id)
        and (when.precisions is None or service.precision in when.precisions)
        and (when.kv_cache_dtypes is None or service.kv_cache_dtype in when.kv_cache_dtypes)
        and (when.block_fp8 is None or when.block_fp8 == (expected.model.fp8_block_size is not None))
        and (when.speculative is None or when.speculative == (service.speculative is not None))
        and (experts_of(expected.model) > 0 or not _about_experts(rule))
    )


def _about_experts(rule: Rule) -> bool:
    """Whether a rule compares degrees of experts, which a dense model has none of."""
    facts = {name for fact, _, right in rule.require for name in (fact, right) if isinstance(name, str)}
    return bool(facts & {"ep", "moe_tp"})


def _holds(comparison: Comparison, facts: dict[str, int]) -> bool:
    name, operation, right = comparison
    if name not in facts or (isinstance(right, str) and right not in facts):
        return True  # a fact that the files do not show
    left = facts[name]
    other = facts[right] if isinstance(right, str) else right
    match operation, other:
        case "in", tuple():
            return left in other
        case "==", int():
            return left == other
        case "<=", int():
            return left <= other
        case ">=", int():
            return left >= other
        case "multiple_of", int():
            return other > 0 and left % other == 0
    return False
