"""Small random problems, and tables written out by hand."""

from math import inf, nan

import numpy as np
from hypothesis import strategies as st

from formulations.piecewise import CurveTable
from formulations.table import OptionTable, Problem


def problem(**given) -> Problem:
    """One service on one pool of 64 GPUs in nodes of 8, unless said otherwise."""
    services = given.get("services", ("chat",))
    pools = given.get("pools", ("gpu",))
    count, pool_count = len(services), len(pools)
    defaults = {
        "services": services,
        "modes": ("aggregated", "prefill_decode"),
        "pools": pools,
        "pool_gpus": [64] * pool_count,
        "pool_domain": [8] * pool_count,
        "weight": [1.0] * count,
        "output_tokens": [1.0] * count,
        "demand_rps": [nan] * count,
        "split": [False] * count,
        "fabric_gbyte_per_s": [inf] * pool_count,
        "sense": "maximize",
        "in_flight_cap": [nan] * count,
    }
    defaults.update(given)
    kinds = {"pool_gpus": np.int64, "pool_domain": np.int64, "split": np.bool_}
    for name in ("pool_gpus", "pool_domain", "weight", "output_tokens", "demand_rps", "split", "fabric_gbyte_per_s"):
        defaults[name] = np.array(defaults[name], dtype=kinds.get(name, np.float64))
    defaults["in_flight_cap"] = np.array(defaults["in_flight_cap"], dtype=np.float64)
    return Problem(**defaults)


def table(rows: list[dict], pools: int = 1) -> OptionTable:
    """A table of rows {service, mode, role, level, rate, items: {(pool, size): count}, cost, traffic, residency}."""
    types = sorted({item for row in rows for item in row["items"]})
    count = len(rows)
    items = np.zeros((count, len(types)), dtype=np.int64)
    for number, row in enumerate(rows):
        for item, times in row["items"].items():
            items[number, types.index(item)] = times
    return OptionTable(
        service=np.array([row.get("service", 0) for row in rows], dtype=np.int64),
        mode=np.array([row.get("mode", 0) for row in rows], dtype=np.int64),
        role=np.array([row.get("role", 0) for row in rows], dtype=np.int64),
        level=np.array([row.get("level", 0) for row in rows], dtype=np.int64),
        rate_rps=np.array([row["rate"] for row in rows], dtype=np.float64),
        items=items,
        item_pool=np.array([pool for pool, _ in types], dtype=np.int64),
        item_gpus=np.array([size for _, size in types], dtype=np.int64),
        cost=np.array([row.get("cost", 0.0) for row in rows], dtype=np.float64),
        traffic_gbyte=np.array([row.get("traffic", (0.0,) * pools) for row in rows], dtype=np.float64).reshape(
            count, pools
        ),
        residency_s=np.array([row.get("residency", 0.0) for row in rows], dtype=np.float64),
        label=np.arange(count, dtype=np.int64),
    )


