"""Whether pieces fit nodes: each piece in one node."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

SEARCHED = 20_000
"""States looked at before the question is left open."""


def fits(pieces: Iterable[int], node: int, nodes: int) -> bool | None:
    """Whether pieces of so many GPUs fit `nodes` nodes of `node` GPUs; None where the search was given up."""
    sizes = Counter(pieces)
    if any(size > node for size in sizes) or sum(size * count for size, count in sizes.items()) > node * nodes:
        return False
    if _largest_first(sizes, node) <= nodes:
        return True
    order = sorted(sizes, reverse=True)
    if all(larger % smaller == 0 for larger, smaller in pairwise(order)):
        return False  # where sizes divide one another, the largest first wastes nothing
    return _search(order, tuple(sizes[size] for size in order), node, nodes)


def fewest_nodes(pieces: Iterable[int], node: int) -> int:
    """Nodes that the pieces take, the largest first."""
    return _largest_first(Counter(pieces), node)


def _largest_first(sizes: Counter[int], node: int) -> int:
    """Nodes that the pieces take when each goes to the fullest node that holds it."""
    room: Counter[int] = Counter()  # nodes by free GPUs
    used = 0
    for size in sorted(sizes, reverse=True):
        for _ in range(sizes[size]):
            free = min((left for left, count in room.items() if count and left >= size), default=None)
            if free is None:
                used += 1
                free = node
            else:
                room[free] -= 1
            room[free - size] += 1
    return used


def _search(order: list[int], counts: tuple[int, ...], node: int, nodes: int) -> bool | None:
    """Fill node after node with as much as it holds, all ways."""
    failed: set[tuple[int, tuple[int, ...]]] = set()
    looked = 0

    def fill(left: tuple[int, ...], remaining: int) -> bool | None:
        nonlocal looked
        if not any(left):
            return True
        weight = sum(size * count for size, count in zip(order, left, strict=True))
        if weight > remaining * node or (remaining, left) in failed:
            return False
        looked += 1
        if looked > SEARCHED:
            return None
        first = next(i for i, count in enumerate(left) if count)
        for pattern in _patterns(order, left, node, first):
            answer = fill(tuple(have - take for have, take in zip(left, pattern, strict=True)), remaining - 1)
            if answer or answer is None:
                return answer
        failed.add((remaining, left))
        return False

    return fill(counts, nodes)


def _patterns(order: list[int], left: tuple[int, ...], node: int, first: int) -> list[tuple[int, ...]]:
    """Ways to fill a node that holds the largest piece left."""
    found: list[tuple[int, ...]] = []

    def extend(at: int, free: int, taken: tuple[int, ...]) -> None:
        if at == len(order):
            found.append(taken)
            return
        for count in range(min(left[at], free // order[at]), -1, -1):
            if at == first and count == 0:
                continue
            extend(at + 1, free - count * order[at], (*taken, count))

    extend(0, node, ())
    return found
