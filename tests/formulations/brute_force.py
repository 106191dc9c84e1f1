"""The optimum of a small problem by enumerating every plan, in plain Python and without the package's code.

A plan picks paths (service, mode, level) for every service, replica counts of the options on them, and packs the items
into domains one by one. Only the best served rates for given replicas are a small linear program, which is solved by
visiting its vertices, and only where traffic or requests in flight couple the rates.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import chain, combinations, product
from math import isfinite, isnan

import numpy as np

SERVE, PREFILL, DECODE = 0, 1, 2
EPSILON = 1e-9


@dataclass(frozen=True)
class Option:
    """One option in plain Python: items is a tuple of (pool, size)."""

    service: int
    mode: int
    role: int
    level: int
    rate: float
    items: tuple[tuple[int, int], ...]
    cost: float
    traffic: tuple[float, ...]
    residency: float

    @property
    def path(self) -> tuple[int, int, int]:
        return self.service, self.mode, self.level


@cache
def fits(items: tuple[int, ...], gpus: int, domain: int) -> bool:
    """Whether items (sizes, descending) can be placed in the domains of a pool."""
    return _place(items, (domain,) * (gpus // domain) + ((gpus % domain,) if gpus % domain else ()), domain)


@cache
def _place(items: tuple[int, ...], free: tuple[int, ...], domain: int) -> bool:
    if not items:
        return True
    size, rest = items[0], items[1:]
    if size > domain:
        empty = [place for place, room in enumerate(free) if room == domain]
        taken = size // domain
        if len(empty) < taken:
            return False
        left = tuple(room for place, room in enumerate(free) if place not in empty[:taken])
        return _place(rest, left, domain)
    for place, room in enumerate(free):
        if room >= size and room not in free[:place]:
            left = tuple(sorted((*free[:place], room - size, *free[place + 1 :]), reverse=True))
            if _place(rest, left, domain):
                return True
    return False


def options_of(table) -> list[Option]:
    """Read a table into plain Python, leaving out options that serve nothing."""
    found = []
    for row in range(len(table.service)):
        items = []
        for item in range(len(table.item_pool)):
            items += [(int(table.item_pool[item]), int(table.item_gpus[item]))] * int(table.items[row, item])
        found.append(
            Option(
                int(table.service[row]),
                int(table.mode[row]),
                int(table.role[row]),
                int(table.level[row]),
                float(table.rate_rps[row]),
                tuple(items),
                float(table.cost[row]),
                tuple(float(value) for value in table.traffic_gbyte[row]),
                float(table.residency_s[row]),
            )
        )
    return [option for option in found if option.rate > 0]


def optimum(problem, table, more: tuple[Option, ...] = ()) -> float | None:
    """Return the optimal objective over the table and more options, or None where no plan exists."""
    options = [*options_of(table), *more]
    best: float | None = None
    for chosen in path_choices(problem, options):
        mine = [option for option in options if option.path in chosen]
        for counts in count_vectors(problem, mine):
            if not every_role_served(chosen, mine, counts):
                continue
            if problem.sense == "minimize":
                cost = sum(count * option.cost for count, option in zip(counts, mine, strict=True))
                if (best is None or cost < best - EPSILON) and meets_demand(problem, mine, counts):
                    best = cost
                continue
            ceiling = uncoupled_value(problem, chosen, mine, counts)
            if best is not None and ceiling <= best + EPSILON:
                continue
            value = ceiling if not coupled(problem) else served(problem, mine, counts)
            if value is not None and (best is None or value > best):
                best = value
    return best


def path_choices(problem, options: list[Option]) -> Iterator[frozenset[tuple[int, int, int]]]:
    """Every choice of paths: one per service, or any non-empty set where it may split."""
    per_service = []
    for service in range(len(problem.services)):
        paths = sorted(
            path
            for path in {option.path for option in options if option.service == service}
            if {SERVE} <= roles(options, path) or {PREFILL, DECODE} <= roles(options, path)
        )
        sizes = range(1, len(paths) + 1) if problem.split[service] else (1,)
        per_service.append(list(chain.from_iterable(combinations(paths, size) for size in sizes)))
    for choice in product(*per_service):
        yield frozenset(chain.from_iterable(choice))


def roles(options: list[Option], path: tuple[int, int, int]) -> set[int]:
    return {option.role for option in options if option.path == path}


def count_vectors(problem, options: list[Option]) -> Iterator[tuple[int, ...]]:
    """Every vector of replica counts whose items can be placed."""

    def placed(counts: tuple[int, ...]) -> bool:
        for pool in range(len(problem.pools)):
            sizes = []
            for count, option in zip(counts, options, strict=False):
                sizes += [size for where, size in option.items if where == pool] * count
            if sum(sizes) > problem.pool_gpus[pool]:
                return False
            if not fits(
                tuple(sorted(sizes, reverse=True)), int(problem.pool_gpus[pool]), int(problem.pool_domain[pool])
            ):
                return False
        return True

    def extend(counts: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        if len(counts) == len(options):
            yield counts
            return
        count = 0
        while placed((*counts, count)):
            yield from extend((*counts, count))
            count += 1

    yield from extend(())


def every_role_served(chosen, options: list[Option], counts: tuple[int, ...]) -> bool:
    for path in chosen:
        for role in roles(options, path):
            if not any(c for c, o in zip(counts, options, strict=True) if o.path == path and o.role == role):
                return False
    return True


def coupled(problem) -> bool:
    return any(isfinite(f) for f in problem.fabric_gbyte_per_s) or any(not isnan(c) for c in problem.in_flight_cap)


def path_capacity(path, options: list[Option], counts: tuple[int, ...]) -> float:
    return min(
        sum(c * o.rate for c, o in zip(counts, options, strict=True) if o.path == path and o.role == role)
        for role in roles(options, path)
    )


def uncoupled_value(problem, chosen, options: list[Option], counts: tuple[int, ...]) -> float:
    """Value of a plan if only capacity and demand limited it."""
    value = 0.0
    for service in range(len(problem.services)):
        rate = sum(path_capacity(path, options, counts) for path in chosen if path[0] == service)
        if not isnan(problem.demand_rps[service]):
            rate = min(rate, float(problem.demand_rps[service]))
        value += float(problem.weight[service] * problem.output_tokens[service]) * rate
    return value


def served(problem, options: list[Option], counts: tuple[int, ...], *, exactly: bool = False) -> float | None:
    """Best value over the served rate of every option, by vertices; `exactly` demands every service's demand."""
    used = [(option, count) for option, count in zip(options, counts, strict=True) if count]
    size = len(used)
    inside: list[tuple[list[float], float]] = []
    equal: list[tuple[list[float], float]] = []
    for index, (option, count) in enumerate(used):
        unit = [float(index == other) for other in range(size)]
        inside += [(unit, count * option.rate), ([-x for x in unit], 0.0)]
    for path in {option.path for option, _ in used}:
        if roles(options, path) == {PREFILL, DECODE}:
            sign = {PREFILL: 1.0, DECODE: -1.0}
            equal.append(([sign[o.role] if o.path == path else 0.0 for o, _ in used], 0.0))
    value = [0.0] * size
    for service in range(len(problem.services)):
        counted = [float(o.service == service and o.role != DECODE) for o, _ in used]
        price = float(problem.weight[service] * problem.output_tokens[service])
        value = [v + price * c for v, c in zip(value, counted, strict=True)]
        demand, cap = float(problem.demand_rps[service]), float(problem.in_flight_cap[service])
        if exactly:
            equal.append((counted, demand))
        elif not isnan(demand):
            inside.append((counted, demand))
        if not isnan(cap):
            inside.append(([o.residency * (o.service == service) for o, _ in used], cap))
    for pool, fabric in enumerate(problem.fabric_gbyte_per_s):
        if isfinite(fabric):
            inside.append(([o.traffic[pool] for o, _ in used], float(fabric)))
    return best_vertex(np.array(value), inside, equal)