@st.composite
def small(draw, coupled: bool = False) -> tuple[Problem, OptionTable]:
    """A problem small enough to enumerate: 1-2 services, pools, modes and levels, either sense, odd packings."""
    number = st.integers
    services, pools = draw(number(1, 2)), draw(number(1, 2))
    gpus = [draw(number(0 if pools > 1 else 2, 10 if pools == 1 else 7)) for _ in range(pools)]
    domain = [draw(st.sampled_from([2, 3, 4, 5, 8])) for _ in range(pools)]
    rows = []
    split_modes = [draw(st.booleans()) for _ in range(2)]
    for index in range(draw(number(services, 5))):
        mode = draw(number(0, 1))
        kinds = (1, 2) if split_modes[mode] else (0,)
        service, level = index % services, draw(number(0, 1))
        for role in kinds if draw(number(0, 7)) else kinds[:1]:
            items: dict[tuple[int, int], int] = {}
            for _ in range(draw(st.sampled_from([1, 1, 1, 2]))):
                pool = draw(number(0, pools - 1))
                size = draw(st.sampled_from([1, 1, 2, 2, 3, 3, 4, 5]))
                if size > domain[pool]:
                    size = domain[pool] * draw(number(1, 2))
                items[pool, size] = items.get((pool, size), 0) + draw(st.sampled_from([1, 1, 2]))
            rows.append(
                {
                    "service": service,
                    "mode": mode,
                    "role": role,
                    "level": level,
                    "rate": draw(st.sampled_from([0.0, 1.0, 1.5, 2.0, 3.0, 3.7, 5.0, 6.1, 8.0, 11.3])),
                    "items": items,
                    "cost": float(draw(number(1, 6))),
                    "traffic": tuple(draw(st.sampled_from([0.0, 0.5, 1.3])) for _ in range(pools)),
                    "residency": draw(st.sampled_from([0.0, 1.0, 2.5])),
                }
            )
    rows = rows[:6]
    sense = draw(st.sampled_from(["maximize", "minimize"]))
    demand = st.sampled_from([1.0, 2.5, 6.0, 9.0] if sense == "minimize" else [nan, nan, 2.5, 6.0])
    made = problem(
        services=tuple(f"s{index}" for index in range(services)),
        modes=("m0", "m1"),
        pools=tuple(f"p{index}" for index in range(pools)),
        pool_gpus=gpus,
        pool_domain=domain,
        weight=[draw(st.sampled_from([1.0, 2.0])) for _ in range(services)],
        output_tokens=[draw(st.sampled_from([1.0, 3.0])) for _ in range(services)],
        demand_rps=[draw(demand) for _ in range(services)],
        split=[draw(st.booleans()) for _ in range(services)],
        fabric_gbyte_per_s=[draw(st.sampled_from([inf, 2.0, 4.0])) if coupled else inf for _ in range(pools)],
        sense=sense,
        in_flight_cap=[draw(st.sampled_from([nan, 4.0, 10.0])) if coupled else nan for _ in range(services)],
    )
    return made, table(rows, pools)


@st.composite
def small_with_curves(draw) -> tuple[Problem, OptionTable, CurveTable]:
    """A small problem in which some decode and whole-request options have become curves of 1-3 segments."""
    made, options = draw(small(coupled=draw(st.booleans())))
    bends = np.array([draw(st.booleans()) and role != 1 for role in options.role], dtype=np.bool_)
    rows = np.flatnonzero(bends)
    segment_curve, low, high, piece_segment, alpha, beta = [], [], [], [], [], []
    for curve in range(len(rows)):
        batch = draw(st.sampled_from([0.0, 1.0, 2.5]))
        for _ in range(draw(st.integers(1, 3))):
            segment_curve.append(curve)
            low.append(batch)
            batch += draw(st.sampled_from([0.5, 1.0, 3.3, 8.0]))
            high.append(batch)
            for _ in range(draw(st.integers(1, 3))):
                piece_segment.append(len(segment_curve) - 1)
                alpha.append(draw(st.sampled_from([0.3, 1.0, 2.0])))
                beta.append(draw(st.sampled_from([0.0, 0.1, 0.4, 1.0])))
    curves = CurveTable(
        service=options.service[rows],
        mode=options.mode[rows],
        role=options.role[rows],
        level=options.level[rows],
        items=options.items[rows],
        cost=options.cost[rows],
        traffic_gbyte=options.traffic_gbyte[rows],
        residency_s=options.residency_s[rows],
        label=options.label[rows],
        steps_per_request=np.array([draw(st.sampled_from([0.5, 1.0, 2.0])) for _ in rows], dtype=np.float64),
        segment_curve=np.array(segment_curve, dtype=np.int64),
        batch_low=np.array(low, dtype=np.float64),
        batch_high=np.array(high, dtype=np.float64),
        piece_segment=np.array(piece_segment, dtype=np.int64),
        alpha_s=np.array(alpha, dtype=np.float64),
        beta_s=np.array(beta, dtype=np.float64),
    )
    return made, options.take(np.flatnonzero(~bends)), curves
