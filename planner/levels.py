"""What each TTFT level could reach at best, without the program: a bound that tells which levels matter.

For one service on one pool the best of a level is a knapsack: with F(x) the largest prefill capacity that x GPUs hold
and H(x) the same of decode, its rate is max over x of min(F(x), H(n - x)). Counting GPUs alone leaves packing out, so
that the value is a bound; where GPUs are all that counts it is exact. All levels are computed side by side.
"""

from __future__ import annotations

import numpy as np

from planner.costs.linear import FloatArray
from planner.options.block import IntArray, OptionBlock
from planner.options.places import gpus_of
from planner.space import ModeOptions


def capacity(block: OptionBlock, levels: int, gpus: int) -> FloatArray:
    """Largest rate that x = 0..gpus GPUs hold at every level, shape (levels, gpus + 1), requests/s."""
    sizes_of = gpus_of(block)
    sizes = np.unique(sizes_of[sizes_of <= gpus])
    best = np.zeros((levels, sizes.size))
    fits = sizes_of <= gpus
    np.maximum.at(best, (block.level[fits], np.searchsorted(sizes, sizes_of[fits])), block.rate_rps[fits])
    table = np.zeros((levels, gpus + 1))
    for x in range(1, gpus + 1):
        table[:, x] = table[:, x - 1]
        for column, size in enumerate(sizes):
            if size > x:
                break
            np.maximum(table[:, x], table[:, x - size] + best[:, column], out=table[:, x])
    return table


def best_rates(options: ModeOptions, gpus: int, *, optimistic: bool) -> FloatArray:
    """Bound on the request rate of every level on one pool of `gpus` GPUs, shape (levels,)."""
    groups = options.optimistic if optimistic else options.exact
    prefill, decode = (capacity(group.block, len(options.levels), gpus) for group in groups)
    return np.asarray(np.minimum(prefill, decode[:, ::-1]).max(axis=1))


def fewest_gpus(options: ModeOptions, gpus: int, rate_rps: float, *, optimistic: bool) -> IntArray:
    """Bound on the GPUs that every level needs for a rate, shape (levels,); gpus + 1 where it does not fit."""
    groups = options.optimistic if optimistic else options.exact
    needed = np.zeros(len(options.levels), dtype=np.int64)
    for group in groups:
        enough = capacity(group.block, len(options.levels), gpus) >= rate_rps * (1.0 - 1e-12)
        needed += np.where(enough.any(axis=1), np.argmax(enough, axis=1), gpus + 1)
    return np.minimum(needed, gpus + 1)
