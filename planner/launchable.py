"""What the engine of a service can launch: the rules of `specs.launch_rules` on modes, workers and AFD units.

Rules remove layouts before anything is computed for them: pruning by rules is exact, and a certificate then speaks
about launchable layouts. The same rules, on the layouts of a finished plan, say what blocks it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from specs import catalog
from specs.launch_rules import LaunchRules, Rule, Subject, launch_rules
from specs.model import ModelSpec, MoeFfn
from specs.plan import Deployment, Plan, PoolPlan, Role
from specs.scenario import ResolvedPool, resolve_pool
from specs.service import Mode, Phase, Service

if TYPE_CHECKING:
    from planner.costs.layout import Layout
    from planner.options.server import AfdServer

REPLICAS_APART = "the attention replicas of an AFD unit are launched as one instance and must lie together"
BLOCKS_IN_NODES = "attention GPUs of an AFD unit neither divide a node nor fill nodes"

BoolArray = NDArray[np.bool_]
Facts = Mapping[str, int | NDArray[np.int64]]


def attention_block(service: Service, pool: ResolvedPool, gpus: int, tp: int) -> int:
    """GPUs that lie together of the attention side of an AFD unit that is not in one domain with its experts.

    Its replicas may lie apart, each of `tp` GPUs; but as launched they are one instance, in one node or on whole nodes.
    """
    if not service.launchable:
        return tp
    return gpus if gpus <= pool.gpus_per_node else pool.gpus_per_node


@dataclass(frozen=True, eq=False)
class Launchable:
    """The rules that bind one service.

    Args:
        service: the service.
        model: its model.
        by_mode: rules of the engine version that launches each mode.
    """

    service: Service
    model: ModelSpec
    by_mode: dict[Mode, LaunchRules]
    _selected: dict[tuple[Mode, Subject, Role | None, tuple[str, ...]], tuple[Rule, ...]] = field(
        default_factory=dict, repr=False
    )

    @staticmethod
    def of(service: Service, model: ModelSpec) -> Launchable:
        """The rules of a service's engine."""
        return Launchable(service, model, {mode: launch_rules(service.engine, mode=mode) for mode in Mode})

    @property
    def titles(self) -> tuple[str, ...]:
        """Engine versions whose rules apply to the service's modes."""
        return tuple(dict.fromkeys(self.by_mode[mode].title for mode in self.service.modes))

    def mode(self, mode: Mode, pools: Sequence[ResolvedPool]) -> str | None:
        """Why the mode cannot be launched, whatever the layout; None where some layout may."""
        rules = self.by_mode[mode]
        blocked = self._rules(mode, Subject.MODE, None, ())
        if blocked:
            return rules.sentence(blocked[0])
        units = mode in (Mode.AFD, Mode.PREFILL_DECODE_AFD)
        found = []
        for pool in pools:
            rule = self._hopeless(mode, Subject.UNIT if units else Subject.WORKER, pool)
            if rule is None:
                return None
            found.append(rules.sentence(rule))
        return next(iter(found), None)

    def _hopeless(self, mode: Mode, subject: Subject, pool: ResolvedPool) -> Rule | None:
        """A rule that no layout on a pool meets."""
        role = None if subject is Subject.UNIT else decoding_role(mode, self.service.phase)
        return next((rule for rule in self._rules(mode, subject, role, (pool,)) if not rule.require), None)

    def worker(self, mode: Mode, role: Role, pool: ResolvedPool, layout: Layout) -> str | None:
        """Why a worker cannot be launched in a role; None where it can."""
        return self.worker_facts(mode, role, pool, _worker_facts(self.model, pool, layout, overlap=layout.overlap))

    def worker_facts(self, mode: Mode, role: Role, pool: ResolvedPool, facts: Facts) -> str | None:
        """The same of a worker given by its facts."""
        for rule in self._rules(mode, Subject.WORKER, role, (pool,)):
            if not _holds(rule, facts):
                return self.by_mode[mode].sentence(rule)
        return None

    def units(self, server: AfdServer, rejected: Counter[str]) -> AfdServer | None:
        """The units of a family that can be launched; None where there are none. Rules do not differ by AFD mode.

        Args:
            server: the family.
            rejected: counts of refused units, by rule.
        """
        unit, mode = server.unit, self._unit_mode
        near, far = unit.attention_site.pool, unit.ffn_site.pool
        facts = _unit_facts(self.model, near, far, unit.tp, server.copies, unit.ep, unit.moe_tp, unit.expert_slots)
        facts["microbatches"] = server.microbatches
        left: BoolArray = np.ones(server.copies.size, dtype=np.bool_)
        for rule in self._rules(mode, Subject.UNIT, None, (near, far)):
            good = left & np.broadcast_to(_holds(rule, facts), left.shape)
            refused = int(left.sum() - good.sum())
            if refused:
                rejected[self.by_mode[mode].sentence(rule)] += refused
            left = good
        if not unit.scale_up and near.scale_up_domain > near.gpus_per_node:
            # Packing sees domains: in one of several nodes, blocks must tile nodes to lie inside them.
            gpus, node = server.attention_gpus, near.gpus_per_node
            good = left & ((gpus >= node) | (node % np.minimum(gpus, node) == 0))
            refused = int(left.sum() - good.sum())
            if refused:
                rejected[BLOCKS_IN_NODES] += refused
            left = good
        if left.all():
            return server
        return server.take(np.flatnonzero(left)) if left.any() else None

    @property
    def _unit_mode(self) -> Mode:
        """An AFD mode that the service allows."""
        modes = [mode for mode in (Mode.AFD, Mode.PREFILL_DECODE_AFD) if mode in self.service.modes]
        return modes[0] if modes else Mode.AFD

    def deployment_blocked_by(
        self, mode: Mode, pools: Mapping[str, ResolvedPool], deployed: Sequence[PoolPlan]
    ) -> list[str]:
        """Rules that block the pools of a deployment, or its mode."""
        rules = self.by_mode[mode]
        found = [rules.sentence(rule) for rule in self._rules(mode, Subject.MODE, None, ())]
        units: dict[str, dict[Role, PoolPlan]] = {}
        for pool in deployed:
            if pool.unit is not None:
                units.setdefault(pool.unit, {})[pool.role] = pool
                continue
            where = pools[pool.gpu_pool]
            facts = _worker_facts(self.model, where, pool, overlap=pool.microbatches > pool.pp)
            found += [
                rules.sentence(rule)
                for rule in self._rules(mode, Subject.WORKER, pool.role, (where,))
                if not _holds(rule, facts)
            ]
        for unit in units.values():
            attention, ffn = unit[Role.ATTENTION], unit[Role.FFN]
            near, far = pools[attention.gpu_pool], pools[ffn.gpu_pool]
            copies = np.array([attention.replicas // (attention.units or 1)])
            unit_facts = _unit_facts(self.model, near, far, attention.tp, copies, ffn.ep, ffn.moe_tp, ffn.expert_slots)
            unit_facts["microbatches"] = np.array([ffn.microbatches])
            found += [
                rules.sentence(rule)
                for rule in self._rules(mode, Subject.UNIT, None, (near, far))
                if not np.all(_holds(rule, unit_facts))
            ]
        return list(dict.fromkeys(found))

    def _rules(
        self, mode: Mode, subject: Subject, role: Role | None, pools: tuple[ResolvedPool, ...]
    ) -> tuple[Rule, ...]:
        """Rules that apply to a subject in a role on some GPU types."""
        key = (mode, subject, role, tuple(pool.gpu.id for pool in pools))
        if key not in self._selected:
            self._selected[key] = tuple(
                rule
                for rule in self.by_mode[mode].rules
                if rule.subject is subject and self._applies(rule, mode, role, pools)
            )
        return self._selected[key]

    def _applies(self, rule: Rule, mode: Mode, role: Role | None, pools: tuple[ResolvedPool, ...]) -> bool:
        when, service = rule.when, self.service
        return (
            (when.modes is None or mode in when.modes)
            and (when.phases is None or service.phase in when.phases)
            and (when.roles is None or role in when.roles)
            and when.about_model(self.model.id)
            and (when.precisions is None or service.precision in when.precisions)
            and (when.kv_cache_dtypes is None or service.kv_cache_dtype in when.kv_cache_dtypes)
            and (when.block_fp8 is None or when.block_fp8 == (self.model.fp8_block_size is not None))
            and (when.speculative is None or when.speculative == (service.speculative is not None))
            and (not pools or any(when.about_gpu(p.gpu.id, p.gpu.vendor, p.gpu.architecture) for p in pools))
        )


def decoding_role(mode: Mode, phase: Phase) -> Role:
    """Role of the workers that decode in a mode; those that prefill where nothing else is computed."""
    if phase is Phase.PREFILL:
        return Role.PREFILL
    return Role.MIXED if mode is Mode.AGGREGATED and phase is Phase.FULL else Role.DECODE


def blocked_by(services: Sequence[Service], plan: Plan) -> tuple[str, ...]:
    """Rules that block a plan, as sentences; empty where every layout of it can be launched.

    Args:
        services: those of the scenario, in the order of the plan's.
        plan: a plan with its scenario.

    Raises:
        ValueError: the plan does not carry its scenario.
    """
    if plan.scenario is None:
        raise ValueError("the rules need the plan's scenario")
    pools = {pool.name: resolve_pool(pool) for pool in plan.scenario.cluster.pools}
    found: list[str] = []
    for service, served in zip(services, plan.services, strict=False):
        rules = Launchable.of(service, catalog.model(service.model))
        for deployment in served.deployments:
            found += rules.deployment_blocked_by(deployment.mode, pools, deployment.pools)
    return tuple(dict.fromkeys(found))


def has_units(deployment: Deployment) -> bool:
    """Whether a deployment has AFD units, whose attention replicas may have been placed apart."""
    return any(pool.unit is not None for pool in deployment.pools)


def _holds(rule: Rule, facts: Facts) -> bool | BoolArray:
    """Whether one of the rule's comparisons holds."""
    result: bool | BoolArray = False
    for fact, operation, right in rule.require:
        value = facts[right] if isinstance(right, str) else right
        result = result | _compares(facts[fact], operation, value)
    return result


def _compares(
    left: int | NDArray[np.int64], operation: str, right: int | NDArray[np.int64] | tuple[int, ...]
) -> bool | BoolArray:
    """One comparison, of numbers or elementwise."""
    if isinstance(right, tuple):
        return np.isin(left, right)
    match operation:
        case "==":
            return left == right
        case "<=":
            return left <= right
        case ">=":
            return left >= right
    return left % right == 0


def _redundant(model: ModelSpec, expert_slots: int) -> int:
    """Expert slots beyond the experts."""
    moe = next((group.ffn for group in model.layers if isinstance(group.ffn, MoeFfn)), None)
    return expert_slots - moe.experts if moe is not None and expert_slots else 0


def _worker_facts(model: ModelSpec, pool: ResolvedPool, layout: Layout | PoolPlan, *, overlap: bool) -> dict[str, int]:
    ranks = layout.ep * layout.moe_tp
    whole = layout.ep > 1 and layout.moe_tp == 1
    return {
        "tp": layout.tp,
        "dp": layout.dp,
        "ep": layout.ep,
        "moe_tp": layout.moe_tp,
        "pp": layout.pp,
        "overlap": int(overlap),
        "deepep": int(whole and layout.dp > 1 and (overlap or ranks > pool.scale_up_domain)),
        "redundant_experts": _redundant(model, layout.expert_slots),
        "gpus": layout.tp * layout.dp * layout.pp,
        "rank_gpus": layout.tp * layout.pp,
        "node_gpus": pool.gpus_per_node,
    }


def _unit_facts(
    model: ModelSpec,
    near: ResolvedPool,
    far: ResolvedPool,
    tp: int,
    copies: NDArray[np.int64],
    ep: int,
    moe_tp: int,
    expert_slots: int,
) -> dict[str, int | NDArray[np.int64]]:
    """Facts of units that differ in their attention replicas; micro-batches are the caller's."""
    return {
        "tp": tp,
        "ep": ep,
        "moe_tp": moe_tp,
        "attention_replicas": copies,
        "attention_gpus": copies * tp,
        "ffn_gpus": ep * moe_tp,
        "gpus": copies * tp + ep * moe_tp,
        "redundant_experts": _redundant(model, expert_slots),
        "attention_node_gpus": near.gpus_per_node,
        "ffn_node_gpus": far.gpus_per_node,
        "gpu_types": len({near.gpu.id, far.gpu.id}),
    }
