"""What the files ask for in total."""

from __future__ import annotations

from collections.abc import Mapping

from planner.check.instance import Fleet
from planner.check.layout import Layout
from planner.check.packing import fewest_nodes
from planner.check.report import ComponentTotal, Totals
from planner.check.rules.memory import model_name
from specs.scenario import ResolvedPool

MAX_PIECES = 100_000
"""Nodes of one component up to which they are packed."""
UNKNOWN = "unknown"
"""Key of what is bound to no pool."""


def totals(
    fleet: Fleet,
    components: Mapping[str, tuple[Layout | None, str | None]],
    pools: Mapping[str, ResolvedPool] | None,
) -> Totals:
    """GPUs by component and pool, and nodes by pool.

    Args:
        fleet: what the files start.
        components: layout and pool by component.
        pools: of the cluster, where it is known.
    """
    found, gpus, named, pieces = [], dict[str, int](), dict[str, set[str]](), dict[str, list[int]]()
    for name, instances in fleet.components().items():
        layout, pool = components.get(name, (None, None))
        first = instances[0]
        leader = first.leader
        total = sum(instance.gpus * instance.copies.value for instance in instances)
        key = pool or UNKNOWN
        gpus[key] = gpus.get(key, 0) + total
        for instance in instances:
            for seat in instance.seats:
                if seat.node is not None:
                    named.setdefault(key, set()).add(seat.node.value)
                elif instance.nodes * instance.copies.value <= MAX_PIECES:
                    pieces.setdefault(key, []).extend([seat.gpus.value] * instance.copies.value)
        found.append(
            ComponentTotal(
                name=name,
                service=first.service.value if first.service is not None else None,
                role=first.role.value if first.role is not None else None,
                engine=leader.engine if leader is not None else None,
                model=model_name(first),
                pool=pool,
                instances=sum(instance.copies.value for instance in instances),
                gpus_per_instance=first.gpus,
                nodes_per_instance=first.nodes,
                gpus=total,
                layout={}
                if layout is None
                else {k: getattr(layout.shards, k) for k in ("tp", "dp", "ep", "moe_tp", "pp")},
                file=first.place.file,
                line=first.place.line,
            )
        )
    nodes = {key: len(names) for key, names in named.items()}
    for key, sizes in pieces.items():
        size = pools[key].gpus_per_node if pools is not None and key in pools else max(sizes, default=1)
        if size >= max(sizes, default=0) > 0:
            nodes[key] = nodes.get(key, 0) + fewest_nodes(sizes, size)
    for asked in fleet.pools:
        gpus[asked.name] = gpus.get(asked.name, 0) + asked.gpus_used.value
        nodes[asked.name] = nodes.get(asked.name, 0) + asked.nodes.value
    return Totals(components=tuple(found), gpus=sum(gpus.values()), gpus_by_pool=gpus, nodes_by_pool=nodes)
