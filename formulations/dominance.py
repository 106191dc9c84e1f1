"""Exact dominance pruning: an option dies only if others can take its place in every solution.

Option o' replaces o (same service, mode, role and level) if there is an integer k >= 1 such that k replicas of o'

- take no more of any pool: k gpus'[g] <= gpus[g]; on a pool with pattern rows, k items'[>= a] <= items[>= a] for every
  size a, where items[>= a] counts the items of at least a GPUs: then every item of the k replicas finds a place of its
  own among the places of o (the j-th largest into the j-th largest);
- serve no less: k rate' >= rate;
- cost no more (in a minimum): k cost' <= cost;
- are charged no more per served request on any finite fabric, and in residency where the service has a cap.

Swapping one replica of o for k of o' then keeps every row of every family: inventory and packing by the first condition
(where there are no pattern rows the inventory row is exact for all sizes of the whole table, so sums suffice), rate
matching and flow capacity by the second (the served flow moves along with the replica), served >= 1 because replicas
only grow in number, network and in-flight by the last, demand and level because no rate changes. The objective is no
worse. Ties keep the first row of the table.

The sort puts every option after all that can replace it: first the resources and charges, ascending, then the rate,
descending. (k >= 2 takes strictly less of some resource; k = 1 with equal resources needs a rate no smaller.)
"""

from typing import Any

import numpy as np

from formulations.assembly import largest_counts
from formulations.flow import charges
from formulations.packing import needs_patterns
from formulations.table import BoolArray, FloatArray, IntArray, OptionTable, Problem, Role, check, gpus_by_pool

_BLOCK_ROWS = 1 << 17
"""rows of the table reduced at once; bounds the memory of a large table"""

_BLOCK_PAIRS = 1 << 20
"""pairs of options compared at once"""

_SMALL_GROUP = 128
"""groups up to this size are compared all pairs at once, larger ones against their survivors"""

_KEY_LIMIT = 1 << 62


def prune(problem: Problem, table: OptionTable) -> IntArray:
    """Return the rows of the table that are kept, ascending.

    Options that cannot be placed on the empty cluster or serve nothing go first; of the rest only those that nothing
    replaces stay.

    Raises:
        ValueError: the table does not belong to the problem.
    """
    check(problem, table)
    patterned = needs_patterns(problem, table.items, table.item_pool, table.item_gpus)
    kept: list[IntArray] = []
    for first in range(0, len(table), _BLOCK_ROWS):
        rows = np.arange(first, min(first + _BLOCK_ROWS, len(table)), dtype=np.int64)
        block = table.take(rows)
        largest = largest_counts(problem, block.items, block.item_pool, block.item_gpus)
        usable = np.flatnonzero((largest > 0) & (block.rate_rps > 0))
        kept.append(rows[usable[_frontier(*_coordinates(problem, block.take(usable), patterned))]])
    survivors = np.concatenate(kept) if kept else np.zeros(0, dtype=np.int64)
    if len(survivors) == 0:
        return survivors
    group, amount, charge, rate = _coordinates(problem, table.take(survivors), patterned)
    order = _frontier(group, amount, charge, rate)
    order = order[np.lexsort((-rate[order], *charge[order].T[::-1], *amount[order].T[::-1], group[order]))]
    return np.sort(survivors[order[_cull(group[order], amount[order], charge[order], rate[order])]])


def _coordinates(
    problem: Problem, table: OptionTable, patterned: BoolArray
) -> tuple[IntArray, FloatArray, FloatArray, FloatArray]:
    """Return group (N,), amounts taken per replica (N, C), charges per request (N, P + 1) and rate (N,)."""
    gpus = gpus_by_pool(table.items, table.item_pool, table.item_gpus, len(problem.pools))
    columns: list[Any] = [gpus[:, ~patterned]]
    for pool in np.flatnonzero(patterned).tolist():
        on_pool = np.flatnonzero(table.item_pool == pool)
        for size in np.unique(table.item_gpus[on_pool]).tolist():
            columns.append(table.items[:, on_pool[table.item_gpus[on_pool] >= size]].sum(axis=1)[:, None])
    if problem.sense == "minimize":
        columns.append(table.cost[:, None])
    modes, levels = len(problem.modes), int(table.level.max(initial=0)) + 1
    group = ((table.service * modes + table.mode) * levels + table.level) * len(Role) + table.role
    charge = charges(problem, table.service, table.traffic_gbyte, table.residency_s)
    return group, np.concatenate(columns, axis=1).astype(np.float64), charge, table.rate_rps


