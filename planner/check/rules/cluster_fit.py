"""The instances on the GPUs that there are: totals by pool, and node by node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from planner.check.findings import Findings
from planner.check.instance import Fleet, Instance, NodePool
from planner.check.packing import fits
from specs.scenario import ResolvedPool

RULE = "cluster"

Pools = Mapping[str, ResolvedPool]


def check_fit(fleet: Fleet, pool_of: Mapping[str, str | None], pools: Pools, findings: Findings) -> None:
    """Whether the instances fit the pools, on the nodes that the files name or on any.

    Args:
        fleet: what the files start.
        pool_of: name of the pool by component; None where the files do not say.
        pools: of the cluster.
        findings: where violations go.
    """
    by_pool: dict[str, list[Instance]] = {}
    for instance in fleet.instances:
        name = pool_of.get(instance.component)
        if name is None:
            findings.skip(
                instance.place.file, f"pool of {instance.component}", "the files name no pool of the cluster for it"
            )
        elif name not in pools:
            place = instance.pool.place if instance.pool is not None else instance.place
            findings.wrong(RULE, place, f"pool {name!r} is not in the cluster, which has {', '.join(pools)}")
        else:
            by_pool.setdefault(name, []).append(instance)
    for name, instances in by_pool.items():
        _check_pool(pools[name], instances, findings)
    total = sum(instance.gpus * instance.copies.value for instance in fleet.instances)
    have = sum(pool.count for pool in pools.values())
    if total > have:
        place = fleet.instances[0].place
        findings.wrong(RULE, place, f"the files ask for {total:,} GPUs, and the cluster has {have:,}")
    for name, said in fleet.nodes.items():
        known = pools.get(name)
        have_of: dict[str, object] = {}
        if known is not None:
            have_of = {"gpu": known.gpu.id, "gpus_per_node": known.gpus_per_node}
        for what, fact in said.items():
            if what in have_of and fact.value != have_of[what]:
                message = f"is {have_of[what]} in pool {name}, got {fact.value}"
                findings.wrong(RULE, fact.place, message, what)
    for node_pool in fleet.pools:
        _check_node_pool(node_pool, pools, findings)


def _check_pool(pool: ResolvedPool, instances: Sequence[Instance], findings: Findings) -> None:
    used = sum(instance.gpus * instance.copies.value for instance in instances)
    place = instances[0].place
    if used > pool.count:
        findings.wrong(RULE, place, f"pool {pool.name} has {pool.count:,} GPUs, and the files ask for {used:,}")
        return
    fixed = [
        seat for instance in instances for seat in instance.seats if seat.ids is not None and seat.node is not None
    ]
    if fixed:
        _check_nodes(pool, instances, findings)
        return
    pieces: list[int] = []
    for instance in instances:
        if instance.scattered is not None:
            strict = instance.nodes > 1 or instance.seats[0].gpus.value <= pool.gpus_per_node
            wanted = "STRICT_PACK" if strict else "PACK"
            if instance.scattered.value != wanted:
                message = (
                    f"must be {wanted}: {instance.seats[0].gpus.value} GPUs of a rank on nodes of {pool.gpus_per_node}"
                )
                findings.wrong(RULE, instance.scattered.place, message, "strategy")
        for seat in instance.seats:
            if seat.gpus.value > pool.gpus_per_node and instance.scattered:
                pieces += [1] * seat.gpus.value * min(instance.copies.value, 10_000)
                continue
            if seat.gpus.value > pool.gpus_per_node:
                message = f"{instance.name} takes {seat.gpus.value} GPUs of a node, and nodes have {pool.gpus_per_node}"
                findings.wrong(RULE, seat.gpus.place, message)
                return
            pieces += [seat.gpus.value] * instance.copies.value if seat.gpus.value else []  # no more than the pool has
    answer = fits(pieces, pool.gpus_per_node, pool.nodes)
    if answer is None:
        findings.doubtful(
            RULE, place, f"it was not found out whether {len(pieces)} pieces fit the nodes of {pool.name}"
        )
    elif not answer:
        findings.wrong(
            RULE,
            place,
            f"the instances on pool {pool.name} do not fit its {pool.nodes} nodes of {pool.gpus_per_node} GPUs, though "
            f"they take {used} of {pool.count} GPUs",
        )


def _check_nodes(pool: ResolvedPool, instances: Sequence[Instance], findings: Findings) -> None:
    """Nodes that exist and GPUs that exist on them."""
    for instance in instances:
        for seat in instance.seats:
            if seat.node is None:
                continue
            number = seat.node.value.rpartition("-")[2]
            if not number.isdecimal() or int(number) >= max(pool.nodes, 1):
                message = f"{seat.node.value} is no node of pool {pool.name}, which has {pool.nodes}"
                findings.wrong(RULE, seat.node.place, message)
            beyond = [gpu for gpu in seat.ids or () if not 0 <= gpu < pool.gpus_per_node]
            if beyond:
                message = f"GPU {beyond[0]} is none of node {seat.node.value}, which has {pool.gpus_per_node}"
                findings.wrong(RULE, seat.gpus.place, message)


def check_overlaps(fleet: Fleet, findings: Findings) -> None:
    """No GPU is given to two instances."""
    taken: dict[tuple[str, int], str] = {}
    for instance in fleet.instances:
        for seat in instance.seats:
            for gpu in (seat.ids or ()) if seat.node is not None else ():
                user = taken.setdefault((seat.node.value, gpu), instance.name)  # type: ignore[union-attr]
                if user != instance.name:
                    message = f"GPU {gpu} of node {seat.node.value} is taken by {user}"  # type: ignore[union-attr]
                    findings.wrong("gpus", seat.gpus.place, message)


def _check_node_pool(asked: NodePool, pools: Pools, findings: Findings) -> None:
    """Nodes that a provisioner is asked for."""
    pool = pools.get(asked.name)
    if pool is None:
        findings.wrong(RULE, asked.place, f"pool {asked.name!r} is not in the cluster, which has {', '.join(pools)}")
        return
    have: dict[str, object] = {
        "gpu": pool.gpu.id,
        "gpu_memory_bytes": pool.gpu.memory_bytes,
        "gpus_per_node": pool.gpus_per_node,
        "max_node_count": pool.nodes,
        "nodes_per_domain": pool.scale_up_domain // pool.gpus_per_node,
        "scale_out_gbit_per_s": pool.scale_out_gbit_per_s,
        "nics_per_node": pool.nics_per_node,
    }
    for what, value in have.items():
        fact = asked.values.get(what)
        if fact is not None and fact.value != value:
            findings.wrong(RULE, fact.place, f"is {value} in pool {asked.name}, got {fact.value}", what)
    if asked.nodes.value > max(pool.nodes, 1):
        findings.wrong(RULE, asked.nodes.place, f"pool {asked.name} has {pool.nodes} nodes, got {asked.nodes.value}")
