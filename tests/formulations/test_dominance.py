"""Pruning: who replaces whom, order independence, and memory."""

import tracemalloc

import numpy as np
import pytest

from formulations.dominance import prune
from formulations.table import OptionTable
from tests.formulations.instances import problem, table


def option(rate: float, *items: tuple[int, int, int], **more):
    """Row of the given rate and (pool, size, count) items."""
    return {"rate": rate, "items": {(pool, size): count for pool, size, count in items}, **more}


@pytest.mark.parametrize(
    ("rows", "given", "kept"),
    [
        # A smaller replica that serves more.
        ([option(5, (0, 8, 1)), option(6, (0, 4, 1))], {}, [1]),
        ([option(5, (0, 4, 1)), option(11, (0, 8, 1))], {}, [0, 1]),
        # Two small ones for a large one; the first of equals stays.
        ([option(5, (0, 4, 1)), option(10, (0, 8, 1)), option(10.1, (0, 8, 1))], {}, [0, 2]),
        ([option(5, (0, 4, 1)), option(5, (0, 4, 1))], {}, [0]),
        # Level, role, mode and service keep options apart.
        ([option(5, (0, 4, 1)), option(4, (0, 4, 1), level=1)], {}, [0, 1]),
        ([option(5, (0, 4, 1), role=1, mode=1), option(4, (0, 4, 1), role=2, mode=1)], {}, [0, 1]),
        ([option(5, (0, 4, 1)), option(4, (0, 4, 1), mode=1)], {}, [0, 1]),
        ([option(5, (0, 4, 1)), option(4, (0, 4, 1), service=1)], {"services": ("a", "b")}, [0, 1]),
        # Pools are separate resources; using less of one and nothing of the other replaces.
        ([option(5, (0, 4, 1)), option(4, (1, 4, 1))], {"pools": ("a", "b")}, [0, 1]),
        ([option(5, (0, 4, 1)), option(4, (0, 4, 1), (1, 1, 1))], {"pools": ("a", "b")}, [0]),
        # Cost counts in a minimum only, and so many times as there are replicas.
        ([option(5, (0, 4, 1), cost=2.0), option(4, (0, 4, 1), cost=1.0)], {}, [0]),
        (
            [option(5, (0, 4, 1), cost=2.0), option(4, (0, 4, 1), cost=1.0)],
            {"sense": "minimize", "demand_rps": [1.0]},
            [0, 1],
        ),
        (
            [option(5, (0, 4, 1), cost=2.0), option(9, (0, 8, 1), cost=3.0)],
            {"sense": "minimize", "demand_rps": [1.0]},
            [0, 1],
        ),
        (
            [option(5, (0, 4, 1), cost=2.0), option(9, (0, 8, 1), cost=4.0)],
            {"sense": "minimize", "demand_rps": [1.0]},
            [0],
        ),
        # Traffic on a fabric that can bind, residency where there is a cap.
        ([option(5, (0, 4, 1), traffic=(1.0,)), option(4, (0, 4, 1))], {}, [0]),
        ([option(5, (0, 4, 1), traffic=(1.0,)), option(4, (0, 4, 1))], {"fabric_gbyte_per_s": [1.0]}, [0, 1]),
        ([option(5, (0, 4, 1), residency=1.0), option(4, (0, 4, 1))], {}, [0]),
        ([option(5, (0, 4, 1), residency=1.0), option(4, (0, 4, 1))], {"in_flight_cap": [1.0]}, [0, 1]),
        # Traffic is per request: two replicas in place of one do not double it.
        (
            [option(5, (0, 4, 1), traffic=(1.0,)), option(10, (0, 8, 1), traffic=(1.0,))],
            {"fabric_gbyte_per_s": [1.0]},
            [0],
        ),
        # In domains of 5, sizes 2 and 3 need patterns: two items of 2 do not find a place in one of 4, but one does.
        ([option(5, (0, 2, 2)), option(4, (0, 4, 1)), option(3, (0, 3, 1))], {"pool_domain": [5]}, [0, 1, 2]),
        ([option(5, (0, 2, 1)), option(4, (0, 3, 1))], {"pool_domain": [5]}, [0]),
        ([option(5, (0, 2, 1)), option(10, (0, 2, 1), (0, 3, 1))], {"pool_domain": [5]}, [0]),
        # What cannot be placed, or serves nothing, goes.
        ([option(5, (0, 8, 1)), option(0, (0, 4, 1))], {"pool_gpus": [4]}, []),
    ],
)
def test_who_replaces_whom(rows, given, kept):
    made = problem(**given)
    assert prune(made, table(rows, len(made.pools))).tolist() == kept


