"""From the declared space to the formulation's tables, and back from a row to its option."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from formulations.table import OptionTable, Problem, Role
from planner.costs.worker import Worker
from planner.launchable import attention_block
from planner.options.block import Family, IntArray, OptionBlock
from planner.space import Group, Space, fabric_gbyte
from specs.scenario import ResolvedPool, Scenario
from specs.service import Mode
from specs.workload import ArrivalProcess

Item = tuple[str, int]
"""Pool name and GPUs of one packing item."""


@dataclass(frozen=True, eq=False)
class Tables:
    """A problem, its options, and where every row came from.

    Args:
        problem: everything but the options.
        options: one row per option; its label is the row number.
        group: index into `groups`, per row.
        row: row in the group's block, per row.
        groups: the groups.
    """

    problem: Problem
    options: OptionTable
    group: IntArray
    row: IntArray
    groups: tuple[Group, ...]


def problem_of(space: Space) -> Problem:
    """The formulation's problem."""
    scenario = space.scenario
    services = scenario.services
    lengths = [part.sites[0].lengths for part in space.services]
    arrivals = [part.sites[0].workload.arrival for part in space.services]

    def optional(values: Sequence[float | None]) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        return np.array([math.nan if value is None else float(value) for value in values])

    return Problem(
        services=tuple(service.name for service in services),
        modes=tuple(mode.value for mode in Mode),
        pools=tuple(pool.name for pool in space.pools),
        pool_gpus=np.array([pool.count for pool in space.pools], dtype=np.int64),
        pool_domain=np.array([pool.scale_up_domain for pool in space.pools], dtype=np.int64),
        weight=np.array([service.weight for service in services]),
        output_tokens=np.array([length.output for length in lengths]),
        demand_rps=optional([service.demand_rps for service in services]),
        split=np.array([service.split for service in services]),
        fabric_gbyte_per_s=np.array([fabric_limit(pool) for pool in space.pools]),
        sense="maximize" if scenario.objective.maximizing else "minimize",
        min_replicas=np.array([service.limits.min_replicas or 1 for service in services], dtype=np.int64),
        in_flight_cap=optional([a.concurrency if a.process is ArrivalProcess.CLOSED_LOOP else None for a in arrivals]),
    )


def fabric_limit(pool: ResolvedPool) -> float:
    """Bytes that all GPUs of a pool can send plus receive through an oversubscribed fabric, GB/s; inf where full."""
    if pool.oversubscription <= 1.0:
        return math.inf
    return 2.0 * pool.count * pool.scale_out_gbit_per_s / 8.0 / pool.oversubscription


def items_of(family: Family, replicas: int) -> dict[Item, int]:
    """Packing items that one server takes: what must lie together counts as one item."""
    if isinstance(family, Worker):
        return {(family.site.pool.name, family.layout.gpus): 1}
    attention, ffn = family.attention_site.pool.name, family.ffn_site.pool.name
    if family.scale_up:
        return {(attention, replicas * family.tp + family.ffn_gpus): 1}
    near = family.attention_site
    block = attention_block(near.service, near.pool, replicas * family.tp, family.tp)
    items = {(attention, block): replicas * family.tp // block}
    items[(ffn, family.ffn_gpus)] = items.get((ffn, family.ffn_gpus), 0) + 1
    return items


def unit_cost(scenario: Scenario, pool: ResolvedPool) -> float:
    """What one GPU of a pool adds to the objective of a minimum."""
    match scenario.objective.quantity:
        case "cost":
            return pool.cost_per_gpu_hour
        case "power":
            return pool.power_w_per_gpu * 1e-3
        case "gpus":
            return 1.0
        case "throughput":
            return 0.0


def tables(space: Space, groups: Sequence[Group]) -> Tables:
    """The tables of some groups."""
    problem = problem_of(space)
    pool_index = {pool.name: index for index, pool in enumerate(space.pools)}
    costs = {pool.name: unit_cost(space.scenario, pool) for pool in space.pools}
    item_index: dict[Item, int] = {}
    group_of = np.concatenate([np.full(len(g.block), i) for i, g in enumerate(groups)] or [np.zeros(0, dtype=np.int64)])
    row_of = np.concatenate([np.arange(len(g.block)) for g in groups] or [np.zeros(0, dtype=np.int64)])
    sparse: list[tuple[int, int, int]] = []
    cost = np.zeros(group_of.size)
    traffic = np.zeros((group_of.size, len(space.pools)))
    offset = 0
    limited = np.isfinite(problem.fabric_gbyte_per_s).any()
    for group in groups:
        block = group.block
        keys, inverse = np.unique(np.stack([block.family, block.replicas], axis=1), axis=0, return_inverse=True)
        inverse = inverse.ravel()
        for number, (family_index, replicas) in enumerate(keys):
            family = block.families[int(family_index)]
            rows = offset + np.flatnonzero(inverse == number)
            for item, count in items_of(family, int(replicas)).items():
                column = item_index.setdefault(item, len(item_index))
                cost[rows] += count * item[1] * costs[item[0]]
                sparse += [(int(row), column, count) for row in rows]
            if limited:
                for name, gbyte in _traffic(space, group, family).items():
                    traffic[rows, pool_index[name]] += gbyte
        offset += len(block)
    items = np.zeros((group_of.size, len(item_index)), dtype=np.int64)
    for row, column, count in sparse:
        items[row, column] = count
    modes = list(Mode)
    blocks = OptionBlock.concat([group.block for group in groups])
    options = OptionTable(
        service=np.array([groups[i].service for i in group_of], dtype=np.int64),
        mode=np.array([modes.index(groups[i].mode) for i in group_of], dtype=np.int64),
        role=np.array([int(groups[i].role) for i in group_of], dtype=np.int64),
        level=blocks.level,
        rate_rps=blocks.rate_rps,
        items=items,
        item_pool=np.array([pool_index[name] for name, _ in item_index], dtype=np.int64),
        item_gpus=np.array([size for _, size in item_index], dtype=np.int64),
        cost=cost,
        traffic_gbyte=traffic,
        residency_s=blocks.residency_s,
        label=np.arange(group_of.size),
    )
    return Tables(problem, options, group_of.astype(np.int64), row_of.astype(np.int64), tuple(groups))


def _traffic(space: Space, group: Group, family: Family) -> dict[str, float]:
    """Scale-out gigabytes of one served request on each pool."""
    part = space.services[group.service]
    lengths = part.sites[0].lengths
    tokens = {
        Role.SERVE: lengths.input + lengths.decode_tokens,
        Role.PREFILL: lengths.input,
        Role.DECODE: lengths.decode_tokens,
    }[group.role]
    result = fabric_gbyte(family, group.role, tokens)
    if group.role is not Role.SERVE:
        site = family.site if isinstance(family, Worker) else family.attention_site
        result[site.pool.name] = result.get(site.pool.name, 0.0) + part.transfer().bytes_per_request * 1e-9
    return result
