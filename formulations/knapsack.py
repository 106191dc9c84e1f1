"""One pool, one path: the most that every number of GPUs can serve, by dynamic programming over integer replicas.

For a role of a path, f(a) is the largest request rate of replicas that together take at most a GPUs (an unbounded
knapsack). A path on G GPUs then serves at most max_a min(f_prefill(a), f_decode(G - a)), or f(G) where it serves whole
requests. Packing, demand and the network only take away from that, so it is a valid link bound, tighter than the linear
relaxation's because replicas are whole; and its plan is a good one to start the search from.
"""

from dataclasses import dataclass

import numpy as np

from formulations.assembly import Assembly
from formulations.table import FloatArray, IntArray, Role

_MOST_STEPS = 20_000
"""steps of the recursion (GPUs x sizes) worth their time"""

_MOST_VALUES = 4_000_000
"""numbers held in memory"""


@dataclass(frozen=True)
class Knapsack:
    """Tables of one pool.

    Attributes:
        assembly: the rows.
        unit: GPUs per step of the tables: the greatest common divisor of the replica sizes.
        places: (path, role) -> line of `rate_rps`.
        rate_rps: largest rate on at most a units, (lines, units + 1).
        rows: for every line and size the row with the highest rate, (lines, sizes); -1 for none.
        sizes: units of a replica, (sizes,).
    """

    assembly: Assembly
    unit: int
    places: dict[tuple[int, int], int]
    rate_rps: FloatArray
    rows: IntArray
    sizes: IntArray

    def split(self, path: int, units: int) -> tuple[float, dict[int, int]]:
        """Return the best rate of a path on so many units, and the units of each of its roles."""
        if (path, Role.SERVE) in self.places:
            return float(self.rate_rps[self.places[path, Role.SERVE], units]), {Role.SERVE: units}
        prefill = self.rate_rps[self.places[path, Role.PREFILL], : units + 1]
        decode = self.rate_rps[self.places[path, Role.DECODE], : units + 1][::-1]
        both = np.minimum(prefill, decode)
        at = int(np.argmax(both))
        return float(both[at]), {Role.PREFILL: at, Role.DECODE: units - at}

    def replicas(self, path: int, role: int, units: int) -> dict[int, int]:
        """Return the replicas by row that reach the table's rate on so many units."""
        line = self.places[path, role]
        found: dict[int, int] = {}
        while units > 0:
            if self.rate_rps[line, units] == self.rate_rps[line, units - 1]:
                units -= 1
                continue
            for size, row in zip(self.sizes.tolist(), self.rows[line].tolist(), strict=True):
                reached = row >= 0 and size <= units
                if reached and self.rate_rps[line, units - size] + self._rate(row) == self.rate_rps[line, units]:
                    found[row] = found.get(row, 0) + 1
                    units -= size
                    break
        return found

    def _rate(self, row: int) -> float:
        return float(self.assembly.capacity_rps[row])


def tabulate(assembly: Assembly) -> Knapsack | None:
    """Return the tables, or None where rows use several pools or the tables would be too large."""
    pools = np.flatnonzero(assembly.gpus.any(axis=0))
    if len(pools) != 1:
        return None
    gpus = assembly.gpus[:, int(pools[0])]
    unit = int(np.gcd.reduce(gpus))
    sizes, which = np.unique(gpus // unit, return_inverse=True)
    units = int(assembly.problem.pool_gpus[int(pools[0])]) // unit
    lines = assembly.roles
    if units * len(sizes) > _MOST_STEPS or units * len(lines) > _MOST_VALUES:
        return None
    rows = np.full((len(lines), len(sizes)), -1, dtype=np.int64)
    best = np.full((len(lines), len(sizes)), -np.inf)
    for line, (_, _, members) in enumerate(lines):
        for row in members:
            if assembly.capacity_rps[row] > best[line, which[row]]:
                best[line, which[row]] = assembly.capacity_rps[row]
                rows[line, which[row]] = row
    rate = np.zeros((units + 1, len(lines)))
    for at in range(1, units + 1):
        value = rate[at - 1].copy()
        for position, size in enumerate(sizes.tolist()):
            if size > at:
                break
            np.maximum(value, rate[at - size] + best[:, position], out=value)
        rate[at] = value
    places = {(path, int(role)): line for line, (path, role, _) in enumerate(lines)}
    return Knapsack(assembly, unit, places, np.ascontiguousarray(rate.T), rows, sizes.astype(np.int64))


def start(table: Knapsack) -> dict[int, int]:
    """Return a plan as replicas by row of the assembly: each service on its best path, on an equal share of the rest.

    Empty where a service finds no room in its share. The plan holds inventory, mode, level and served; where packing
    forbids it, the solver ignores it.
    """
    paths = table.assembly.paths
    services = len(table.assembly.problem.services)
    free = table.rate_rps.shape[1] - 1
    plan: dict[int, int] = {}
    for service in range(services):
        mine = np.flatnonzero(paths.service == service).tolist()
        share = free // (services - service)
        rates = [table.split(path, share) for path in mine]
        best = max(range(len(mine)), key=lambda index: rates[index][0], default=-1)
        if best < 0 or rates[best][0] <= 0:
            return {}
        for role, units in rates[best][1].items():
            for row, count in table.replicas(mine[best], role, units).items():
                plan[row] = count
                free -= count * int(table.assembly.gpus[row].sum()) // table.unit
    return plan
