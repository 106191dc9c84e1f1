"""Placement against an exhaustive packing of small clusters, and the laws of seats on large ones."""

from collections import defaultdict
from collections.abc import Sequence
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.launch.component import launch
from planner.launch.placement import Seat, place
from specs.errors import SpecError
from specs.plan import Plan, PoolPlan
from specs.scenario import Pool
from specs.service import Mode
from tests.launch.plans import plan_of, unit, worker


def cluster(nodes: int, node: int, domain: int) -> Pool:
    return Pool(name="h100", gpu="h100", count=nodes * node, gpus_per_node=node, scale_up_domain=domain)


def check_seats(plan: Plan, seats: Sequence[Seat]) -> None:
    """Every GPU of the plan has one seat, on a GPU that exists; instances fill one node or whole nodes."""
    taken: set[tuple[str, int, int]] = set()
    gpus: dict[tuple[str, int], int] = defaultdict(int)
    pools = {pool.name: pool for pool in plan.scenario.cluster.pools} if plan.scenario else {}
    for seat in seats:
        node_gpus = pools[seat.pool].gpus_per_node or 8
        for gpu in seat.gpus:
            assert 0 <= gpu < node_gpus
            assert seat.node * node_gpus + gpu < pools[seat.pool].count
            assert (seat.pool, seat.node, gpu) not in taken
            taken.add((seat.pool, seat.node, gpu))
        gpus[seat.component.name, seat.instance] += len(seat.gpus)
    wanted = {(c.name, i): c.instance_gpus for c in launch(plan).components for i in range(c.instances)}
    assert gpus == wanted
    assert len(taken) == sum(plan.gpus_used.values())


