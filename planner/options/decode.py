"""Decode options: servers that only decode, at every TTFT level."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.clock import UNLIMITED, Clock
from planner.costs.linear import FloatArray
from planner.costs.worker import Worker
from planner.options.block import Family, OptionBlock
from planner.options.frontier import needed
from planner.options.places import join_places
from planner.options.search import BOUND_POINTS, around, batch_of, best_batches, class_grid, classes, last_full
from planner.options.server import Server
from planner.options.targets import Targets
from planner.options.times import DecodeTimes, Latencies

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


class DecodeSide:
    """The decode options of one service and mode, for any TTFT levels that are asked for.

    Args:
        servers: families of servers.
        targets: SLO and arrivals.
        transfer_bytes: KV bytes that arrive for one request; they bound the rate by the NICs' bandwidth. 0 where
            requests are not handed over.
        rejected: counts of refused servers, by reason.
        prune: whether servers may be dropped by bounds (see `planner.options.frontier`).
        clock: looked at between families while the coarse grids are made; every search takes its own.

    Raises:
        OutOfTimeError: the clock ran out first, here or in a search.
    """

    def __init__(
        self,
        servers: Sequence[tuple[Family, Server]],
        targets: Targets,
        transfer_bytes: float,
        rejected: Counter[str],
        *,
        prune: bool = True,
        clock: Clock = UNLIMITED,
    ) -> None:
        coarse = []
        for family, server in servers:
            clock.check()
            coarse.append(_Coarse.of(family, server, targets, transfer_bytes, rejected))
        self._coarse = [each for each in coarse if each.cap.size]
        self._prune = prune
        self._found: dict[float, OptionBlock] = {}
        if self._coarse:
            places = [(each.family, each.times.server) for each in self._coarse]
            self._places = join_places(places, links=transfer_bytes > 0)
        rejected["TPOT"] += sum(int(np.sum(each.bounds(np.inf)[1] == 0.0)) for each in self._coarse)

    @property
    def links(self) -> list[float]:
        """Rates at which one request's cache can arrive at some server, bytes/ms, ascending."""
        return sorted({each.link_bytes_per_ms for each in self._coarse})

    def range_ms(self, clock: Clock = UNLIMITED) -> tuple[float, float] | None:
        """Smallest and largest decode part of TTFT that an option within TPOT has; None without options.

        With few slots the wait for one can be longer than with many: the last batch need not have the largest.
        """
        block = self.within(np.inf, clock)
        if not len(block):
            return None
        parts = [each.first_ms[each.tpot_ms <= each.times.targets.tpot_ms].max(initial=0.0) for each in self._coarse]
        least = min(each.least_first_ms for each in self._coarse)
        return least, max(float(block.ttft_ms.max()), *(float(part) for part in parts))

    def within(self, decode_ms: float, clock: Clock = UNLIMITED) -> OptionBlock:
        """The options whose decode part of TTFT is at most `decode_ms`, at most two per server."""
        if decode_ms not in self._found:
            self._find([decode_ms], clock)
        return self._found[decode_ms]

    def at(self, levels: Sequence[Level], clock: Clock = UNLIMITED) -> OptionBlock:
        """The options of every level, marked with its index."""
        self._find(sorted({level.decode_ms for level in levels} - self._found.keys()), clock)
        blocks = []
        for index, level in enumerate(levels):
            block = self.within(level.decode_ms)
            open_ = self._link_of(block) >= level.link_bytes_per_ms
            blocks.append(block.take(open_).at_level(index))
        return OptionBlock.concat(blocks)

    def _link_of(self, block: OptionBlock) -> FloatArray:
        rates = [_link(family) for family in block.families]
        return np.array(rates)[block.family] if len(block) else np.zeros(0)

    def _find(self, limits_ms: Sequence[float], clock: Clock) -> None:
        """Search the best batches for several limits at once."""
        kept: list[list[tuple[IntArray, FloatArray]]] = [[] for _ in self._coarse]
        for limit in limits_ms:
            bounds = [each.bounds(limit) for each in self._coarse]
            if not bounds:
                continue
            low, high = (np.concatenate([pair[side] for pair in bounds]) for side in (0, 1))
            keep = needed(self._places, low, high) if self._prune else high > 0.0
            offset = 0
            for each, rows_of in zip(self._coarse, kept, strict=True):
                rows = np.flatnonzero(keep[offset : offset + each.cap.size])
                offset += each.cap.size
                rows_of.append((rows, np.full(rows.size, limit)))
        blocks: dict[float, list[OptionBlock]] = {limit: [] for limit in limits_ms}
        for each, rows_of in zip(self._coarse, kept, strict=True):
            if not rows_of:
                continue
            rows, limit_of = (np.concatenate([pair[side] for pair in rows_of]) for side in (0, 1))
            if rows.size:
                clock.check()
                block, found_limit = each.best(rows.astype(np.int64), limit_of)
                for limit in np.unique(found_limit):
                    blocks[float(limit)].append(block.take(found_limit == limit))
        for limit, parts in blocks.items():
            self._found[limit] = OptionBlock.concat(parts)


def _link(family: Family) -> float:
    """Rate at which one request's cache can arrive at a server of a family."""
    if isinstance(family, Worker):
        return family.layout.tp * family.layout.pp * family.site.fabric.scale_out_bytes_per_ms
    return family.tp * family.attention_site.fabric.scale_out_bytes_per_ms


