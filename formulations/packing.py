"""Packing: items lie inside domains, and a sum of GPUs does not see that.

An item of size <= the domain lies inside one domain of its pool; a larger one (a multiple of the domain) takes whole
domains. A pool of G GPUs in domains of d holds q = G // d full domains and one of the remainder G - q d.

**Where the inventory row is exact, nothing is added.** Let the item sizes in use up to d, together with d, form a
divisor chain (each divides the next). Then any integer counts with sum of GPUs <= G can be packed: place the items
largest first. For a size s, all larger items and the domain are multiples of s, so the GPUs of items >= s are a
multiple of s and, being <= G, are at most floor(G / s) s = (q d / s + floor((G - q d) / s)) s, the places of size s
that exist once everything larger is placed on multiples of s. Whole-domain items are the case s = d. A pool of at most
one domain needs nothing either: whatever sums to G fits it.

**Otherwise**, per pool g, with J the maximal multisets (patterns) of item sizes that fit a full domain, J' those that
fit the remainder, a[j, i] the count of item type i in pattern j::

    z[j, t], j in J      integer: full domains cut by pattern j
    z'[j, t], j in J'    integer: remainder domains (0 or 1) cut by pattern j

    cPackDomains[g, t]:    sum_J z[j, t] + sum_{i: size_i > d} (size_i / d) sum_r items[r, i] n[r, t]  <=  q
    cPackRemainder[g, t]:  sum_J' z'[j, t]  <=  1
    cPackItems[i, t]:      sum_r items[r, i] n[r, t]  <=  sum_J a[j, i] z[j, t] + sum_J' a[j, i] z'[j, t]

The first two count domains, the last counts items.

Maximal patterns suffice because a place may stay empty. Sets: R rows, I item types of one pool, T periods.
"""

from collections.abc import Iterator
from itertools import islice, pairwise

import numpy as np
from pyomo.core import Constraint, NonNegativeIntegers, Set, Var

from formulations.assembly import Assembly, linear
from formulations.table import BoolArray, IntArray, Problem

PATTERN_LIMIT = 20_000
"""most patterns of one pool"""


def needs_patterns(problem: Problem, items: IntArray, item_pool: IntArray, item_gpus: IntArray) -> BoolArray:
    """Return for which pools the sum of GPUs is not enough, given the items that the rows use, (P,)."""
    used = items.any(axis=0) if len(items) else np.zeros(len(item_pool), dtype=np.bool_)
    needed = np.zeros(len(problem.pools), dtype=np.bool_)
    for pool, domain in enumerate(problem.pool_domain.tolist()):
        sizes = np.unique(item_gpus[used & (item_pool == pool) & (item_gpus <= domain)]).tolist()
        chain = [*sizes, domain]
        broken = any(larger % smaller for smaller, larger in pairwise(chain))
        needed[pool] = broken and problem.pool_gpus[pool] > domain
    return needed


