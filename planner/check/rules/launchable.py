"""Launch rules of the engines (`specs.launch_rules`), applied to what was read: workers, AFD units and modes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from planner.check.expected import Expected, experts_of
from planner.check.findings import Findings
from planner.check.instance import Instance, Process
from planner.check.layout import Layout
from planner.check.rules.memory import model_of
from specs.engine_table import is_release, nearest_version
from specs.hardware import GpuSpec
from specs.launch_rules import Comparison, LaunchRules, Rule, Subject, launch_rules, versions
from specs.model import ModelSpec, Precision
from specs.plan import Role
from specs.service import Mode, Phase

RULE = "launch-rule"


@dataclass(frozen=True)
class Component:
    """What is known of one component: from the plan where there is one, else as far as the files tell.

    Args:
        instance: its first.
        layout: of its first node.
        gpu: type of its GPUs; None where it is not known.
        node_gpus: GPUs of one node of its pool; None where it is not known.
        expected: the pool of the plan that it was matched with.
    """

    instance: Instance
    layout: Layout
    gpu: GpuSpec | None
    node_gpus: int | None
    expected: Expected | None

    @property
    def role(self) -> Role | None:
        """What it does."""
        return self.instance.role.value if self.instance.role is not None else self.layout.role

    @property
    def model(self) -> ModelSpec | None:
        """Its model, where that is known."""
        return model_of(self.instance, self.expected)

    @property
    def precision(self) -> Precision | None:
        """Of its weights. The files alone name a checkpoint, whose precision is known only where it is converted."""
        if self.expected is not None:
            return self.expected.service.precision
        return Precision.FP8 if self.layout.values.get("quantization") == "fp8" else None

    @property
    def kv_cache_dtype(self) -> Precision | None:
        """Of its KV cache."""
        if self.expected is not None:
            return self.expected.service.kv_cache_dtype
        said = self.layout.values.get("kv_dtype")
        return Precision(said) if said in list(Precision) else None

    @property
    def speculative(self) -> bool:
        """Whether its service drafts tokens."""
        if self.expected is not None:
            return self.expected.service.speculative is not None
        return bool(self.layout.number("drafts"))

    @property
    def redundant(self) -> int:
        """Expert copies beyond one of each."""
        return self.expected.redundant if self.expected is not None else int(self.layout.number("redundant") or 0)

    @property
    def hands_over(self) -> bool:
        """Whether it hands KV caches over, or takes them."""
        return self.layout.values.get("transfer") is not None


def check_launchable(members: Sequence[Component], findings: Findings) -> None:
    """Note every rule that blocks the components of a deployment, its AFD units, or its mode.

    The rules are those of the version in the files, or of the release nearest to it that has any.
    """
    members = [member for member in members if member.role is not None and member.instance.leader is not None]
    if not members:
        return
    deployment = _Deployment(members)
    for member in members:
        if member.role not in (Role.ATTENTION, Role.FFN):
            _check_worker(member, deployment, findings)
    attention = [member for member in members if member.role is Role.ATTENTION]
    ffn = [member for member in members if member.role is Role.FFN]
    # Sides that have no other are noted where units are put together.
    for near, far in zip(attention, ffn, strict=False):
        _check_unit(near, far, deployment, findings)
    told: set[str] = set()
    for member in [*attention, *ffn] or members:  # what prefills for AFD may be of another version
        rules = _rules(member, deployment, findings)
        for rule in rules.rules:
            blocked = rule.subject is Subject.MODE and _applies(rule, deployment, None, members)
            if blocked and rules.sentence(rule) not in told:
                told.add(rules.sentence(rule))
                name = member.instance.service.value if member.instance.service is not None else ""
                place = (member.instance.leader or member.instance).place
                findings.wrong(RULE, place, f"{name or member.instance.component}: {rules.sentence(rule)}")


class _Deployment:
    """What the roles of a deployment's components say of it."""

    def __init__(self, members: Sequence[Component]) -> None:
        planned = next((member.expected for member in members if member.expected is not None), None)
        roles = {member.role for member in members}
        moved = Role.PREFILL in roles or any(member.hands_over for member in members)
        self.file = members[0].instance.place.file
        self.mode: Mode
        if planned is not None:
            self.mode, self.phase = planned.mode, planned.service.phase
            return
        if roles & {Role.ATTENTION, Role.FFN}:
            self.mode = Mode.PREFILL_DECODE_AFD if moved else Mode.AFD
        elif Role.MIXED in roles:
            self.mode = Mode.AGGREGATED
        else:
            # One role alone is a whole service of its phase, or one side of a pair that is elsewhere.
            self.mode = Mode.PREFILL_DECODE if any(member.hands_over for member in members) else Mode.AGGREGATED
        if self.mode is Mode.AFD:
            self.phase = Phase.DECODE
        elif self.mode is Mode.AGGREGATED and Role.MIXED not in roles:
            self.phase = Phase.PREFILL if Role.PREFILL in roles else Phase.DECODE
        else:
            self.phase = Phase.FULL


