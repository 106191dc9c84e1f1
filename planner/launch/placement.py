"""Where every engine instance sits: which GPUs of which nodes, inside their scale-up domains.

A *block* must lie in one domain (or fill whole domains): a worker, or an AFD unit whose two sides share a pool. A block
is made of *pieces*, each of which lies in one node or fills whole nodes: the worker itself, the attention and the FFN
instance of a unit. Blocks go to domains first, the largest first and into the fullest domain that holds them; where
that leaves one over, patterns of whole domains are searched, as the program's packing rows do
(`formulations.packing`). Then the pieces of each domain go to its nodes, again the largest first, which always succeeds
where the sizes divide one another and the node.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from formulations.packing import maximal_patterns
from planner.launch.component import Component, DeploymentLaunch, Launch
from specs.errors import SpecError
from specs.plan import Role
from specs.scenario import ResolvedPool

SEARCHED_DOMAINS = 200
"""Domains of a pool up to which patterns are searched where the largest-first order fails."""


@dataclass(frozen=True)
class Seat:
    """The GPUs that one instance takes on one node.

    Args:
        component: whose instance it is.
        instance: index among the component's instances.
        node_rank: index of the node within the instance.
        pool: name of the GPU pool.
        node: index of the node in the pool.
        domain: index of the scale-up domain in the pool.
        gpus: indices of the GPUs in the node.
    """

    component: Component
    instance: int
    node_rank: int
    pool: str
    node: int
    domain: int
    gpus: tuple[int, ...]


@dataclass(frozen=True)
class _Piece:
    """GPUs of one instance, or of one replica of it, that lie in one node or fill whole nodes."""

    component: Component
    instance: int
    gpus: int


@dataclass(frozen=True)
class _Block:
    """Pieces that lie in one domain, or fill whole domains."""

    pieces: tuple[_Piece, ...]

    @property
    def gpus(self) -> int:
        return sum(piece.gpus for piece in self.pieces)


def place(launch: Launch) -> tuple[Seat, ...]:
    """Seats of all instances, by pool, component, instance and node rank.

    Raises:
        SpecError: the nodes and domains of a pool cannot hold its instances.
    """
    seats: list[Seat] = []
    for pool in launch.pools.values():
        found = None
        # Sides of a unit that cannot share a domain exchange over the network; replicas that do not fill nodes evenly
        # are spread.
        for united, whole in ((True, True), (False, True), (False, False)):
            blocks = [block for d in launch.deployments for block in _blocks(d, pool, united=united, whole=whole)]
            found = _seats(pool, blocks)
            if found is not None:
                break
        if found is None:
            raise SpecError(
                f"the instances on pool {pool.name} do not fit its {pool.count} GPUs in nodes of {pool.gpus_per_node} "
                f"and scale-up domains of {pool.scale_up_domain}; accepted: instances that divide a node or fill whole "
                "nodes",
                field="services",
            )
        seats += found
    return tuple(seats)


def _blocks(deployment: DeploymentLaunch, pool: ResolvedPool, *, united: bool, whole: bool) -> Iterator[_Block]:
    """The blocks of a deployment on a pool."""
    here = [component for component in deployment.components if component.pool.name == pool.name]
    units: dict[str, list[Component]] = {}
    for component in here:
        if component.plan.unit is None:
            yield from (_Block((_Piece(component, i, component.instance_gpus),)) for i in range(component.instances))
        else:
            units.setdefault(component.plan.unit, []).append(component)
    for sides in units.values():
        if united and sum(side.instance_gpus for side in sides) <= pool.scale_up_domain:
            for i in range(sides[0].instances):
                yield _Block(tuple(piece for side in sides for piece in _pieces(side, i, whole=whole)))
        else:
            for side in sides:
                for i in range(side.instances):
                    yield from (_Block((piece,)) for piece in _pieces(side, i, whole=whole))


def _pieces(side: Component, instance: int, *, whole: bool) -> Iterator[_Piece]:
    """One instance as a piece, or one for each of its replicas."""
    node = side.pool.gpus_per_node
    even = side.instance_gpus <= node or side.instance_gpus % node == 0
    if side.role is not Role.ATTENTION or (whole and even):
        yield _Piece(side, instance, side.instance_gpus)
        return
    for _ in range(side.replicas_per_instance):
        yield _Piece(side, instance, side.plan.gpus_per_replica)


def _seats(pool: ResolvedPool, blocks: Sequence[_Block]) -> list[Seat] | None:
    """Seats of the blocks, or None where they do not fit."""
    if not blocks:
        return []  # an idle pool may have very many nodes
    assigned = _to_domains(pool, sorted(blocks, key=lambda block: -block.gpus))
    if assigned is None:
        return None
    taken: list[tuple[_Piece, int, tuple[int, ...]]] = []
    free = _nodes(pool)
    per_domain = pool.scale_up_domain // pool.gpus_per_node
    for domains, members in assigned:
        nodes = range(domains.start * per_domain, min(domains.stop * per_domain, len(free)))
        for piece in sorted((p for block in members for p in block.pieces), key=lambda piece: -piece.gpus):
            places = _to_nodes(piece.gpus, nodes, free, pool.gpus_per_node)
            if places is None:
                return None
            taken += [(piece, node, gpus) for node, gpus in places]
    return _ranked(pool, taken)


def _ranked(pool: ResolvedPool, taken: Iterable[tuple[_Piece, int, tuple[int, ...]]]) -> list[Seat]:
    """One seat per instance and node, its nodes in order."""
    nodes: dict[tuple[str, int], dict[int, list[int]]] = {}
    components: dict[str, Component] = {}
    for piece, node, gpus in taken:
        components.setdefault(piece.component.name, piece.component)
        nodes.setdefault((piece.component.name, piece.instance), {}).setdefault(node, []).extend(gpus)
    per_domain = pool.scale_up_domain // pool.gpus_per_node
    return [
        Seat(components[name], instance, rank, pool.name, node, node // per_domain, tuple(sorted(by_node[node])))
        for (name, instance), by_node in sorted(nodes.items())
        for rank, node in enumerate(sorted(by_node))
    ]


def _nodes(pool: ResolvedPool) -> list[list[int]]:
    """Free GPUs of every node; the last may be smaller."""
    size = pool.gpus_per_node
    return [list(range(min(size, pool.count - start))) for start in range(0, pool.count, size)]


def _to_nodes(
    gpus: int, nodes: range, free: list[list[int]], node_gpus: int
) -> list[tuple[int, tuple[int, ...]]] | None:
    """Take GPUs of one node, the fullest that has them, or whole nodes; None where there are none."""
    if gpus > node_gpus:
        empty = [node for node in nodes if len(free[node]) == node_gpus][: math.ceil(gpus / node_gpus)]
        if gpus % node_gpus or len(empty) * node_gpus < gpus:
            return None
        return [(node, _take(free[node], node_gpus)) for node in empty]
    holding = [node for node in nodes if len(free[node]) >= gpus]
    if not holding:
        return None
    node = min(holding, key=lambda node: (len(free[node]), node))
    return [(node, _take(free[node], gpus))]


def _take(free: list[int], count: int) -> tuple[int, ...]:
    taken = tuple(free[:count])
    del free[:count]
    return taken


# -- domains ----------------------------------------------------------------------------------------------------------

_Assigned = list[tuple[range, list[_Block]]]
"""Domains that are filled together, and their blocks."""


def _to_domains(pool: ResolvedPool, blocks: Sequence[_Block]) -> _Assigned | None:
    """Blocks by domain, given the largest first; None where none is found."""
    size = pool.scale_up_domain
    room = [min(size, pool.count - start) for start in range(0, pool.count, size)]
    assigned: _Assigned = []
    first = 0
    for block in blocks:
        if block.gpus <= size:
            continue
        wanted = math.ceil(block.gpus / size)
        if block.gpus % size or first + wanted > pool.count // size:
            return None
        assigned.append((range(first, first + wanted), [block]))
        first += wanted
    inside = [block for block in blocks if block.gpus <= size]
    found = _largest_first(room[first:], inside)
    if found is None and len(room) - first <= SEARCHED_DOMAINS:
        found = _by_patterns(room[first:], inside)
    if found is None:
        return None
    return assigned + [(range(first + i, first + i + 1), members) for i, members in enumerate(found) if members]


def _largest_first(room: Sequence[int], blocks: Sequence[_Block]) -> list[list[_Block]] | None:
    """Every block into the fullest domain that holds it."""
    left, members = list(room), [list[_Block]() for _ in room]
    for block in blocks:
        holding = [domain for domain, free in enumerate(left) if free >= block.gpus]
        if not holding:
            return None
        domain = min(holding, key=lambda domain: (left[domain], domain))
        left[domain] -= block.gpus
        members[domain].append(block)
    return members


def _by_patterns(room: Sequence[int], blocks: Sequence[_Block]) -> list[list[_Block]] | None:
    """Domain after domain, the fullest patterns first, with what has failed remembered."""
    sizes = sorted({block.gpus for block in blocks}, reverse=True)
    failed: set[tuple[int, tuple[int, ...]]] = set()

    def fill(domain: int, left: tuple[int, ...]) -> list[tuple[int, ...]] | None:
        if not any(left):
            return []
        if domain == len(room) or (domain, left) in failed:
            return None
        if sum(size * count for size, count in zip(sizes, left, strict=True)) > sum(room[domain:]):
            return None
        patterns = {
            tuple(min(count, have) for count, have in zip(pattern, left, strict=True))
            for pattern in _patterns(room[domain], sizes)
        }
        for pattern in sorted(patterns, key=lambda cut: -sum(s * c for s, c in zip(sizes, cut, strict=True))):
            rest = fill(domain + 1, tuple(have - count for have, count in zip(left, pattern, strict=True)))
            if rest is not None:
                return [pattern, *rest]
        failed.add((domain, left))
        return None

    cuts = fill(0, tuple(sum(block.gpus == size for block in blocks) for size in sizes))
    if cuts is None:
        return None
    waiting = {size: [block for block in blocks if block.gpus == size] for size in sizes}
    return [[waiting[size].pop() for size, count in zip(sizes, cut, strict=True) for _ in range(count)] for cut in cuts]


def _patterns(capacity: int, sizes: list[int]) -> Iterator[tuple[int, ...]]:
    """Maximal patterns of a domain that is smaller than some of the sizes."""
    fitting = [size for size in sizes if size <= capacity]
    larger = (0,) * (len(sizes) - len(fitting))
    for counts in maximal_patterns(capacity, fitting):
        yield (*larger, *counts)
