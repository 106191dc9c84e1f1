"""What a formulation is given: the problem and its table of options.

Rates are requests per second, traffic is gigabytes per request, fabric is gigabytes per second, residency is seconds,
and GPUs are counted. Nothing here knows what a GPU or a model is.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


class Role(IntEnum):
    """What a replica does for the requests of its path."""

    SERVE = 0
    """serves whole requests"""
    PREFILL = 1
    DECODE = 2


@dataclass(frozen=True)
class Problem:
    """Everything but the options.

    Attributes:
        services: names of the services, S of them.
        modes: names of the serving modes, M of them.
        pools: names of the GPU pools, P of them.
        pool_gpus: GPUs in each pool, (P,).
        pool_domain: GPUs in one packing domain (a node or a scale-up domain) of each pool, (P,). A pool holds
            ``pool_gpus // pool_domain`` full domains and one smaller domain of the remainder.
        weight: weight of each service in a maximum, (S,).
        output_tokens: output tokens per request, (S,).
        demand_rps: requests per second, (S,); a cap in a maximum, a floor in a minimum; nan for none.
        split: whether a service may use several modes and levels at once, (S,).
        fabric_gbyte_per_s: capacity of each pool's scale-out fabric, (P,); inf never binds.
        sense: maximise weighted output tokens per second, or minimise the cost of the replicas.
        in_flight_cap: most requests in flight per service (closed loop), (S,); nan for none.
        min_replicas: fewest replicas of each role on a path in use, (S,); None for one each.
    """

    services: tuple[str, ...]
    modes: tuple[str, ...]
    pools: tuple[str, ...]
    pool_gpus: IntArray
    pool_domain: IntArray
    weight: FloatArray
    output_tokens: FloatArray
    demand_rps: FloatArray
    split: BoolArray
    fabric_gbyte_per_s: FloatArray
    sense: Literal["maximize", "minimize"]
    in_flight_cap: FloatArray
    min_replicas: IntArray | None = None

    def __post_init__(self) -> None:
        """Refuse arrays of the wrong length and numbers without meaning (ValueError)."""
        for name in ("pool_gpus", "pool_domain", "fabric_gbyte_per_s"):
            _expect_shape(name, getattr(self, name), (len(self.pools),))
        for name in ("weight", "output_tokens", "demand_rps", "split", "in_flight_cap"):
            _expect_shape(name, getattr(self, name), (len(self.services),))
        _expect_shape("min_replicas", self.least_replicas, (len(self.services),))
        if np.any(self.least_replicas < 1):
            raise ValueError("min_replicas must be >= 1")
        if self.sense not in ("maximize", "minimize"):
            raise ValueError(f"sense is maximize or minimize, not {self.sense!r}")
        if np.any(self.pool_gpus < 0) or np.any(self.pool_domain < 1):
            raise ValueError("pool_gpus must be >= 0 and pool_domain >= 1")
        if np.any(np.isnan(self.fabric_gbyte_per_s)) or np.any(self.fabric_gbyte_per_s < 0):
            raise ValueError("fabric_gbyte_per_s must be >= 0 (inf where it never binds)")
        for name in ("weight", "output_tokens"):
            values = getattr(self, name)
            if not np.all(np.isfinite(values)) or np.any(values < 0):
                raise ValueError(f"{name} must be finite and >= 0")
        for name in ("demand_rps", "in_flight_cap"):
            values = getattr(self, name)
            if np.any(values < 0) or np.any(np.isinf(values)):
                raise ValueError(f"{name} must be finite and >= 0, or nan for none")
        if self.sense == "minimize" and np.any(np.isnan(self.demand_rps)):
            raise ValueError("a minimum needs demand_rps for every service")

    @property
    def least_replicas(self) -> IntArray:
        """Fewest replicas of each role on a path in use, (S,)."""
        if self.min_replicas is None:
            return np.ones(len(self.services), dtype=np.int64)
        return self.min_replicas

    @property
    def value_per_request(self) -> FloatArray:
        """Objective of one request per second in a maximum, (S,): weight x output tokens."""
        return self.weight * self.output_tokens


@dataclass(frozen=True)
class OptionTable:
    """A struct of arrays, one row per option, N rows, I item types.

    Attributes:
        service: index of the service, (N,).
        mode: index of the mode, (N,).
        role: a `Role`, (N,). One mode of one service either serves whole requests or splits them, never both.
        level: index of a TTFT level within (service, mode), (N,); an option usable at several stands once per level.
        rate_rps: requests per second of one replica, (N,).
        items: packing items one replica takes, by item type, (N, I).
        item_pool: pool of each item type, (I,).
        item_gpus: GPUs of one item of each type, (I,). An item of at most a domain lies inside one domain; a larger
            one takes whole domains, and its size must be a multiple of the domain.
        cost: coefficient of one replica in a minimum, (N,); any unit, one for the whole table.
        traffic_gbyte: scale-out bytes of one served request on each pool's fabric, (N, P).
        residency_s: seconds one request spends in the role, (N,).
        label: the caller's own row id, (N,), carried through.
    """

    service: IntArray
    mode: IntArray
    role: IntArray
    level: IntArray
    rate_rps: FloatArray
    items: IntArray
    item_pool: IntArray
    item_gpus: IntArray
    cost: FloatArray
    traffic_gbyte: FloatArray
    residency_s: FloatArray
    label: IntArray

    def __post_init__(self) -> None:
        """Refuse arrays of the wrong shape and numbers without meaning (ValueError)."""
        rows = len(self.service)
        for name in ("service", "mode", "role", "level", "rate_rps", "cost", "residency_s", "label"):
            _expect_shape(name, getattr(self, name), (rows,))
        _expect_shape("item_gpus", self.item_gpus, (len(self.item_pool),))
        _expect_shape("items", self.items, (rows, len(self.item_pool)))
        if self.traffic_gbyte.ndim != 2 or len(self.traffic_gbyte) != rows:
            raise ValueError(f"traffic_gbyte has shape {self.traffic_gbyte.shape}, expected ({rows}, pools)")
        if np.any(self.item_gpus < 1):
            raise ValueError("item_gpus must be >= 1")
        if rows == 0:
            return
        for name in ("rate_rps", "cost", "traffic_gbyte", "residency_s"):
            values = getattr(self, name)
            if not np.all(np.isfinite(values)) or np.any(values < 0):
                raise ValueError(f"{name} must be finite and >= 0")
        for name in ("service", "mode", "level", "items"):
            if np.any(getattr(self, name) < 0):
                raise ValueError(f"{name} must be >= 0")
        if not np.all(np.isin(self.role, [int(role) for role in Role])):
            raise ValueError("role must be one of Role")
        if np.any(self.items.max(axis=1, initial=0) == 0):
            raise ValueError("every option takes at least one item")

    def __len__(self) -> int:
        """Return the number of options."""
        return len(self.service)

    def take(self, rows: IntArray) -> "OptionTable":
        """Return the table of the given rows, in their order."""
        return OptionTable(
            service=self.service[rows],
            mode=self.mode[rows],
            role=self.role[rows],
            level=self.level[rows],
            rate_rps=self.rate_rps[rows],
            items=self.items[rows],
            item_pool=self.item_pool,
            item_gpus=self.item_gpus,
            cost=self.cost[rows],
            traffic_gbyte=self.traffic_gbyte[rows],
            residency_s=self.residency_s[rows],
            label=self.label[rows],
        )


def gpus_by_pool(items: IntArray, item_pool: IntArray, item_gpus: IntArray, pools: int) -> IntArray:
    """Return the GPUs that one replica takes of each pool, (N, pools)."""
    gpus = np.zeros((len(items), pools), dtype=np.int64)
    for item, (pool, size) in enumerate(zip(item_pool.tolist(), item_gpus.tolist(), strict=True)):
        gpus[:, pool] += items[:, item] * size
    return gpus


def check(problem: Problem, table: OptionTable) -> None:
    """Refuse a table that does not belong to the problem.

    Raises:
        ValueError: an index outside the problem, an item that is neither within a domain nor whole domains, or a mode
            that both serves whole requests and splits them.
    """
    pools = len(problem.pools)
    _expect_shape("traffic_gbyte", table.traffic_gbyte, (len(table), pools))
    if np.any(table.item_pool < 0) or np.any(table.item_pool >= pools):
        raise ValueError(f"item_pool outside the {pools} pools")
    domain = problem.pool_domain[table.item_pool]
    broken = np.flatnonzero((table.item_gpus > domain) & (table.item_gpus % domain != 0))
    if len(broken):
        item = int(broken[0])
        raise ValueError(
            f"an item of {table.item_gpus[item]} GPUs on pool {problem.pools[table.item_pool[item]]!r} is larger than "
            f"its domain of {domain[item]} and not a multiple of it"
        )
    if len(table) == 0:
        return
    if table.service.max() >= len(problem.services) or table.mode.max() >= len(problem.modes):
        raise ValueError("service or mode outside the problem")
    group = table.service * len(problem.modes) + table.mode
    serves = table.role == Role.SERVE
    mixed = np.intersect1d(group[serves], group[~serves])
    if len(mixed):
        service, mode = divmod(int(mixed[0]), len(problem.modes))
        raise ValueError(
            f"mode {problem.modes[mode]!r} of service {problem.services[service]!r} both serves whole requests and "
            "splits them"
        )


def _expect_shape(name: str, array: NDArray[np.generic], shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise ValueError(f"{name} has shape {array.shape}, expected {shape}")