def fits(pieces: Sequence[tuple[int, ...]], nodes: int, node: int, per_domain: int) -> bool:
    """Whether blocks, each a tuple of piece sizes, can be packed: tried exhaustively, node by node."""

    @cache
    def packed(blocks: tuple[tuple[int, ...], ...], free: tuple[int, ...]) -> bool:
        if not blocks:
            return True
        domains = [free[start : start + per_domain] for start in range(0, nodes, per_domain)]
        for d, domain in enumerate(domains):
            for left in placements(blocks[0], domain):
                rest = free[: d * per_domain] + left + free[(d + 1) * per_domain :]
                if packed(blocks[1:], rest):
                    return True
        return False

    def placements(block: tuple[int, ...], free: tuple[int, ...]) -> set[tuple[int, ...]]:
        if not block:
            return {free}
        found: set[tuple[int, ...]] = set()
        size = block[0]
        if size > node:
            empty = [i for i, left in enumerate(free) if left == node]
            if len(empty) >= size // node:
                chosen = set(empty[: size // node])
                after = tuple(0 if i in chosen else left for i, left in enumerate(free))
                return placements(block[1:], after)
            return found
        for i, left in enumerate(free):
            if left >= size:
                found |= placements(block[1:], (*free[:i], left - size, *free[i + 1 :]))
        return found

    return packed(tuple(sorted(pieces, key=sum, reverse=True)), (node,) * nodes)


sizes = st.sampled_from([1, 2, 4, 8])


@settings(max_examples=150, deadline=None)
@given(
    workers=st.lists(st.tuples(st.integers(1, 3), sizes), max_size=2),
    unit_shape=st.none() | st.tuples(st.integers(1, 3), st.integers(1, 4), st.sampled_from([1, 2, 4])),
    nodes=st.sampled_from([2, 4]),
    per_domain=st.sampled_from([1, 2]),
)
def test_placement_finds_a_packing_where_there_is_one(
    workers: list[tuple[int, int]], unit_shape: tuple[int, int, int] | None, nodes: int, per_domain: int
) -> None:
    node = 4
    pools: list[PoolPlan] = [worker(count, size) for count, size in workers]
    blocks: list[tuple[int, ...]] = [(size,) for count, size in workers for _ in range(count)]
    apart = list(blocks)
    mode = Mode.AGGREGATED
    if unit_shape is not None:
        count, attention, ffn = unit_shape
        if workers:  # a deployment holds one kind of mode; the unit alone is enough then
            pools, blocks, apart = [], [], []
        pools += unit(count, attention, ffn)
        blocks += [(ffn, *([1] * attention))] * count
        apart += [(ffn,)] * count + [(1,)] * (attention * count)
        mode = Mode.AFD
    if not pools or sum(pool.gpus for pool in pools) > nodes * node:
        return
    domain = node * per_domain
    if any(size > domain and size % domain for block in apart for size in block):
        return
    plan = plan_of(pools, mode=mode, cluster=[cluster(nodes, node, domain)])
    whole_domains = all(size <= domain for block in apart for size in block)
    if not whole_domains:
        return
    if not fits(apart, nodes, node, per_domain):
        with pytest.raises(SpecError):
            place(launch(plan))
        return
    seats = place(launch(plan))
    check_seats(plan, seats)
    even = unit_shape is None or unit_shape[1] <= node or unit_shape[1] % node == 0
    united = all(sum(block) <= domain for block in blocks) and even
    if unit_shape is not None and united:
        side = (unit_shape[1],) if unit_shape[1] <= node else (node,) * (unit_shape[1] // node)
        if fits([(unit_shape[2], *side)] * unit_shape[0], nodes, node, per_domain):
            domains: dict[int, set[int]] = defaultdict(set)
            for seat in seats:
                domains[seat.instance].add(seat.domain)
            assert all(len(found) == 1 for found in domains.values())


def test_two_units_of_48_fit_two_racks_of_72_and_three_do_not() -> None:
    def plan(units: int) -> Plan:
        rack = Pool(name="gb200", gpu="gb200", count=144)
        pools = unit(units, 36, 12, pools=("gb200", "gb200"))
        return plan_of(pools, mode=Mode.AFD, cluster=[rack])

    seats = place(launch(plan(2)))
    check_seats_of_racks(seats)
    # 144 GPUs hold three units in number, but one of them has to reach over two racks.
    spread = place(launch(plan(3)))
    assert any(len({seat.domain for seat in spread if seat.instance == instance}) == 2 for instance in range(3))


def check_seats_of_racks(seats: Sequence[Seat]) -> None:
    for instance in {seat.instance for seat in seats}:
        assert len({seat.domain for seat in seats if seat.instance == instance}) == 1


def test_blocks_that_the_largest_first_order_misplaces_are_found_by_patterns() -> None:
    # 6 + 4 + 4 + 2 in two domains of 8: the 6 and the 2 belong together.
    pools = [*unit(1, 4, 2, name="unit-1"), *unit(2, 2, 2, name="unit-2"), *unit(1, 1, 1, name="unit-3")]
    plan = plan_of(pools, mode=Mode.AFD, cluster=[cluster(4, 4, 8)])
    seats = place(launch(plan))
    for component in {seat.component.plan.unit for seat in seats}:
        for instance in range(2):
            mine = [s for s in seats if s.component.plan.unit == component and s.instance == instance]
            assert len({seat.domain for seat in mine}) <= 1


def test_a_replica_of_five_nodes_takes_five_whole_nodes() -> None:
    pools = [worker(1, 40), worker(2, 4)]
    seats = place(launch(plan_of(pools, cluster=[cluster(6, 8, 8)])))
    wide = [seat for seat in seats if seat.component.instance_gpus == 40]
    assert [seat.node_rank for seat in wide] == [0, 1, 2, 3, 4]
    assert all(seat.gpus == tuple(range(8)) for seat in wide)


def test_thousands_of_replicas_are_placed() -> None:
    plan = plan_of([worker(2500, 4)], cluster=[cluster(1250, 8, 8)])
    check_seats(plan, place(launch(plan)))


def test_instances_that_do_not_fit_are_refused_with_the_pool() -> None:
    plan = plan_of([worker(2, 6), worker(1, 4)], cluster=[cluster(2, 8, 8)])
    with pytest.raises(SpecError, match="pool h100 do not fit its 16 GPUs"):
        place(launch(plan))