def random_table(rows: int, seed: int, *, services: int = 4, pools: int = 2) -> tuple[OptionTable, dict]:
    rng = np.random.default_rng(seed)
    sizes = np.array([1, 2, 4, 8, 16, 24])
    types = len(sizes) * pools
    items = np.zeros((rows, types), dtype=np.int64)
    picked = rng.integers(0, types, rows)
    items[np.arange(rows), picked] = 1
    item_gpus = np.tile(sizes, pools)
    gpus = item_gpus[picked]
    made = OptionTable(
        service=rng.integers(0, services, rows),
        mode=np.zeros(rows, dtype=np.int64),
        role=np.zeros(rows, dtype=np.int64),
        level=rng.integers(0, 3, rows),
        rate_rps=np.round(gpus**1.1 * rng.uniform(0.5, 1.5, rows), 2),
        items=items,
        item_pool=np.repeat(np.arange(pools), len(sizes)),
        item_gpus=item_gpus,
        cost=gpus * 2.0,
        traffic_gbyte=np.round(rng.uniform(0, 1, (rows, pools)), 1),
        residency_s=np.round(rng.uniform(1, 9, rows), 1),
        label=np.arange(rows),
    )
    names = tuple(f"s{index}" for index in range(services))
    return made, {"services": names, "pools": tuple(f"p{index}" for index in range(pools))}


def replaced_by_definition(rows: list[tuple]) -> list[int]:
    """Kept rows of (group, pool, gpus, rate, traffic, residency) by the definition, all pairs in a loop."""

    def replaces(one: int, other: int) -> bool:
        group, pool, gpus, rate, traffic, residency = rows[one]
        if (group, pool) != rows[other][:2]:
            return False
        copies = rows[other][2] // gpus
        holds = copies >= 1 and copies * rate >= rows[other][3]
        holds = holds and all(a <= b for a, b in zip(traffic, rows[other][4], strict=True))
        return holds and residency <= rows[other][5]

    kept = []
    for other in range(len(rows)):
        rivals = (one for one in range(len(rows)) if one != other and replaces(one, other))
        # Equals replace each other: the first stays.
        if not any(one < other or not replaces(other, one) for one in rivals):
            kept.append(other)
    return kept


@pytest.mark.parametrize("charged", [False, True])
def test_blocks_and_groups_of_every_size_follow_the_definition(charged, monkeypatch):
    options, names = random_table(700, 5, services=2)
    limits = {"fabric_gbyte_per_s": [9.0, 9.0], "in_flight_cap": [5.0, 5.0]} if charged else {}
    made = problem(**names, **limits)
    which = options.items.argmax(axis=1)
    rows = [
        (
            (int(options.service[row]), int(options.level[row])),
            int(options.item_pool[which[row]]),
            int(options.item_gpus[which[row]]),
            float(options.rate_rps[row]),
            tuple(options.traffic_gbyte[row].tolist()) if charged else (),
            float(options.residency_s[row]) if charged else 0.0,
        )
        for row in range(len(options))
    ]
    expected = replaced_by_definition(rows)
    assert prune(made, options).tolist() == expected
    monkeypatch.setattr("formulations.dominance._BLOCK_ROWS", 64)
    monkeypatch.setattr("formulations.dominance._BLOCK_PAIRS", 50)
    monkeypatch.setattr("formulations.dominance._SMALL_GROUP", 7)
    assert prune(made, options).tolist() == expected


def test_working_memory_of_a_large_table_is_bounded():
    options, names = random_table(300_000, 6)
    tracemalloc.start()
    kept = prune(problem(**names), options)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(kept) < 1000
    assert peak < 100e6
