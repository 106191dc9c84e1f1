"""Why a plan is what it is: what binds, read from the plan and its solution without solving again."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from formulations.table import Role as TableRole
from planner.options.decode import DECODE_STEP_TOKENS
from planner.reevaluate import server_of
from planner.solve import Solved
from planner.space import ServiceSpace, Space
from specs.plan import Binding, Deployment, Explanation, Plan, PoolPlan, Relaxation, Role, WhatIf
from specs.service import Mode

NEAR = 0.01
"""An SLO, a capacity or a fabric binds when less than this share of it is left."""

FULL = 1e-3
"""A capacity that is used up to the gap of a plan is used up."""


def explained(space: Space, solved: Solved, plan: Plan) -> Plan:
    """A plan with what binds, per deployment and over all, and with notes on its input.

    Args:
        space: the declared space.
        solved: its solution.
        plan: what `planner.assemble.build` made of it.
    """
    bindings: list[Binding] = []
    services = []
    for part, service in zip(space.services, plan.services, strict=False):
        deployments = []
        for deployment in service.deployments:
            found = _bindings(space, part, solved, plan, deployment)
            deployments.append(deployment.model_copy(update={"binding": tuple(binding.what for binding in found)}))
            name = f"{service.name}: " if len(plan.services) > 1 else ""
            bindings += [Binding(what=name + binding.what, detail=binding.detail) for binding in found]
        services.append(service.model_copy(update={"deployments": tuple(deployments)}))
    explanation = plan.explanation.model_copy(
        update={
            "binding": tuple(dict.fromkeys(bindings)),
            "notes": (*plan.explanation.notes, *context_notes(space)),
        }
    )
    return plan.model_copy(update={"services": tuple(services), "explanation": explanation})


def with_explanation(
    plan: Plan,
    *,
    what_if: Sequence[WhatIf] = (),
    relaxations: Sequence[Relaxation] = (),
    notes: Sequence[str] = (),
) -> Plan:
    """A plan with more in its explanation."""
    old: Explanation = plan.explanation
    return plan.model_copy(
        update={
            "explanation": old.model_copy(
                update={
                    "what_if": (*old.what_if, *what_if),
                    "relaxations": (*old.relaxations, *relaxations),
                    "notes": (*old.notes, *notes),
                }
            )
        }
    )


def context_notes(space: Space) -> list[str]:
    """Services whose requests grow beyond what their model was trained for."""
    notes = []
    for part in space.services:
        longest, limit = part.sites[0].lengths.full_context, part.sites[0].model.max_context_tokens
        if longest > limit:
            notes.append(
                f"{part.service.name}: requests grow to {longest:,.0f} tokens, beyond the {limit:,} that "
                f"{part.service.model} is made for; times and memory are planned as if it were"
            )
    return notes


def _bindings(space: Space, part: ServiceSpace, solved: Solved, plan: Plan, deployment: Deployment) -> list[Binding]:
    found = [*_latencies(part, deployment), *_memory(part, deployment), *_gpus(plan, deployment)]
    return [*found, *_sides(part, solved, deployment), *_demand(space, part, plan), *_fabric(space, part, solved)]


def _latencies(part: ServiceSpace, deployment: Deployment) -> list[Binding]:
    found = []
    statistic = part.targets.statistic.value
    for what, value, limit in (
        ("TPOT", deployment.tpot_ms, part.targets.tpot_ms),
        ("TTFT", deployment.ttft_ms, part.targets.ttft_ms),
    ):
        if value is not None and math.isfinite(limit) and value >= limit * (1.0 - NEAR):
            found.append(Binding(what=what, detail=f"{statistic} {value:.4g} ms of {limit:.4g} ms"))
    return found


def _memory(part: ServiceSpace, deployment: Deployment) -> list[Binding]:
    """Replicas whose batch is the largest that memory holds beside weights and activations."""
    found = []
    for pools in servers_of(deployment.pools):
        lead = pools[0]
        if lead.role is Role.PREFILL:
            continue
        server = server_of(pools, part.sites)
        lanes = 1 if lead.role is Role.ATTENTION else lead.dp
        tokens = lead.chunk_tokens / lanes if lead.chunk_tokens else DECODE_STEP_TOKENS
        held = int(server.slots_cap(np.array([float(tokens)]))[0])
        if lead.batch >= held - max(0, int(server.parts[0]) - 1):
            where = f"{lead.role.value} on {lead.gpu_pool}"
            found.append(
                Binding(what="KV memory", detail=f"{where}: {lead.batch} of the {held} requests that memory holds")
            )
    return found


def servers_of(pools: Sequence[PoolPlan]) -> list[list[PoolPlan]]:
    """Pools of a deployment by server: each worker alone, attention before the FFN of its unit."""
    units: dict[str, list[PoolPlan]] = {}
    result = []
    for pool in pools:
        if pool.unit is None:
            result.append([pool])
        elif pool.unit in units:
            units[pool.unit].append(pool)
        else:
            units[pool.unit] = [pool]
            result.append(units[pool.unit])
    return [sorted(each, key=lambda pool: pool.role is Role.FFN) for each in result]


def _gpus(plan: Plan, deployment: Deployment) -> list[Binding]:
    """GPUs bind where no kind of server of the deployment fits the idle ones once more."""
    asked = []
    for pools in servers_of(deployment.pools):
        needs: Counter[str] = Counter()
        for pool in pools:
            needs[pool.gpu_pool] += pool.gpus // (pool.units or pool.replicas)
        asked.append(needs)
    if any(all(plan.gpus_idle.get(name, 0) >= gpus for name, gpus in needs.items()) for needs in asked):
        return []
    names = sorted({pool.gpu_pool for pool in deployment.pools})
    idle = ", ".join(f"{plan.gpus_idle.get(name, 0)} idle in {name}" for name in names)
    smallest = min(sum(needs.values()) for needs in asked)
    return [Binding(what="GPUs", detail=f"{idle}; the smallest server here takes {smallest}")]


def _sides(part: ServiceSpace, solved: Solved, deployment: Deployment) -> list[Binding]:
    """The side of a hand-over whose capacity is used up."""
    modes = list(Mode)
    options, solution = solved.tables.options, solved.solution
    found = {}
    for path, rate in solution.rate_rps.items():
        if path[0] != part.index or modes[path[1]] is not deployment.mode or rate <= 0.0:
            continue
        capacity: dict[int, float] = {}
        for row, servers in solution.replicas.items():
            if (int(options.service[row]), int(options.mode[row]), int(options.level[row])) == path:
                role = int(options.role[row])
                capacity[role] = capacity.get(role, 0.0) + servers * float(options.rate_rps[row])
        both = (TableRole.PREFILL, TableRole.DECODE)
        for side, other, what in ((*both, "prefill capacity"), (*both[::-1], "decode capacity")):
            if int(side) in capacity and rate >= capacity[int(side)] * (1.0 - FULL):
                spare = capacity[int(other)] / rate - 1.0
                detail = f"{rate:.4g} requests/s; the other side could do {spare:.1%} more"
                found[what] = Binding(what=what, detail=detail)
    return list(found.values())


def _demand(space: Space, part: ServiceSpace, plan: Plan) -> list[Binding]:
    demand = part.service.demand_rps
    served = next(service.request_rate_rps for service in plan.services if service.name == part.service.name)
    if demand is None or served < demand * (1.0 - FULL) or served > demand * (1.0 + FULL):
        return []
    kind = "no more requests come" if space.scenario.objective.maximizing else "all of them must be served"
    return [Binding(what="demand", detail=f"{demand:.4g} requests/s: {kind}")]


def _fabric(space: Space, part: ServiceSpace, solved: Solved) -> list[Binding]:
    """Pools of this service whose oversubscribed fabric is full, and the closed loop's requests in flight."""
    tables, solution = solved.tables, solved.solution
    options = tables.options
    capacity: dict[tuple[tuple[int, int, int], int], float] = {}
    kinds = {}
    for row, servers in solution.replicas.items():
        path = (int(options.service[row]), int(options.mode[row]), int(options.level[row]))
        kinds[row] = (path, int(options.role[row]))
        capacity[kinds[row]] = capacity.get(kinds[row], 0.0) + servers * float(options.rate_rps[row])
    traffic = np.zeros(len(space.pools))
    in_flight = 0.0
    mine = np.zeros(len(space.pools), dtype=bool)
    for row, servers in solution.replicas.items():
        path, _ = kinds[row]
        share = servers * float(options.rate_rps[row]) / capacity[kinds[row]]
        rate = solution.rate_rps.get(path, 0.0) * share
        traffic += rate * options.traffic_gbyte[row]
        if path[0] == part.index:
            in_flight += rate * float(options.residency_s[row])
            mine |= options.traffic_gbyte[row] > 0.0
    found = []
    for pool, used, limit, own in zip(space.pools, traffic, tables.problem.fabric_gbyte_per_s, mine, strict=True):
        if own and np.isfinite(limit) and used >= limit * (1.0 - NEAR):
            found.append(Binding(what="fabric", detail=f"{pool.name}: {used:.4g} of {limit:.4g} GB/s"))
    cap = float(tables.problem.in_flight_cap[part.index])
    if in_flight >= cap * (1.0 - NEAR):
        found.append(Binding(what="clients", detail=f"{in_flight:.4g} of {cap:.0f} requests in flight"))
    return found
