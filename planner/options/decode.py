"""Decode options: servers that only decode, at every TTFT level."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.options.block import Family, OptionBlock
from planner.options.search import best_batches
from planner.options.server import Server
from planner.options.targets import Targets
from planner.options.times import DecodeTimes

IntArray = NDArray[np.int64]

DECODE_STEP_TOKENS = 512.0
"""Tokens on a rank for which activation memory of a decode step is reserved."""


@dataclass(frozen=True)
class Level:
    """A TTFT level of a P/D mode.

    Args:
        links: NICs that the KV transfer of one request counts on.
        decode_ms: largest decode part of TTFT.
    """

    links: int
    decode_ms: float


NO_LEVEL = Level(0, float("inf"))
"""The one level where TTFT has no decode part to bound."""


def decode_options(
    family: Family,
    server: Server,
    targets: Targets,
    levels: Sequence[Level],
    transfer_bytes: float,
    rejected: Counter[str],
) -> OptionBlock:
    """The decode options of a family that can be best, at every level.

    Args:
        family: what the servers are.
        server: the same, as the options see it.
        targets: SLO and arrivals.
        levels: the service's TTFT levels in this mode.
        transfer_bytes: KV bytes that arrive for one request; they bound the rate by the NICs' bandwidth.
        rejected: counts of refused servers, by reason.

    Returns:
        At most two options (see `planner.options.search`) per server and level.
    """
    cap = server.slots_cap(DECODE_STEP_TOKENS)
    rejected["memory cannot hold weights and one request"] += int(np.sum(cap == 0))
    times = DecodeTimes(server, targets)
    blocks = []
    for index, level in enumerate(levels):
        if server.links < level.links:
            continue

        def feasible(slots: IntArray, level: Level = level) -> NDArray[np.bool_]:
            wanted = np.asarray(slots, dtype=float)
            good = times.tpot_ms(wanted) <= targets.tpot_ms
            if np.isfinite(level.decode_ms):
                good &= times.first_ms(wanted) <= level.decode_ms
            return np.asarray(good)

        best = best_batches(feasible, cap, server.parts)
        if index == 0:
            rejected["TPOT"] += int(np.sum((best.max(axis=1) == 0) & (cap > 0)))
        rows, columns = np.nonzero(best)
        if rows.size:
            blocks.append(_options(family, times, best, rows, columns, index, transfer_bytes))
    return OptionBlock.concat(blocks)


def _options(
    family: Family,
    times: DecodeTimes,
    best: IntArray,
    rows: IntArray,
    columns: IntArray,
    level: int,
    transfer_bytes: float,
) -> OptionBlock:
    server = times.server
    slots = np.asarray(np.maximum(best, 1), dtype=float)
    mean, stay = times.in_flight(slots), times.stay_ms(slots)
    copies = server.copies[:, None]
    rate = 1e3 * mean * copies / np.maximum(stay, 1e-9)
    if transfer_bytes > 0:
        nics = server.site.fabric.scale_out_bytes_per_ms * server.attention_gpus[:, None]
        rate = np.minimum(rate, 1e3 * nics / transfer_bytes)
    pick = (rows, columns)
    return OptionBlock.of(
        family,
        replicas=server.copies[rows],
        slots=best[pick],
        in_flight=mean[pick],
        utilisation=(mean / slots)[pick],
        rate_rps=rate[pick],
        ttft_ms=times.first_ms(slots)[pick],
        tpot_ms=times.tpot_ms(slots)[pick],
        residency_s=1e-3 * stay[pick],
        level=level,
    )
