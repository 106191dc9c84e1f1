"""What the constraint families build on: the integer counts, the paths they belong to, and the Pyomo model.

Index sets:

- S services, M modes, P GPU pools, T periods (one for now; every row that belongs to a period carries it last);
- R rows: options, and in `piecewise` also curve segments; each has one integer count n[r, t] of replicas;
- K paths: the (service, mode, level) triples for which every role has a row; a request goes through one path.

Capacity of row r is ``coefficient[r] x carrier[r, t]`` requests/s: rate x n for an option, tokens/s over tokens per
request for a segment.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from pyomo.core import ConcreteModel, NonNegativeIntegers, NonNegativeReals, Set, Var
from pyomo.core.expr.numeric_expr import LinearExpression

from formulations.table import BoolArray, FloatArray, IntArray, OptionTable, Problem, Role, gpus_by_pool

PERIODS = (0,)


@dataclass(frozen=True)
class Paths:
    """The (service, mode, level) triples that can serve.

    Attributes:
        service: (K,).
        mode: (K,).
        level: (K,).
        of_row: path of each row of the table, (R,); -1 where its path lacks a role.
    """

    service: IntArray
    mode: IntArray
    level: IntArray
    of_row: IntArray

    def __len__(self) -> int:
        """Return the number of paths."""
        return len(self.service)

    def triple(self, path: int) -> tuple[int, int, int]:
        """Return (service, mode, level) of a path."""
        return int(self.service[path]), int(self.mode[path]), int(self.level[path])


def find_paths(service: IntArray, mode: IntArray, level: IntArray, role: IntArray, usable: BoolArray) -> Paths:
    """Return the paths of rows; rows with `usable` false do not count and lie on none.

    A path needs a row that serves whole requests, or one for each of the two phases. Paths are in the order of
    (service, mode, level).
    """
    none = np.zeros(0, dtype=np.int64)
    rows = np.flatnonzero(usable)
    of_row = np.full(len(service), -1, dtype=np.int64)
    if len(rows) == 0:
        return Paths(none, none, none, of_row)
    modes, levels = int(mode.max()) + 1, int(level.max()) + 1
    key = (service[rows] * modes + mode[rows]) * levels + level[rows]
    unique, inverse = np.unique(key, return_inverse=True)
    has = np.zeros((len(unique), len(Role)), dtype=np.bool_)
    has[inverse, role[rows]] = True
    complete = has[:, Role.SERVE] | (has[:, Role.PREFILL] & has[:, Role.DECODE])
    number = np.where(complete, np.cumsum(complete) - 1, -1)
    of_row[rows] = number[inverse]
    kept = unique[complete]
    return Paths(kept // (modes * levels), kept // levels % modes, kept % levels, of_row)


def largest_counts(problem: Problem, items: IntArray, item_pool: IntArray, item_gpus: IntArray) -> IntArray:
    """Return how many replicas of each row the empty cluster could hold by its GPUs, (R,); 0: not even one.

    One replica is refused where one of its items finds no domain large enough, or where its whole-domain items need
    more domains than there are. Beyond that this is an upper bound, which is all it is used for.
    """
    gpus = gpus_by_pool(items, item_pool, item_gpus, len(problem.pools))
    with np.errstate(divide="ignore"):
        counts = np.where(gpus > 0, problem.pool_gpus[None, :] // np.maximum(gpus, 1), np.iinfo(np.int64).max)
    largest = counts.min(axis=1) if len(items) else np.zeros(0, dtype=np.int64)
    domain = problem.pool_domain[item_pool]
    full = problem.pool_gpus[item_pool] // domain
    widest = np.where(full > 0, domain, problem.pool_gpus[item_pool] % domain)
    homeless = (item_gpus <= domain) & (item_gpus > widest)
    domains_needed = np.where(item_gpus > domain, item_gpus // domain, 0)
    too_wide = (items * domains_needed[None, :] > full[None, :]).any(axis=1)
    largest[(items[:, homeless] > 0).any(axis=1) | too_wide] = 0
    return largest


@dataclass(frozen=True)
class Assembly:
    """The rows of a formulation together with its Pyomo model.

    Attributes:
        problem: the problem.
        paths: its paths; `paths.of_row` gives one for every row here.
        role: (R,).
        items: (R, I).
        item_pool: (I,).
        item_gpus: (I,).
        gpus: GPUs of one replica by pool, (R, P).
        largest: most replicas of each row, (R,).
        cost: (R,).
        traffic_gbyte: (R, P).
        residency_s: (R,).
        capacity_rps: bound on the request rate of one replica, (R,); the exact rate for an option.
        coefficient: requests/s per unit of the carrier, (R,).
        model: the Pyomo model, which holds vN[r, t], vRate[k, t], vY[s, m] and vW[k].
        carriers: name of the variable that carries a row's capacity, (R,): ("vN", r) or ("vTokens", r).
    """

    problem: Problem
    paths: Paths
    role: IntArray
    items: IntArray
    item_pool: IntArray
    item_gpus: IntArray
    gpus: IntArray
    largest: IntArray
    cost: FloatArray
    traffic_gbyte: FloatArray
    residency_s: FloatArray
    capacity_rps: FloatArray
    coefficient: FloatArray
    model: Any
    carriers: tuple[str, ...]

    @property
    def roles(self) -> list[tuple[int, Role, list[int]]]:
        """(path, role, rows) for every role that a path has, in order."""
        if len(self.role) == 0:
            return []
        order = np.lexsort((self.role, self.paths.of_row))
        key = self.paths.of_row[order] * len(Role) + self.role[order]
        starts = np.flatnonzero(np.diff(key, prepend=-1))
        return [
            (int(key[rows_start]) // len(Role), Role(int(key[rows_start]) % len(Role)), rows.tolist())
            for rows_start, rows in zip(starts, np.split(order, starts[1:]), strict=True)
        ]

    def carrier(self, row: int, period: int) -> Any:
        """Return the variable that carries the capacity of a row."""
        return getattr(self.model, self.carriers[row])[row, period]


def options_of(problem: Problem, table: OptionTable) -> tuple[OptionTable, IntArray, Paths, IntArray]:
    """Return the options that can be placed and lie on a complete path, their rows, the paths, and largest counts."""
    largest = largest_counts(problem, table.items, table.item_pool, table.item_gpus)
    usable = (largest > 0) & (table.rate_rps > 0)
    found = find_paths(table.service, table.mode, table.level, table.role, usable)
    rows = np.flatnonzero(found.of_row >= 0)
    kept = Paths(found.service, found.mode, found.level, found.of_row[rows])
    return table.take(rows), rows, kept, largest[rows]


def new_model(problem: Problem, paths: Paths, largest: IntArray) -> Any:
    """Return a Pyomo model with the sets and the variables that every formulation has.

    - vN[r, t]: replicas of row r, integer, 0 to largest[r];
    - vRate[k, t]: requests/s served along path k;
    - vY[s, m]: 1 if service s uses mode m;
    - vW[k]: 1 if path k is used.
    """
    model = ConcreteModel()
    model.sPeriods = Set(initialize=list(PERIODS))
    model.sRows = Set(initialize=range(len(largest)))
    model.sPaths = Set(initialize=range(len(paths)))
    pairs = sorted({(int(s), int(m)) for s, m in zip(paths.service, paths.mode, strict=True)})
    model.sServices = Set(initialize=range(len(problem.services)))
    model.sModes = Set(initialize=pairs, dimen=2)
    bounds = largest.tolist()
    model.vN = Var(
        model.sRows, model.sPeriods, domain=NonNegativeIntegers, bounds=lambda model, row, period: (0, bounds[row])
    )
    model.vRate = Var(model.sPaths, model.sPeriods, domain=NonNegativeReals)
    model.vY = Var(model.sModes, domain=NonNegativeIntegers, bounds=(0, 1))
    model.vW = Var(model.sPaths, domain=NonNegativeIntegers, bounds=(0, 1))
    return model


def linear(terms: list[tuple[float, Any]]) -> Any:
    """Return the Pyomo expression of (coefficient, variable) terms; zero coefficients are left out."""
    kept = [(float(coefficient), variable) for coefficient, variable in terms if coefficient != 0]
    return LinearExpression(linear_coefs=[c for c, _ in kept], linear_vars=[v for _, v in kept])