def _rules(member: Component, deployment: _Deployment, findings: Findings) -> LaunchRules:
    """The rules of a component's engine."""
    table = _leader(member).table
    if table.version in versions(table.engine):
        return launch_rules(table.engine, table.version)
    known = tuple(filter(is_release, versions(table.engine))) or versions(table.engine)
    rules = launch_rules(table.engine, nearest_version(table.version, known))
    reason = f"there are none of this version: those of {rules.title} are applied"
    findings.skip(deployment.file, f"launch rules of {table.title}", reason)
    return rules


def _leader(member: Component) -> Process:
    leader = member.instance.leader
    assert leader is not None
    return leader


def _check_worker(member: Component, deployment: _Deployment, findings: Findings) -> None:
    rules, shards = _rules(member, deployment, findings), member.layout.shards
    facts = {
        "tp": shards.tp,
        "dp": shards.dp,
        "ep": shards.ep,
        "moe_tp": shards.moe_tp,
        "pp": shards.pp,
        "overlap": int(member.layout.values.get("overlap") is True),
        "deepep": int(str(member.layout.values.get("exchange")).startswith("far")),
        "redundant_experts": member.redundant,
        "gpus": member.instance.gpus,
        "rank_gpus": shards.tp * shards.pp,
        "node_gpus": member.node_gpus or max(seat.gpus.value for seat in member.instance.seats),
    }
    for rule in rules.rules:
        if rule.subject is Subject.WORKER and _applies(rule, deployment, member.role, [member]):
            _require(rule, rules, facts, member, findings)


def _check_unit(near: Component, far: Component, deployment: _Deployment, findings: Findings) -> None:
    """The rules about an AFD unit: one attention instance, whose DP ranks are its replicas, and one FFN instance."""
    rules = _rules(near, deployment, findings)
    facts = {
        "tp": near.layout.shards.tp,
        "ep": far.layout.shards.ep,
        "moe_tp": far.layout.shards.moe_tp,
        "attention_replicas": near.layout.shards.dp,
        "attention_gpus": near.instance.gpus,
        "ffn_gpus": far.instance.gpus,
        "gpus": near.instance.gpus + far.instance.gpus,
        "microbatches": 2 if near.layout.values.get("overlap") is True else 1,
        "redundant_experts": far.redundant,
    }
    if near.node_gpus is not None:
        facts["attention_node_gpus"] = near.node_gpus
    if far.node_gpus is not None:
        facts["ffn_node_gpus"] = far.node_gpus
    if near.gpu is not None and far.gpu is not None:
        facts["gpu_types"] = len({near.gpu.id, far.gpu.id})
    for rule in rules.rules:
        if rule.subject is Subject.UNIT and _applies(rule, deployment, None, [near, far]):
            _require(rule, rules, facts, near, findings)


def _require(rule: Rule, rules: LaunchRules, facts: dict[str, int], member: Component, findings: Findings) -> None:
    if not any(_holds(comparison, facts) for comparison in rule.require):
        place = member.layout.place("tp", member.instance.place)
        findings.wrong(RULE, place, f"{member.instance.component}: {rules.sentence(rule)}")


def _applies(rule: Rule, deployment: _Deployment, role: Role | None, members: Sequence[Component]) -> bool:
    """Whether a rule is about components; one that asks for what is not known is not."""
    when = rule.when
    if when.roles is not None and role not in when.roles:
        return False
    gpus = [member.gpu for member in members if member.gpu is not None]
    about_gpus = when.gpus or when.vendors_except or when.architectures
    if about_gpus and not any(when.about_gpu(gpu.id, gpu.vendor, gpu.architecture) for gpu in gpus):
        return False
    model = next((member.model for member in members if member.model is not None), None)
    if model is not None:
        if not when.about_model(model.id) or (experts_of(model) == 0 and _about_experts(rule)):
            return False
    elif when.models is not None or when.models_except is not None or when.block_fp8 is not None:
        return False
    return (
        (when.modes is None or deployment.mode in when.modes)
        and (when.phases is None or deployment.phase in when.phases)
        and (when.precisions is None or any(member.precision in when.precisions for member in members))
        and (when.kv_cache_dtypes is None or any(member.kv_cache_dtype in when.kv_cache_dtypes for member in members))
        and (when.block_fp8 is None or (model is not None and when.block_fp8 == (model.fp8_block_size is not None)))
        and (when.speculative is None or when.speculative == any(member.speculative for member in members))
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
