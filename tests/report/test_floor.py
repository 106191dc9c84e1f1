"""Nodes that hold the same are drawn once, idle ones without being looked at."""

import time
from typing import Any
from unittest.mock import Mock

import pytest

from planner.launch.placement import Seat
from planner.report.floor import _alike
from specs.scenario import Pool, ResolvedPool, resolve_pool


def pool(count: int) -> ResolvedPool:
    return resolve_pool(Pool(name="h100", gpu="h100-sxm-80gb", count=count))


def seat(node: int, gpus: tuple[int, ...], instance: int = 0) -> Seat:
    component: Any = Mock()
    component.name = "chat"
    return Seat(component, instance, 0, "h100", node, node, gpus)


FULL = tuple(range(8))


@pytest.mark.parametrize(
    ("count", "seats", "drawn"),
    [
        (16, [], [(0, 2, 8)]),
        (4, [], [(0, 1, 4)]),
        (24, [seat(0, FULL)], [(0, 1, 8), (1, 2, 8)]),
        (24, [seat(1, FULL), seat(2, FULL, 1)], [(0, 1, 8), (1, 2, 8)]),
        (24, [seat(2, (0, 1, 2, 3))], [(0, 2, 8), (2, 1, 8)]),
        (8, [seat(0, (0, 1)), seat(0, (2, 3), 1)], [(0, 1, 8)]),
    ],
)
def test_groups(count: int, seats: list[Seat], drawn: list[tuple[int, int, int]]) -> None:
    found = _alike(pool(count), seats)
    assert [(node.first, node.count, len(node.cells)) for node in found] == drawn


def test_a_huge_pool() -> None:
    start = time.monotonic()
    found = _alike(pool(1_000_000), [seat(7, FULL)])
    assert [(node.first, node.count) for node in found] == [(0, 124_999), (7, 1)]
    assert time.monotonic() - start < 0.1