def _frontier(group: IntArray, amount: FloatArray, charge: FloatArray, rate: FloatArray) -> IntArray:
    """Return the rows left by a sort and a running maximum, whose work and memory are all but linear.

    The key joins the group and every coordinate but the one with the most distinct values; within a key a row stays if
    its rate exceeds that of every row whose remaining coordinate is no larger.
    """
    if len(group) == 0:
        return np.zeros(0, dtype=np.int64)
    ranks = [np.unique(column, return_inverse=True) for column in (*amount.T, *charge.T) if np.ptp(column) > 0]
    ranks.sort(key=lambda pair: len(pair[0]))
    free = ranks.pop()[1] if ranks else np.zeros(len(group), dtype=np.int64)
    values, key = np.unique(group, return_inverse=True)
    size = len(values)
    for values, rank in ranks:
        if size * len(values) >= _KEY_LIMIT // len(group):
            dense, key = np.unique(key, return_inverse=True)
            size = len(dense)
        key = key * len(values) + rank
        size *= len(values)
    order = np.lexsort((-rate, free, key))
    key = key[order]
    opens = np.diff(key, prepend=-1) != 0
    # Rates become ranks and keys offset them, so that one running maximum serves all keys.
    height = np.unique(rate, return_inverse=True)[1][order] + np.cumsum(opens) * len(group)
    ceiling = np.maximum.accumulate(height)
    stays = opens.copy()
    stays[1:] |= height[1:] > ceiling[:-1]
    return np.sort(order[stays])


def _cull(group: IntArray, amount: FloatArray, charge: FloatArray, rate: FloatArray) -> BoolArray:
    """Return which rows nothing replaces; rows come sorted so that whatever replaces a row stands before it."""
    stays = np.ones(len(group), dtype=np.bool_)
    starts = np.flatnonzero(np.diff(group, prepend=-1))
    sizes = np.diff(np.append(starts, len(group)))
    coordinates = (amount, charge, rate)
    # All pairs (earlier, later) of the small groups: the row at place j of its group has j earlier ones.
    place = np.arange(len(group)) - np.repeat(starts, sizes)
    place[np.repeat(sizes, sizes) > _SMALL_GROUP] = 0
    ends = np.cumsum(place)
    first = 0
    while first < len(group):
        base = int(ends[first] - place[first])
        last = max(int(np.searchsorted(ends, base + _BLOCK_PAIRS, side="right")), first + 1)
        count = place[first:last]
        later = np.repeat(np.arange(first, last), count)
        earlier = later - 1 - (np.arange(len(later)) - np.repeat(np.cumsum(count) - count, count))
        stays[later[_replaces(coordinates, earlier, later)]] = False
        first = last
    for start, size in zip(starts.tolist(), sizes.tolist(), strict=True):
        if size > _SMALL_GROUP:
            _cull_large(coordinates, start, start + size, stays)
    return stays


def _cull_large(
    coordinates: tuple[FloatArray, FloatArray, FloatArray], start: int, stop: int, stays: BoolArray
) -> None:
    """Clear `stays` of one group's replaced rows, in blocks against the survivors so far."""
    for first in range(start, stop, _SMALL_GROUP):
        block = np.arange(first, min(first + _SMALL_GROUP, stop))
        before = start + np.flatnonzero(stays[start:first])
        step = _BLOCK_PAIRS // len(block)
        for part in range(0, len(before), step):
            open_rows = block[stays[block]]
            some = before[part : part + step]
            earlier, later = np.repeat(some, len(open_rows)), np.tile(open_rows, len(some))
            stays[later[_replaces(coordinates, earlier, later)]] = False
        open_rows = block[stays[block]]
        i, j = np.triu_indices(len(open_rows), k=1)
        stays[open_rows[j[_replaces(coordinates, open_rows[i], open_rows[j])]]] = False


def _replaces(coordinates: tuple[FloatArray, FloatArray, FloatArray], earlier: IntArray, later: IntArray) -> BoolArray:
    """Return for which pairs some number of replicas of the earlier row takes the place of one of the later."""
    amount, charge, rate = coordinates
    copies = np.full(len(earlier), np.inf)
    for column in amount.T:
        taken, given = column[earlier], column[later]
        with np.errstate(divide="ignore", invalid="ignore"):
            copies = np.minimum(copies, np.where(taken > 0, np.floor(given / taken), np.inf))
    holds = (copies >= 1) & (copies * rate[earlier] >= rate[later])
    for column in amount.T:
        holds &= copies * column[earlier] <= column[later]
    for column in charge.T:
        holds &= column[earlier] <= column[later]
    return np.asarray(holds, dtype=np.bool_)
