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
        link_bytes_per_ms: rate that the KV transfer of one request counts on: both sides must have it.
        decode_ms: largest decode part of TTFT.
        decode_ms_below: the next smaller `decode_ms`; decode parts of this level lie above it.
    """

    link_bytes_per_ms: float
    decode_ms: float
    decode_ms_below: float


NO_LEVEL = Level(0.0, float("inf"), 0.0)
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
    links = server.links * server.site.fabric.scale_out_bytes_per_ms
    blocks: list[OptionBlock] = []
    found: dict[float, OptionBlock] = {}
    for index, level in enumerate(levels):
        if links < level.link_bytes_per_ms:
            continue
        if level.decode_ms not in found:
            found[level.decode_ms] = _within(family, times, cap, level.decode_ms, transfer_bytes)
            if len(found) == 1:
                missing = np.setdiff1d(np.flatnonzero(cap), found[level.decode_ms].origin)
                rejected["TPOT"] += missing.size
        blocks.append(found[level.decode_ms].at_level(index))
    return OptionBlock.concat(blocks)


def _within(family: Family, times: DecodeTimes, cap: IntArray, decode_ms: float, transfer_bytes: float) -> OptionBlock:
    """The best options whose decode part of TTFT is at most `decode_ms`."""
    targets = times.targets

    def feasible(slots: IntArray) -> NDArray[np.bool_]:
        wanted = np.asarray(np.maximum(slots, 1), dtype=float)
        good = times.tpot_ms(wanted) <= targets.tpot_ms
        if np.isfinite(decode_ms):
            good &= times.first_ms(wanted) <= decode_ms
        return np.asarray(good)

    best = best_batches(feasible, cap, times.server.parts)
    rows, columns = np.nonzero(best)
    if not rows.size:
        return OptionBlock.concat([])
    return _options(family, times, best, rows, columns, transfer_bytes)


def _options(
    family: Family,
    times: DecodeTimes,
    best: IntArray,
    rows: IntArray,
    columns: IntArray,
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
        origin=rows,
        replicas=server.copies[rows],
        microbatches=server.microbatches[rows],
        slots=best[pick],
        in_flight=mean[pick],
        utilisation=(mean / slots)[pick],
        rate_rps=rate[pick],
        ttft_ms=times.first_ms(slots)[pick],
        tpot_ms=times.tpot_ms(slots)[pick],
        residency_s=1e-3 * stay[pick],
    )
