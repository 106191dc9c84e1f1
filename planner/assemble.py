"""From a solution to a plan: pools, replicas and latencies, re-evaluated on the second path."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from formulations.table import Role as TableRole
from planner.accuracy.known import throughput_error
from planner.costs.site import Site
from planner.costs.worker import Worker
from planner.options.block import OptionBlock
from planner.pools import worker_pool
from planner.provenance import provenance
from planner.reevaluate import Latency, Load, evaluate
from planner.solve import Solved
from planner.space import Group, ServiceSpace, Space
from specs.plan import (
    PLAN_SCHEMA,
    Certificate,
    Deployment,
    Explanation,
    Plan,
    PoolPlan,
    Provenance,
    Role,
    ServicePlan,
    Status,
)
from specs.service import Engine, KernelSource, Mode, Phase

SLO_TOLERANCE = 1e-6
"""Relative excess over an SLO that rounding of figures can cause."""


@dataclass(frozen=True, eq=False)
class _Chosen:
    """One option in use: its block and row, how many servers, and its share of its role's capacity."""

    group: Group
    row: int
    servers: int

    @property
    def block(self) -> OptionBlock:
        return self.group.block

    @property
    def capacity_rps(self) -> float:
        return self.servers * float(self.block.rate_rps[self.row])


def build(space: Space, solved: Solved, *, gap: float) -> Plan:
    """The plan of a solved space, without explanation.

    Its provenance lists the operators that the re-evaluation of the chosen layouts asks for; without a plan, all that
    the options asked for.

    Args:
        space: the declared space.
        solved: its solution.
        gap: the relative gap that makes a plan optimal.

    Raises:
        RuntimeError: the re-evaluation breaks an SLO that the options promised (a defect, never a user's error).
    """
    solution = solved.solution
    objective = space.scenario.objective
    rejected = Counter[str]()
    for part in space.services:
        for counter in part.rejected.values():
            rejected.update({reason: count for reason, count in counter.items() if count})
    explanation = Explanation(rejected=dict(rejected), notes=_unlisted_notes(space, solved))
    if not solution.found:
        status = Status.INFEASIBLE if solution.status == "infeasible" else Status.TIME_LIMIT
        certificate = Certificate(
            space=_space_words(space, solved), measurement_error=throughput_error(_could_serve(space))
        )
        return Plan(
            schema=PLAN_SCHEMA,
            status=status,
            objective=objective,
            scenario=space.scenario,
            certificate=certificate,
            provenance=_provenance(space, solved, [site for part in space.services for site in part.sites]),
            explanation=explanation,
            gpus_used={pool.name: 0 for pool in space.pools},
            gpus_idle={pool.name: pool.count for pool in space.pools},
        )
    namer = _UnitNames()
    # Sites that only the chosen layouts ask, so that the provenance is theirs.
    parts = [replace(part, sites=tuple(site.traced() for site in part.sites)) for part in space.services]
    services = tuple(_service(part, solved, namer) for part in parts)
    used: Counter[str] = Counter()
    for service in services:
        for deployment in service.deployments:
            for pool in deployment.pools:
                used[pool.gpu_pool] += pool.gpus
    cost = sum(used[pool.name] * pool.cost_per_gpu_hour for pool in space.pools)
    tokens = sum(service.throughput_tok_s for service in services)
    distance = abs(solved.bound - solution.incumbent)
    total = distance / abs(solution.incumbent) if solution.incumbent else 0.0
    certificate = Certificate(
        incumbent=solution.incumbent,
        bound=solved.bound,
        gap=total,
        gap_solver=min(solved.gap_solver, total),
        gap_discretisation=max(total - solved.gap_solver, 0.0),
        space=_space_words(space, solved),
        measurement_error=throughput_error(_serving(space, services)),
    )
    return Plan(
        schema=PLAN_SCHEMA,
        status=Status.OPTIMAL if total <= gap else Status.FEASIBLE,
        objective=objective,
        scenario=space.scenario,
        certificate=certificate,
        services=services,
        gpus_used={pool.name: used[pool.name] for pool in space.pools},
        gpus_idle={pool.name: pool.count - used[pool.name] for pool in space.pools},
        cost_per_hour=cost,
        cost_per_million_tokens=cost / (tokens * 3600.0 / 1e6) if tokens > 0 else None,
        power_kw=sum(used[pool.name] * pool.power_w_per_gpu for pool in space.pools) / 1e3,
        provenance=_provenance(space, solved, [site for part in parts for site in part.sites]),
        explanation=explanation,
    )


