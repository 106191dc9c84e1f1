"""Node pools that a provisioner is asked for, against the plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from planner.check.expected import Expected
from planner.check.findings import Findings
from planner.check.instance import Fleet
from planner.check.packing import fewest_nodes
from planner.check.place import Place
from specs.scenario import ResolvedPool

RULE = "plan"


def check_node_pools(
    fleet: Fleet, wanted: Sequence[Expected] | None, pools: Mapping[str, ResolvedPool] | None, findings: Findings
) -> None:
    """GPUs in use fit the nodes; with a plan, they are the plan's, and the nodes are no fewer than they need."""
    for asked in fleet.pools:
        room = asked.nodes.value * asked.gpus_per_node.value
        if asked.gpus_used.value > room:
            message = f"{asked.gpus_used.value} GPUs in use on {asked.nodes.value} nodes of {asked.gpus_per_node.value}"
            findings.wrong("gpus", asked.gpus_used.place, message, "gpus_used")
        if asked.gpus_used.value <= room - asked.nodes.value * (asked.gpus_per_node.value - 1) - 1:
            message = f"{asked.nodes.value} nodes for {asked.gpus_used.value} GPUs: some nodes would have none"
            findings.wrong("gpus", asked.nodes.place, message, "node_count")
    if wanted is None or not fleet.pools:
        return
    by_pool: dict[str, list[Expected]] = {}
    for each in wanted:
        by_pool.setdefault(each.pool.name, []).append(each)
    given = {asked.name: asked for asked in fleet.pools}
    for name, members in by_pool.items():
        pool = given.get(name)
        if pool is None:
            findings.wrong(RULE, Place(fleet.pools[0].place.file), f"lacks the pool {name}, which the plan uses")
            continue
        gpus = sum(each.gpus * each.instances for each in members)
        if pool.gpus_used.value != gpus:
            message = f"the plan uses {gpus} GPUs of pool {name}, got {pool.gpus_used.value}"
            findings.wrong(RULE, pool.gpus_used.place, message, "gpus_used")
        _check_nodes(pool.nodes.value, pool.nodes.place, members, findings)
    for name in given.keys() - by_pool.keys():
        findings.wrong(RULE, given[name].place, f"the plan uses no pool {name}")
    del pools


def _check_nodes(nodes: int, place: Place, members: Sequence[Expected], findings: Findings) -> None:
    """The nodes are what the plan's replicas take, the largest first."""
    size = members[0].pool.gpus_per_node
    pieces: list[int] = []
    for each in members:
        replica = each.plan.gpus_per_replica
        whole, rest = divmod(replica, size)
        pieces += ([size] * whole + ([rest] if rest else [])) * each.plan.replicas
    least = fewest_nodes(pieces, size)
    if nodes < least:
        findings.wrong(RULE, place, f"the plan's replicas take {least} nodes, got {nodes}", "node_count")
    elif nodes > least:
        findings.doubtful(RULE, place, f"the plan's replicas fit {least} nodes, got {nodes}", "node_count")