@dataclass(frozen=True, eq=False)
class _Coarse:
    """A family of servers with its latencies on a coarse grid of batches."""

    family: Family
    times: DecodeTimes
    cap: IntArray
    origin: IntArray
    transfer_bytes: float
    numbers: IntArray
    rate: FloatArray
    full_rate: FloatArray
    tpot_ms: FloatArray
    first_ms: FloatArray

    @staticmethod
    def of(family: Family, server: Server, targets: Targets, transfer_bytes: float, rejected: Counter[str]) -> _Coarse:
        """Evaluate the grid of every server whose memory holds a request."""
        cap = server.slots_cap(np.full(server.copies.size, DECODE_STEP_TOKENS))
        rejected["memory cannot hold weights and one request"] += int(np.sum(cap == 0))
        origin = np.flatnonzero(cap)
        times = DecodeTimes(server.take(origin), targets)
        parts = times.server.parts
        numbers = class_grid(cap[origin], parts, BOUND_POINTS)
        grid = batch_of(numbers, cap[origin], parts)
        slots = np.concatenate([grid, last_full(cap[origin], parts)[:, None]], axis=1)
        latencies = times.at(np.asarray(slots, dtype=float))
        rate = rates_rps(times.server, latencies, transfer_bytes)
        return _Coarse(
            family,
            times,
            cap[origin],
            origin,
            transfer_bytes,
            numbers,
            rate[:, :-1],
            rate[:, -1],
            latencies.tpot_ms[:, :-1],
            latencies.first_ms[:, :-1],
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
        high = self.rate[rows, np.minimum(last + 1, columns - 1)]
        high = np.where(last + 1 >= columns - 1, np.maximum(high, self.full_rate), high)
        return low, high * (1.0 + 1e-9)

    @property
    def least_first_ms(self) -> float:
        """A lower bound on the decode part of TTFT: its steps with one request in flight, without a wait."""
        server = self.times.server
        one = np.ones((server.copies.size, 1))
        return float(server.site.engine.first_token_steps * server.decode_step_ms(one, one).min())

    def best(self, rows: IntArray, decode_ms: FloatArray) -> tuple[OptionBlock, FloatArray]:
        """The best options of some servers, each under its own limit; with them the limit of every option."""
        targets = self.times.targets
        times = DecodeTimes(self.times.server.take(rows), targets)
        limit = decode_ms[:, None]

        def feasible(slots: IntArray) -> NDArray[np.bool_]:
            latencies = times.at(np.asarray(np.maximum(slots, 1), dtype=float))
            return np.asarray((latencies.tpot_ms <= targets.tpot_ms) & (latencies.first_ms <= limit))

        cap, parts = self.cap[rows], times.server.parts
        good = (self.tpot_ms[rows] <= targets.tpot_ms) & (self.first_ms[rows] <= limit)
        bracket = around(self.numbers[rows], good, classes(cap, parts))
        best = best_batches(feasible, cap, parts, bracket)
        found = np.nonzero(best)
        server = times.server
        slots = np.asarray(np.maximum(best, 1), dtype=float)
        latencies = times.at(slots)
        block = OptionBlock.of(
            self.family,
            origin=self.origin[rows][found[0]],
            replicas=server.copies[found[0]],
            microbatches=server.microbatches[found[0]],
            slots=best[found],
            in_flight=latencies.in_flight[found],
            utilisation=(latencies.in_flight / slots)[found],
            rate_rps=rates_rps(server, latencies, self.transfer_bytes)[found],
            ttft_ms=latencies.first_ms[found],
            tpot_ms=latencies.tpot_ms[found],
            residency_s=1e-3 * latencies.stay_ms[found],
        )
        return block, decode_ms[found[0]]


def rates_rps(server: Server, latencies: Latencies, transfer_bytes: float) -> FloatArray:
    """Requests/s of decode servers, bounded by the rate at which their NICs take in KV caches."""
    flight = latencies.in_flight * server.copies[:, None]
    rate = 1e3 * flight / np.maximum(latencies.stay_ms, 1e-9)
    if transfer_bytes > 0:
        nics = server.site.fabric.scale_out_bytes_per_ms * server.attention_gpus[:, None]
        rate = np.minimum(rate, 1e3 * nics / transfer_bytes)
    return np.asarray(rate)


def most_rps_per_gpu(server: Server, targets: Targets) -> float:
    """Bound on the rate of any of some decode servers over its GPUs, without an SLO; 0 where memory holds no request.

    The rate never falls with the batch: it is that of all the slots that memory holds, or of the last full class.
    """
    cap = server.slots_cap(np.full(server.copies.size, DECODE_STEP_TOKENS))
    held = np.flatnonzero(cap)
    if not held.size:
        return 0.0
    times, cap = DecodeTimes(server.take(held), targets), cap[held]
    slots = np.asarray(np.stack([cap, last_full(cap, times.server.parts)], axis=1), dtype=float)
    mean = times.in_flight(slots)
    rate = 1e3 * mean * times.server.copies[:, None] / np.maximum(times.stay_ms(slots, mean), 1e-9)
    return float((rate.max(axis=1) / times.server.gpus).max()) * (1.0 + 1e-9)
