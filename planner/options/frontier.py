"""Exact pruning of servers by bounds on their rates, before their best batches are known.

A server X is not needed if k copies of another server Y of the same service, mode, level and pools fit in the place
of one X and carry at least as much: k * rate(Y) >= rate(X). With a lower bound on rate(Y) and an upper bound on
rate(X) that can be decided before either is known. What fits where:

- a server that lies in one block (a worker; an AFD unit inside a domain): k blocks of g' GPUs fit a block of g where
  k g' <= g;
- an AFD unit of a attention blocks of tp GPUs and one FFN block of f: k copies of (a', tp', f') fit where tp' divides
  tp, k f' <= f and k (a' tp' + f') <= a tp + f, since what is left of the FFN block holds attention blocks too.
  FFN blocks fill nodes or divide them, and tp' divides a node, so that blocks of tp' tile what is left.

Across two pools an FFN block cannot hold attention, and k a' tp' <= a tp is asked for instead. The argument needs
every row of the formulation to see servers only through their place, cost per GPU and rate; where residency or
traffic counts (closed loop, oversubscribed fabric) the caller does not prune.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.costs.linear import FloatArray

IntArray = NDArray[np.int64]

MOST_COPIES = 8
"""Copies of a smaller server that are tried in place of a larger one."""


@dataclass(frozen=True)
class Places:
    """Where n servers lie.

    Args:
        kind: servers of different kinds are not compared, shape (n,).
        attention_gpus: GPUs of attention blocks, or 0 for a server of one block, shape (n,).
        block_gpus: GPUs of the FFN block, or of the one block, shape (n,).
        tp: GPUs of one attention block, shape (n,); 1 for a server of one block.
        separate: whether attention and FFN lie in different pools, shape (n,).
        link: rate at which one request's KV cache can arrive, shape (n,); a replacement must have it too.
    """

    kind: IntArray
    attention_gpus: IntArray
    block_gpus: IntArray
    tp: IntArray
    separate: NDArray[np.bool_]
    link: FloatArray

    def take(self, rows: IntArray) -> Places:
        """Where some of them lie."""
        return Places(
            self.kind[rows],
            self.attention_gpus[rows],
            self.block_gpus[rows],
            self.tp[rows],
            self.separate[rows],
            self.link[rows],
        )


def needed(places: Places, low: FloatArray, high: FloatArray) -> NDArray[np.bool_]:
    """Whether each server may be needed, given low <= rate <= high.

    A server never excludes itself or its equals: strictly more is asked of the one that replaces it, unless it is
    strictly smaller.
    """
    keep = high > 0.0
    for kind in np.unique(places.kind):
        rows = np.flatnonzero((places.kind == kind) & keep)
        pairs = [(tp, link) for tp in np.unique(places.tp[rows]) for link in np.unique(places.link[rows])]
        for tp, link in pairs:
            mine = rows[(places.tp[rows] == tp) & (places.link[rows] == link)]
            rivals = rows[(tp % places.tp[rows] == 0) & (places.link[rows] >= link)]
            if not mine.size:
                continue
            keep[mine] = high[mine] >= _best_in_place(places, mine, rivals, low)
    return keep


def _best_in_place(places: Places, mine: IntArray, rivals: IntArray, low: FloatArray) -> FloatArray:
    """Largest sum of lower bounds that fits the place of each of `mine`."""
    separate = bool(places.separate[mine].any())
    block, own_block = places.block_gpus[rivals], places.block_gpus[mine]
    size, own_size = places.attention_gpus[rivals], places.attention_gpus[mine]
    if not separate:
        size, own_size = size + block, own_size + own_block
    # table[f, g]: best lower bound of one rival with a block of at most f GPUs and g GPUs in all.
    table = np.zeros((int(max(block.max(), own_block.max())) + 1, int(max(size.max(), own_size.max())) + 1))
    np.maximum.at(table, (block, size), low[rivals])
    table = np.maximum.accumulate(np.maximum.accumulate(table, axis=0), axis=1)
    best = np.zeros(mine.size)
    for copies in range(1, MOST_COPIES + 1):
        best = np.maximum(best, copies * table[own_block // copies, own_size // copies])
    return best