def best_vertex(value, inside, equal) -> float | None:
    """Maximise value @ x over rows `inside` (<=) and `equal`, bounded, by visiting every vertex."""
    size = len(value)
    left = np.array([row for row, _ in inside])
    right = np.array([bound for _, bound in inside])
    tied = np.array([row for row, _ in equal]).reshape(-1, size)
    level = np.array([bound for _, bound in equal])
    rank = int(np.linalg.matrix_rank(tied)) if len(tied) else 0
    best = None
    for active in combinations(range(len(inside)), size - rank):
        matrix = np.vstack((tied, left[list(active)]))
        target = np.concatenate((level, right[list(active)]))
        point, _, found, _ = np.linalg.lstsq(matrix, target, rcond=None)
        if found < size or np.any(np.abs(matrix @ point - target) > 1e-8) or np.any(left @ point > right + 1e-8):
            continue
        if best is None or value @ point > best:
            best = float(value @ point)
    return best


def meets_demand(problem, options: list[Option], counts: tuple[int, ...]) -> bool:
    paths = {option.path for option, count in zip(options, counts, strict=True) if count}
    for service in range(len(problem.services)):
        rate = sum(path_capacity(path, options, counts) for path in paths if path[0] == service)
        if rate < problem.demand_rps[service] - EPSILON:
            return False
    return not coupled(problem) or served(problem, options, counts, exactly=True) is not None


def curve_options(table, curves) -> tuple[Option, ...]:
    """Every curve as one option at the best batch over its segments: n replicas serve n times what one serves."""
    found = []
    for curve in range(len(curves.service)):
        tokens = 0.0
        for segment in range(len(curves.segment_curve)):
            if curves.segment_curve[segment] == curve:
                pieces = [
                    (float(curves.alpha_s[piece]), float(curves.beta_s[piece]))
                    for piece in range(len(curves.piece_segment))
                    if curves.piece_segment[piece] == segment
                ]
                low, high = float(curves.batch_low[segment]), float(curves.batch_high[segment])
                tokens = max(tokens, best_tokens_per_s(pieces, low, high))
        items = []
        for item in range(len(table.item_pool)):
            items += [(int(table.item_pool[item]), int(table.item_gpus[item]))] * int(curves.items[curve, item])
        found.append(
            Option(
                int(curves.service[curve]),
                int(curves.mode[curve]),
                int(curves.role[curve]),
                int(curves.level[curve]),
                tokens / float(curves.steps_per_request[curve]),
                tuple(items),
                float(curves.cost[curve]),
                tuple(float(value) for value in curves.traffic_gbyte[curve]),
                float(curves.residency_s[curve]),
            )
        )
    return tuple(option for option in found if option.rate > 0)


def best_tokens_per_s(pieces: list[tuple[float, float]], low: float, high: float) -> float:
    """Largest batch / max(alpha + beta batch) on [low, high], by ternary search: it is quasi-concave in the batch."""

    def tokens(batch: float) -> float:
        return batch / max(alpha + beta * batch for alpha, beta in pieces)

    best = max(tokens(low), tokens(high))
    for _ in range(200):
        left, right = low + (high - low) / 3, high - (high - low) / 3
        if tokens(left) < tokens(right):
            low = left
        else:
            high = right
    return max(best, tokens((low + high) / 2))