def maximal_patterns(capacity: int, sizes: list[int]) -> Iterator[tuple[int, ...]]:
    """Yield the multisets of sizes that fit the capacity and to which nothing can be added, as counts per size.

    Args:
        capacity: GPUs of the domain.
        sizes: distinct sizes, descending.
    """
    if not sizes:
        return
    if len(sizes) == 1:
        yield (capacity // sizes[0],)
        return
    for count in range(capacity // sizes[0], -1, -1):
        for rest in maximal_patterns(capacity - count * sizes[0], sizes[1:]):
            yield (count, *rest)


def add(assembly: Assembly) -> None:
    """Add pattern variables and rows for the pools that need them.

    Raises:
        ValueError: a pool has more than `PATTERN_LIMIT` patterns.
    """
    model, problem = assembly.model, assembly.problem
    pools = np.flatnonzero(needs_patterns(problem, assembly.items, assembly.item_pool, assembly.item_gpus)).tolist()
    cuts = [_cuts(assembly, pool) for pool in pools]
    model.sFullPatterns = Set(
        initialize=[(pool, j) for pool, (_, full, _) in zip(pools, cuts, strict=True) for j in range(len(full))],
        dimen=2,
    )
    model.sRestPatterns = Set(
        initialize=[(pool, j) for pool, (_, _, rest) in zip(pools, cuts, strict=True) for j in range(len(rest))],
        dimen=2,
    )
    model.vFullPattern = Var(model.sFullPatterns, model.sPeriods, domain=NonNegativeIntegers)
    model.vRestPattern = Var(model.sRestPatterns, model.sPeriods, domain=NonNegativeIntegers, bounds=(0, 1))
    model.cPackDomains = Constraint(pools, model.sPeriods)
    model.cPackRemainder = Constraint(pools, model.sPeriods)
    model.cPackItems = Constraint(range(len(assembly.item_pool)), model.sPeriods)
    for pool, (types, full, rest) in zip(pools, cuts, strict=True):
        for period in model.sPeriods:
            _add_pool(assembly, pool, period, types, full, rest)


def _cuts(assembly: Assembly, pool: int) -> tuple[list[int], list[tuple[int, ...]], list[tuple[int, ...]]]:
    """Return the item types of a pool that lie inside a domain, descending, and the patterns of both domain kinds."""
    problem = assembly.problem
    domain = int(problem.pool_domain[pool])
    inside = assembly.items.any(axis=0) & (assembly.item_pool == pool) & (assembly.item_gpus <= domain)
    sizes = np.unique(assembly.item_gpus[inside])[::-1].tolist()
    full_domains, remainder = divmod(int(problem.pool_gpus[pool]), domain)
    patterns = []
    for capacity in (domain if full_domains else 0, remainder):
        fitting = [size for size in sizes if size <= capacity]
        cut = list(islice(maximal_patterns(capacity, fitting), PATTERN_LIMIT + 1))
        if len(cut) > PATTERN_LIMIT:
            raise ValueError(
                f"pool {problem.pools[pool]!r}: items of {len(fitting)} sizes fit a domain of {capacity} GPUs in more "
                f"than {PATTERN_LIMIT} ways; offer fewer sizes"
            )
        patterns.append([(0,) * (len(sizes) - len(fitting)) + counts for counts in cut])
    # Item types of equal size on one pool share their places.
    types = [int(np.flatnonzero(inside & (assembly.item_gpus == size))[0]) for size in sizes]
    return types, patterns[0], patterns[1]


def _add_pool(
    assembly: Assembly,
    pool: int,
    period: int,
    types: list[int],
    full: list[tuple[int, ...]],
    rest: list[tuple[int, ...]],
) -> None:
    model, problem = assembly.model, assembly.problem
    domain = int(problem.pool_domain[pool])
    on_pool = assembly.item_pool == pool
    whole = np.where(on_pool & (assembly.item_gpus > domain), assembly.item_gpus // domain, 0)
    taken = assembly.items @ whole
    terms = [(1.0, model.vFullPattern[pool, j, period]) for j in range(len(full))]
    terms += [(taken[row], model.vN[row, period]) for row in np.flatnonzero(taken).tolist()]
    full_domains = float(problem.pool_gpus[pool] // domain)
    model.cPackDomains.add((pool, period), (None, linear(terms), full_domains))
    if rest:
        terms = [(1.0, model.vRestPattern[pool, j, period]) for j in range(len(rest))]
        model.cPackRemainder.add((pool, period), (None, linear(terms), 1.0))
    for position, item in enumerate(types):
        same = on_pool & (assembly.item_gpus == assembly.item_gpus[item])
        counts = assembly.items[:, same].sum(axis=1)
        terms = [(counts[row], model.vN[row, period]) for row in np.flatnonzero(counts).tolist()]
        terms += [(-cut[position], model.vFullPattern[pool, j, period]) for j, cut in enumerate(full)]
        terms += [(-cut[position], model.vRestPattern[pool, j, period]) for j, cut in enumerate(rest)]
        model.cPackItems.add((item, period), (None, linear(terms), 0.0))