class _UnitNames:
    """Names of AFD units, unique in a plan."""

    def __init__(self) -> None:
        self._count = 0

    def next(self) -> str:
        self._count += 1
        return f"unit-{self._count}"


def _service(part: ServiceSpace, solved: Solved, names: _UnitNames) -> ServicePlan:
    modes = list(Mode)
    rates = {path: rate for path, rate in solved.solution.rate_rps.items() if path[0] == part.index and rate > 0.0}
    whole = sum(rates.values())
    output = part.sites[0].lengths.output
    deployments = []
    for path in sorted(rates):
        chosen = _chosen(solved, path)
        deployments.append(_deployment(part, modes[path[1]], chosen, rates[path], rates[path] / whole, names))
    kinds = {deployment.mode for deployment in deployments}
    return ServicePlan(
        name=part.service.name,
        mode=next(iter(kinds)) if len(kinds) == 1 else "mixed",
        throughput_tok_s=whole * output,
        request_rate_rps=whole,
        ttft_ms=_worst([deployment.ttft_ms for deployment in deployments]),
        tpot_ms=_worst([deployment.tpot_ms for deployment in deployments]),
        deployments=tuple(deployments),
    )


def _worst(values: Sequence[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _chosen(solved: Solved, path: tuple[int, int, int]) -> list[_Chosen]:
    options = solved.tables.options
    result = []
    for row, servers in sorted(solved.solution.replicas.items()):
        if (int(options.service[row]), int(options.mode[row]), int(options.level[row])) == path:
            group = solved.tables.groups[int(solved.tables.group[row])]
            result.append(_Chosen(group, int(solved.tables.row[row]), servers))
    return result


def _deployment(
    part: ServiceSpace, mode: Mode, chosen: Sequence[_Chosen], rate_rps: float, share: float, names: _UnitNames
) -> Deployment:
    capacity: dict[TableRole, float] = {}
    for each in chosen:
        capacity[each.group.role] = capacity.get(each.group.role, 0.0) + each.capacity_rps
    loads = []
    for each in chosen:
        part_rate = rate_rps * each.capacity_rps / capacity[each.group.role] / each.servers
        loads.append(Load(_pools(part, each, names), each.servers, part_rate))
    latency = evaluate(part, loads)
    _check(part, latency)
    pools = [
        pool.model_copy(update={"utilisation": min(max(used, 1e-9), 1.0)})
        for load, used in zip(loads, latency.utilisation, strict=True)
        for pool in load.pools
    ]
    return Deployment(
        mode=mode,
        share=share,
        throughput_tok_s=rate_rps * part.sites[0].lengths.output,
        ttft_ms=latency.ttft_ms,
        tpot_ms=latency.tpot_ms,
        pools=tuple(pools),
    )


def _check(part: ServiceSpace, latency: Latency) -> None:
    """The claims of the options must survive the second path."""
    targets = part.targets
    for name, value, limit in (("TTFT", latency.ttft_ms, targets.ttft_ms), ("TPOT", latency.tpot_ms, targets.tpot_ms)):
        if value is not None and value > limit * (1.0 + SLO_TOLERANCE):
            raise RuntimeError(
                f"re-evaluation of service {part.service.name!r} gives {name} {value:.6g} ms, over its SLO {limit:g} ms"
            )
    if latency.occupied > latency.slots * (1.0 + SLO_TOLERANCE):
        raise RuntimeError(
            f"re-evaluation of service {part.service.name!r}: {latency.occupied:.6g} requests in flight do not fit "
            f"{latency.slots:g} slots"
        )


def _pools(part: ServiceSpace, chosen: _Chosen, names: _UnitNames) -> tuple[PoolPlan, ...]:
    block, row = chosen.block, chosen.row
    family = block.families[int(block.family[row])]
    chunks, slots = int(block.chunks[row]), int(block.slots[row])
    if isinstance(family, Worker):
        return (worker_pool(family, _worker_role(part, chosen.group), chosen.servers, slots, chunks),)
    copies, microbatches = int(block.replicas[row]), int(block.microbatches[row])
    unit = names.next()
    chunk = math.ceil(part.sites[0].lengths.input / chunks) if chunks else 0
    attention = PoolPlan(
        role=Role.ATTENTION,
        gpu_pool=family.attention_site.pool.name,
        replicas=copies * chosen.servers,
        gpus_per_replica=family.tp,
        tp=family.tp,
        batch=slots,
        chunk_tokens=chunk,
        microbatches=microbatches,
        utilisation=1.0,
        unit=unit,
        units=chosen.servers,
    )
    ffn = PoolPlan(
        role=Role.FFN,
        gpu_pool=family.ffn_site.pool.name,
        replicas=chosen.servers,
        gpus_per_replica=family.ffn_gpus,
        ep=family.ep,
        moe_tp=family.moe_tp,
        expert_slots=family.expert_slots,
        batch=slots * copies,
        chunk_tokens=chunk * copies,
        microbatches=microbatches,
        utilisation=1.0,
        unit=unit,
        units=chosen.servers,
    )
    return attention, ffn


def _worker_role(part: ServiceSpace, group: Group) -> Role:
    if group.role is TableRole.PREFILL or part.service.phase is Phase.PREFILL:
        return Role.PREFILL
    if group.role is TableRole.DECODE or part.service.phase is Phase.DECODE:
        return Role.DECODE
    return Role.MIXED


def _provenance(space: Space, solved: Solved, sites: Sequence[Site]) -> Provenance:
    return provenance(
        sites,
        packages=("cleave", "highspy", "pyomo", "numpy"),
        formulation="columns",
        seconds={name: round(value, 3) for name, value in solved.seconds.items()},
        notes=space.calibration.notes(space.pools),
    )


def _could_serve(space: Space) -> Iterator[tuple[Engine, KernelSource, str]]:
    """What a plan could have used: that there is none rests on predictions for these."""
    for part in space.services:
        for pool in space.pools:
            yield part.service.engine, part.service.kernels, pool.gpu.id


def _serving(space: Space, services: Sequence[ServicePlan]) -> Iterator[tuple[Engine, KernelSource, str]]:
    """Engine, kernel source and GPU of every pool in the plan."""
    gpus = {pool.name: pool.gpu.id for pool in space.pools}
    for part, planned in zip(space.services, services, strict=True):
        for deployment in planned.deployments:
            for pool in deployment.pools:
                yield part.service.engine, part.service.kernels, gpus[pool.gpu_pool]


def _unlisted_notes(space: Space, solved: Solved) -> tuple[str, ...]:
    """What was not searched, if time ran out before everything was."""
    if not solved.unlisted:
        return ()
    names = ", ".join(f"{space.services[index].service.name} {mode.value}" for index, mode in solved.unlisted)
    bound = "; the bound covers them by what GPUs could serve without an SLO" if solved.solution.found else ""
    return (f"time ran out before the options of these modes were listed: {names}{bound}",)


def _space_words(space: Space, solved: Solved) -> dict[str, str | int | float | tuple[str | int | float, ...]]:
    """What was searched, in words and numbers."""
    workers = sum(len(part.workers) for part in space.services)
    units = sum(int(unit.copies.size) for part in space.services for unit in part.units)
    titles = [title for part in space.services if part.launch is not None for title in part.launch.titles]
    launchable = {"launchable": tuple(dict.fromkeys(titles))} if titles else {}
    return {
        **launchable,
        "modes": tuple(sorted({mode.value for part in space.services for mode in part.service.modes})),
        "worker layouts": workers,
        "AFD units (attention replicas x FFN replica x micro-batches)": units,
        "batches": "every integer that memory holds; the best per layout and level by monotone search",
        "prefill": "prompts per step: 1, 2, 4, ... below DP, then equal numbers on all ranks up to 16 each",
        "chunks": "equal chunks of the prompt: 1, 2, 4, 8, ... (mixed); 1, 2, 4, 8 x the fewest (prefill)",
        "utilisation": "the largest that the SLO allows, by root",
        "TTFT levels": solved.levels,
        "options in the program": len(solved.tables.options),
        "columns after pruning": solved.solution.columns,
    }
