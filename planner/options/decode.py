"""Decode options: servers that only decode, at every TTFT level."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.costs.linear import FloatArray
from planner.options.block import Family, OptionBlock
from planner.options.frontier import needed
from planner.options.places import join_places
from planner.options.search import batch_grid, best_batches
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
    servers: Sequence[tuple[Family, Server]],
    targets: Targets,
    levels: Sequence[Level],
    transfer_bytes: float,
    rejected: Counter[str],
    *,
    prune: bool = True,
) -> OptionBlock:
    """The decode options that can be best, at every level.

    Args:
        servers: families of servers, all of one service and mode.
        targets: SLO and arrivals.
        levels: the service's TTFT levels in this mode.
        transfer_bytes: KV bytes that arrive for one request; they bound the rate by the NICs' bandwidth.
        rejected: counts of refused servers, by reason.
        prune: whether servers may be dropped by bounds (see `planner.options.frontier`).

    Returns:
        At most two options (see `planner.options.search`) per server and level.
    """
    coarse = [_Coarse.of(family, server, targets, transfer_bytes, rejected) for family, server in servers]
    coarse = [each for each in coarse if each.cap.size]
    if not coarse:
        return OptionBlock.concat([])
    places = join_places([(each.family, each.times.server) for each in coarse])
    link_of = np.concatenate([np.full(each.cap.size, each.link_bytes_per_ms) for each in coarse])
    blocks = []
    for decode_ms in sorted({level.decode_ms for level in levels}, reverse=True):
        bounds = [each.bounds(decode_ms) for each in coarse]
        low, high = (np.concatenate([pair[side] for pair in bounds]) for side in (0, 1))
        if decode_ms == max(level.decode_ms for level in levels):
            rejected["TPOT"] += int(np.sum(high == 0.0))
        numbers = [index for index, level in enumerate(levels) if level.decode_ms == decode_ms]
        keep = np.zeros(low.size, dtype=bool)
        for number in numbers:
            # A level that counts on fast links is open only to those that have them.
            open_ = link_of >= levels[number].link_bytes_per_ms
            low_open, high_open = np.where(open_, low, 0.0), np.where(open_, high, 0.0)
            keep |= needed(places, low_open, high_open) if prune else high_open > 0.0
        offset = 0
        for each in coarse:
            kept = np.flatnonzero(keep[offset : offset + each.cap.size])
            offset += each.cap.size
            block = each.best(kept, decode_ms) if kept.size else None
            if block is not None:
                admitted = [n for n in numbers if each.link_bytes_per_ms >= levels[n].link_bytes_per_ms]
                blocks += [block.at_level(number) for number in admitted]
    return OptionBlock.concat(blocks)


@dataclass(frozen=True, eq=False)
class _Coarse:
    """A family of servers with its latencies on a coarse grid of batches."""

    family: Family
    times: DecodeTimes
    cap: IntArray
    origin: IntArray
    transfer_bytes: float
    rate: FloatArray
    tpot_ms: FloatArray
    first_ms: FloatArray

    @staticmethod
    def of(family: Family, server: Server, targets: Targets, transfer_bytes: float, rejected: Counter[str]) -> _Coarse:
        """Evaluate the grid of every server whose memory holds a request."""
        cap = server.slots_cap(np.full(server.copies.size, DECODE_STEP_TOKENS))
        rejected["memory cannot hold weights and one request"] += int(np.sum(cap == 0))
        origin = np.flatnonzero(cap)
        times = DecodeTimes(server.take(origin), targets)
        grid = np.asarray(batch_grid(cap[origin], times.server.parts), dtype=float)
        return _Coarse(
            family,
            times,
            cap[origin],
            origin,
            transfer_bytes,
            rates_rps(times, grid, transfer_bytes),
            times.tpot_ms(grid),
            times.first_ms(grid),
        )

    @property
    def link_bytes_per_ms(self) -> float:
        """Rate at which one request's cache can arrive."""
        server = self.times.server
        return server.links * server.site.fabric.scale_out_bytes_per_ms

    def bounds(self, decode_ms: float) -> tuple[FloatArray, FloatArray]:
        """Bounds on the best rate whose decode part of TTFT is at most `decode_ms`; (0, 0) where there is none."""
        good = (self.tpot_ms <= self.times.targets.tpot_ms) & (self.first_ms <= decode_ms)
        columns = self.rate.shape[1]
        last = np.where(good.any(axis=1), columns - 1 - np.argmax(good[:, ::-1], axis=1), -1)
        rows = np.arange(self.cap.size)
        low = np.where(last >= 0, self.rate[rows, np.maximum(last, 0)], 0.0)
        # Without a good grid point smaller batches than the first may still do (fewer requests than parts).
        high = self.rate[rows, np.minimum(last + 1, columns - 1)] * (1.0 + 1e-9)
        return low, high

    def best(self, rows: IntArray, decode_ms: float) -> OptionBlock | None:
        """The best options of some servers."""
        targets = self.times.targets
        times = DecodeTimes(self.times.server.take(rows), targets)

        def feasible(slots: IntArray) -> NDArray[np.bool_]:
            wanted = np.asarray(np.maximum(slots, 1), dtype=float)
            good = times.tpot_ms(wanted) <= targets.tpot_ms
            if np.isfinite(decode_ms):
                good &= times.first_ms(wanted) <= decode_ms
            return np.asarray(good)

        best = best_batches(feasible, self.cap[rows], times.server.parts)
        found = np.nonzero(best)
        if not found[0].size:
            return None
        server = times.server
        slots = np.asarray(np.maximum(best, 1), dtype=float)
        mean = times.in_flight(slots)
        return OptionBlock.of(
            self.family,
            origin=self.origin[rows][found[0]],
            replicas=server.copies[found[0]],
            microbatches=server.microbatches[found[0]],
            slots=best[found],
            in_flight=mean[found],
            utilisation=(mean / slots)[found],
            rate_rps=rates_rps(times, slots, self.transfer_bytes)[found],
            ttft_ms=times.first_ms(slots)[found],
            tpot_ms=times.tpot_ms(slots)[found],
            residency_s=1e-3 * times.stay_ms(slots)[found],
        )


def rates_rps(times: DecodeTimes, slots: FloatArray, transfer_bytes: float) -> FloatArray:
    """Requests/s of decode servers, bounded by the rate at which their NICs take in KV caches."""
    server = times.server
    flight = times.in_flight(slots) * server.copies[:, None]
    rate = 1e3 * flight / np.maximum(times.stay_ms(slots), 1e-9)
    if transfer_bytes > 0:
        nics = server.site.fabric.scale_out_bytes_per_ms * server.attention_gpus[:, None]
        rate = np.minimum(rate, 1e3 * nics / transfer_bytes)
    return np.asarray(rate)
