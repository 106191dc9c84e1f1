"""Options that serve whole requests: chunked prefill mixed into decode steps, on workers or AFD units.

How prompts stretch the steps of lanes in lockstep, and how the rate follows from the requests in flight, is in
`planner.options.mixing`. Requests in flight, TPOT and TTFT all grow with the rate. Prompts queue for their lane like
customers of a server with service time K t_s, K chunks in steps of mean length t_s.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from planner.clock import UNLIMITED, Clock
from planner.costs.linear import FloatArray
from planner.costs.queueing import prefill_wait_ms
from planner.options.block import Family, OptionBlock
from planner.options.frontier import needed
from planner.options.mixing import Mix, Mixed
from planner.options.places import join_places
from planner.options.search import NARROWINGS, around, batch_of, best_batches, class_grid, classes, last_full
from planner.options.server import Server
from planner.options.targets import Targets
from planner.options.times import DecodeTimes, twice
from specs.service import Statistic

IntArray = NDArray[np.int64]

LARGEST_CHUNK_TOKENS = 16_384
SMALLEST_CHUNK_TOKENS = 128
BISECTIONS = 30


def chunk_counts(input_tokens: float) -> IntArray:
    """Equal chunks that a prompt may be cut into: the fewest that the largest chunk allows, then 2, 4, 8, ..."""
    fewest = math.ceil(input_tokens / LARGEST_CHUNK_TOKENS)
    most = max(fewest, int(input_tokens // SMALLEST_CHUNK_TOKENS))
    counts, base = {fewest}, 1
    while base <= most:
        counts |= {base} if base >= fewest else set()
        base *= 2
    return np.array(sorted(counts), dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Rates:
    """Rates of n servers that run with fixed chunk counts, by slots; arrays of shape (n, g), requests/ms.

    Args:
        server: the family of servers.
        targets: SLO and arrivals.
        chunk_counts: chunks per prompt, shape (n,).
        prefix_load_ms: time to bring a prompt's prefix to the GPU, part of TTFT.
    """

    server: Server
    targets: Targets
    chunk_counts: IntArray
    prefix_load_ms: float

    def take(self, rows: IntArray) -> Rates:
        """The rates of some servers."""
        return Rates(self.server.take(rows), self.targets, self.chunk_counts[rows], self.prefix_load_ms)

    @property
    def chunks(self) -> IntArray:
        """Chunks per prompt, shape (n, 1)."""
        return self.chunk_counts[:, None]

    @cached_property
    def _times(self) -> DecodeTimes:
        return DecodeTimes(self.server, self.targets)

    @cached_property
    def _copies(self) -> FloatArray:
        return np.asarray(self.server.copies[:, None], dtype=float)

    @cached_property
    def _lanes(self) -> FloatArray:
        return np.asarray(self.server.lanes[:, None], dtype=float)

    def mix(self, mean: FloatArray, slots: FloatArray) -> Mix:
        """Step times with `mean` requests in flight on one replica."""
        decode = self.server.decode_step_ms(mean, slots)
        every = self.server.mixed_step_ms(mean, slots, self.chunks)
        one = every
        if (self.server.lanes > 1).any():
            one = np.where(self._lanes > 1, self.server.mixed_step_ms(mean, slots, self.chunks, one_lane=True), every)
        # A chunk never makes a step shorter; kernels that pick another exchange for prompts could seem to.
        one = np.maximum(one, decode)
        return Mix(decode, one, np.maximum(every, one), self._lanes, self.chunks)

    def seen_mix(self, slots: FloatArray) -> Mix:
        """Step times at the occupancy that a request sees, at the SLO's statistic."""
        mean = self._times.in_flight(slots)
        return self.mix(self._times.seen(slots, mean), slots)

    @cached_property
    def decode_steps(self) -> float:
        """Decode steps of one request."""
        return self.server.site.lengths.decode_tokens / self.server.site.tokens_per_step

    def filled(self, slots: FloatArray) -> Filled:
        """The servers with as many requests in flight as the slots can carry."""
        mean = self._times.in_flight(slots)
        both = self.mix(*twice(mean, self._times.seen(slots, mean), slots))
        own, seen = both.columns(slice(None, slots.shape[1])), both.columns(slice(slots.shape[1], None))
        return Filled(self, slots, mean * self._copies, own, seen)

    def unhindered(self, slots: FloatArray) -> FloatArray:
        """Rate that fills the slots if no prompt is computed beside another: no less than any that does."""
        mean = self._times.in_flight(slots)
        decode = self.server.decode_step_ms(mean, slots)
        one = np.maximum(self.server.mixed_step_ms(mean, slots, self.chunks, one_lane=True), decode)
        return np.asarray(mean * self._copies / (self.chunks * one + self.decode_steps * decode))

    def possible(self) -> NDArray[np.bool_]:
        """Whether one request alone meets TTFT and TPOT, shape (n,): without that no batch does."""
        one = np.ones((self.chunk_counts.size, 1))
        mix = self.mix(one, one)
        good = self.chunks * mix.one + self.prefix_load_ms <= self.targets.ttft_ms
        if self.decode_steps > 0:
            good &= mix.decode <= self.targets.tpot_ms * self.server.site.tokens_per_step
        return np.asarray(good[:, 0])

    def within(self, slots: IntArray) -> NDArray[np.bool_]:
        """Whether TTFT and TPOT hold at the rate that fills the slots; slots below 1 count as 1."""
        filled = self.filled(np.asarray(np.maximum(slots, 1), dtype=float))
        return filled.holds(filled.rate())

    def holds(self, rate: FloatArray, mix: Mix, slots: FloatArray) -> NDArray[np.bool_]:
        """Whether TTFT and TPOT hold at a rate."""
        mixed = mix.at(rate)
        good = (mixed.share < 1.0) & (self.ttft_ms(mixed, mix, slots) <= self.targets.ttft_ms)
        if not math.isinf(self.targets.tpot_ms) and self.decode_steps > 0:
            good &= self.tpot_ms(mixed, mix) <= self.targets.tpot_ms
        return np.asarray(good)

    def cap(self, slots: FloatArray) -> FloatArray:
        """Largest rate at which TTFT and TPOT hold; 0 where they do not hold even without load."""
        mix = self.seen_mix(slots)
        low, high = np.zeros_like(slots), np.asarray(mix.lanes / (mix.chunks * mix.one) * np.ones_like(slots))
        for _ in range(BISECTIONS):
            middle = 0.5 * (low + high)
            good = self.holds(middle, mix, slots)
            low, high = np.where(good, middle, low), np.where(good, high, middle)
        return low

    def ttft_ms(self, mixed: Mixed, mix: Mix, slots: FloatArray) -> FloatArray:
        """TTFT at the SLO's statistic: waits for slot, lane and the running step's end, prefix and prefill.

        A lane computes prompts back to back, and between prompts it takes part in the steps of the others, which do not
        end when a prompt arrives: a queue with vacations, whose mean wait is the plain queue's plus E[v^2] / 2 E[v] for
        steps v without the lane (Fuhrmann and Cooper 1985). At a percentile that share of a step with chunks is added.
        """
        targets = self.targets
        prompt, step = mixed.prompt_step_ms, mixed.step_ms
        prefill = mix.chunks * prompt
        share = np.minimum(mixed.share, 1.0 - 1e-9)
        busy = np.minimum(share * prompt / step, 1.0 - 1e-12)
        queue = prefill_wait_ms(busy, 1, prefill, targets.queue_cv, targets.statistic)
        others = np.clip((mixed.busy_share - share) / (1.0 - share), 0.0, 1.0)
        if targets.statistic is Statistic.MEAN:
            rest = 0.5 * (others * prompt**2 + (1.0 - others) * mix.decode**2)
            rest = rest / (others * prompt + (1.0 - others) * mix.decode)
        else:
            rest = targets.residual_share * np.where(others > 0.0, prompt, mix.decode)
        stay = self.server.site.lengths.decode_tokens * self.tpot_ms(mixed, mix)
        return np.asarray(queue + rest + self._times.slot_wait_ms(slots, stay) + prefill + self.prefix_load_ms)

    def tpot_ms(self, mixed: Mixed, mix: Mix) -> FloatArray:
        """TPOT at the SLO's statistic.

        A request sees a Poisson number of foreign prompts on all lanes during its stay, each of which makes up to K of
        its steps longer, fewer where prompts coincide; its TPOT varies with their number.
        """
        site = self.server.site
        tpot = mixed.step_ms / site.tokens_per_step
        if self.targets.deviations == 0.0:
            return np.asarray(tpot)
        steps = max(self.decode_steps, 1e-12)
        prompts = mixed.rate * steps * mixed.step_ms
        alone = np.minimum(mixed.busy_share / np.maximum(mix.lanes * mixed.share, 1e-300), 1.0)
        longer = mix.chunks * (mix.one - mix.decode) * alone
        spread = self.targets.deviations * longer * np.sqrt(prompts) / steps
        return np.asarray(tpot + max(self.targets.arrival_cv, 1.0) * spread / site.tokens_per_step)


@dataclass(frozen=True, eq=False)
class Filled:
    """Servers that carry what their slots can; arrays of shape (n, g).

    Args:
        rates: of the servers.
        slots: of one replica.
        flight: mean requests in flight on a server.
        own: step times at the mean.
        seen: step times at the occupancy that a request sees.
    """

    rates: Rates
    slots: FloatArray
    flight: FloatArray
    own: Mix
    seen: Mix

    def rate(self) -> FloatArray:
        """Rate at which the mean number in flight is `flight`."""
        return self.own.rate(self.flight, self.rates.decode_steps)

    def rate_bounds(self) -> tuple[FloatArray, FloatArray]:
        """Bounds on `rate`, an order of magnitude cheaper."""
        return self.own.rate_bounds(self.flight, self.rates.decode_steps)

    def holds(self, rate: FloatArray) -> NDArray[np.bool_]:
        """Whether TTFT and TPOT hold at a rate."""
        return self.rates.holds(rate, self.seen, self.slots)


def serve_options(
    servers: Sequence[tuple[Family, Server]],
    targets: Targets,
    prefix_load_ms: Callable[[Server], float],
    rejected: Counter[str],
    *,
    prune: bool = True,
    rival: Rival | None = None,
    clock: Clock = UNLIMITED,
) -> tuple[OptionBlock, float]:
    """The options that can be best, at most one per server and chunk count.

    With the slots the rate that fills them grows (Little) and the rate that the SLO allows shrinks, so the best batch
    is where they cross: the largest batch at which filling the slots stays within the SLO, or the next one. A coarse
    grid of batches first bounds every server's rate from both sides and drops those that cannot be needed.

    Args:
        servers: families of servers, all of one service and mode.
        targets: SLO and arrivals.
        prefix_load_ms: time to bring one prompt's prefix to a server.
        rejected: counts of refused options, by reason.
        prune: whether servers may be dropped by bounds (see `planner.options.frontier`).
        rival: what is reached without these servers, to give up early where they cannot reach it together.
        clock: looked at between families.

    Returns:
        The options, and 0; or no options and a bound on the rate that all GPUs reach with them, requests/s.

    Raises:
        OutOfTimeError: the clock ran out first.
    """
    candidates: list[_Candidates] = []
    for family, server in servers:
        clock.check()
        rows, chunks, cap = _held(server)
        rejected["memory cannot hold weights and one request"] += int(np.sum(cap == 0))
        rows, chunks, cap = rows[cap > 0], chunks[cap > 0], cap[cap > 0]
        if rows.size:
            rates = Rates(server.take(rows), targets, chunks, prefix_load_ms(server))
            none = np.zeros(cap.size)
            last = classes(cap, rates.server.parts)
            every = _Candidates(family, rates, cap, rows, np.zeros_like(cap), last + 1, none, none)
            possible = np.flatnonzero(rates.possible())
            rejected["TTFT or TPOT"] += cap.size - possible.size
            if possible.size:
                candidates.append(every.take(possible))
    for number, points in enumerate(NARROWINGS):
        bounded = []
        for each in candidates:
            clock.check()
            bounded.append(each.narrowed(points) if number else each.sketched(points))
        candidates = bounded
        if prune:
            candidates = _needed(candidates)
        if rival is not None and candidates:
            best = max(float((each.high_rate / each.rates.server.gpus).max()) for each in candidates)
            bound = 1e3 * best * rival.gpus * (1.0 + 1e-9)
            if bound <= rival.rate_rps:
                return OptionBlock.concat([]), bound
    blocks = []
    for each in candidates:
        clock.check()
        blocks.append(each.best(rejected))
    return OptionBlock.concat(blocks), 0.0


@dataclass(frozen=True)
class Rival:
    """What a service reaches in another mode.

    Args:
        gpus: GPUs of the one pool there is.
        rate_rps: requests/s that another mode reaches on them.
    """

    gpus: int
    rate_rps: float


@dataclass(frozen=True, eq=False)
class _Candidates:
    """Servers of one family, each with a chunk count, and what is known of its best batch; arrays of shape (n,).

    Args:
        family: what the servers are.
        rates: their rates.
        cap: most slots that memory holds.
        origin: row of the family's server.
        low: class of batches (see `planner.options.search`) known to stay within the SLO, 0 for none.
        high: class known not to, or one more than there are.
        low_rate: rate that fills the slots at `low`, requests/ms: a lower bound on the best rate.
        high_rate: the same at `high`: an upper bound, since beyond it the SLO allows less.
    """

    family: Family
    rates: Rates
    cap: IntArray
    origin: IntArray
    low: IntArray
    high: IntArray
    low_rate: FloatArray
    high_rate: FloatArray

    def take(self, rows: IntArray) -> _Candidates:
        """Some of them."""
        return _Candidates(
            self.family,
            self.rates.take(rows),
            self.cap[rows],
            self.origin[rows],
            self.low[rows],
            self.high[rows],
            self.low_rate[rows],
            self.high_rate[rows],
        )

    def sketched(self, points: int) -> _Candidates:
        """First brackets from a grid of `points` classes, with bounds on the rates instead of the rates."""
        parts = self.rates.server.parts
        last = classes(self.cap, parts)
        grid = class_grid(self.cap, parts, points)
        slots = np.concatenate([batch_of(grid, self.cap, parts), last_full(self.cap, parts)[:, None]], axis=1)
        filled = self.rates.filled(np.asarray(slots, dtype=float))
        least, most = filled.rate_bounds()
        certain, perhaps = filled.holds(most)[:, :-1], filled.holds(least)[:, :-1]
        low, _ = around(grid, certain, last)
        _, high = around(grid, perhaps, last)
        rows = np.arange(self.cap.size)
        at_low = np.maximum((grid <= low[:, None]).sum(axis=1) - 1, 0)
        at_high = np.minimum((grid < high[:, None]).sum(axis=1), grid.shape[1] - 1)
        low_rate = np.where(low > 0, least[rows, at_low], 0.0)
        high_rate = np.where(high >= last, np.maximum(most[rows, at_high], most[:, -1]), most[rows, at_high])
        return replace(self, low=low, high=np.maximum(high, low + 1), low_rate=low_rate, high_rate=high_rate)

    def narrowed(self, points: int) -> _Candidates:
        """The same with brackets narrowed by a grid of `points` classes between their ends."""
        parts = self.rates.server.parts
        last = classes(self.cap, parts)
        shares = np.arange(1, points + 1) / (points + 1.0)
        if (self.low == 0).all():
            grid = class_grid(self.cap, parts, points)
        else:
            grid = self.low[:, None] + np.rint((self.high - self.low)[:, None] * shares).astype(np.int64)
        grid = np.clip(grid, 1, last[:, None])
        ends = np.stack([last_full(self.cap, parts), self.cap], axis=1)
        slots = np.concatenate([batch_of(grid, self.cap, parts), ends], axis=1)
        filled = self.rates.filled(np.asarray(slots, dtype=float))
        little = filled.rate()
        # Points at the ends of the bracket are known already; asking again keeps the code in one piece.
        low, high = around(grid, filled.holds(little)[:, :-2], last)
        little, full_rate, cap_rate = little[:, :-2], little[:, -2], little[:, -1]
        rows, columns = np.arange(self.cap.size), grid.shape[1] - 1
        after = np.minimum((grid < high[:, None]).sum(axis=1), columns)
        first = np.maximum((grid <= low[:, None]).sum(axis=1) - 1, 0)
        low_rate = np.where(low > 0, little[rows, first], 0.0)
        # Where nothing is known to break the SLO the bracket reaches up to what memory holds.
        high_rate = np.where(high > last, cap_rate, little[rows, after])
        high_rate = np.where(high >= last, np.maximum(high_rate, full_rate), high_rate)
        # A grid inside the bracket may miss its ends: what is known of them stays.
        higher = self.low > low
        low, low_rate = np.where(higher, self.low, low), np.where(higher, self.low_rate, low_rate)
        lower = (self.high < high) & (self.high > low)
        high, high_rate = np.where(lower, self.high, high), np.where(lower, self.high_rate, high_rate)
        return replace(self, low=low, high=high, low_rate=low_rate, high_rate=high_rate)

    def best(self, rejected: Counter[str]) -> OptionBlock:
        """The best batch of each server."""
        parts, rates = self.rates.server.parts, self.rates
        best = best_batches(rates.within, self.cap, parts, (self.low, self.high))
        full = best[:, 0]
        above = np.maximum(best[:, 1] - full, 0)
        # Within the SLO the slots can be filled; in the next batch and class above the SLO sets the rate.
        beyond = np.minimum(full[:, None] + np.stack([above + 1, parts], axis=1), self.cap[:, None])
        slots = np.concatenate([best, beyond], axis=1)
        wanted = np.asarray(np.maximum(slots, 1), dtype=float)
        rate = rates.filled(wanted).rate()
        columns = best.shape[1]
        rate[:, columns:] = np.minimum(rate[:, columns:], rates.cap(wanted[:, columns:]))
        rate = np.where(slots > 0, rate, 0.0)
        chosen = np.argmax(rate, axis=1)
        rows = np.arange(self.cap.size)
        good = np.flatnonzero(rate[rows, chosen] > 0.0)
        rejected["TTFT or TPOT"] += self.cap.size - good.size
        if not good.size:
            return OptionBlock.concat([])
        picked = slots[good, chosen[good]]
        return _options(self.family, rates.take(good), picked, rate[good, chosen[good]], self.origin[good])


def most_rps_per_gpu(server: Server, targets: Targets) -> float:
    """Bound on the rate of any of some servers over its GPUs, without an SLO; 0 where memory holds no request.

    It is the one that a bracket up to the last class starts with: the rate at all the slots that memory holds, or at
    the last full class, if no prompt were in the way of another.
    """
    rows, chunks, cap = _held(server)
    rows, chunks, cap = rows[cap > 0], chunks[cap > 0], cap[cap > 0]
    if not rows.size:
        return 0.0
    rates = Rates(server.take(rows), targets, chunks, 0.0)
    slots = np.stack([cap, last_full(cap, rates.server.parts)], axis=1)
    most = rates.unhindered(np.asarray(slots, dtype=float)).max(axis=1)
    return float((1e3 * most / rates.server.gpus).max()) * (1.0 + 1e-9)


def _held(server: Server) -> tuple[IntArray, IntArray, IntArray]:
    """Row, chunks of a prompt and slots that memory holds (or 0) of every server with every chunk count."""
    counts = chunk_counts(server.site.lengths.input)
    rows = np.arange(server.copies.size).repeat(counts.size)
    chunks = np.tile(counts, server.copies.size)
    return rows, chunks, server.take(rows).slots_cap(server.site.lengths.input / chunks)


def _needed(candidates: list[_Candidates]) -> list[_Candidates]:
    """Those that the bounds on their rates cannot exclude."""
    if not candidates:
        return []
    low = np.concatenate([each.low_rate for each in candidates])
    high = np.concatenate([each.high_rate for each in candidates]) * (1.0 + 1e-9)
    keep = needed(join_places([(each.family, each.rates.server) for each in candidates], links=False), low, high)
    result, offset = [], 0
    for each in candidates:
        kept = np.flatnonzero(keep[offset : offset + each.cap.size])
        offset += each.cap.size
        if kept.size:
            result.append(each.take(kept))
    return result


def _options(family: Family, rates: Rates, slots: IntArray, rate: FloatArray, origin: IntArray) -> OptionBlock:
    """The block of chosen batches, with the latencies at their rates (requests/ms)."""
    server, targets = rates.server, rates.targets
    wanted, column = np.asarray(slots, dtype=float)[:, None], rate[:, None]
    mix = rates.seen_mix(wanted)
    mixed = mix.at(column)
    tpot = rates.tpot_ms(mixed, mix)
    stay = mix.chunks * mixed.prompt_step_ms + server.site.lengths.decode_tokens * tpot
    flight = np.minimum(column * stay / np.asarray(server.copies[:, None], dtype=float), wanted)
    return OptionBlock.of(
        family,
        origin=origin,
        replicas=server.copies,
        microbatches=server.microbatches,
        slots=slots,
        in_flight=flight[:, 0],
        chunks=rates.chunk_counts,
        utilisation=np.maximum((flight / wanted)[:, 0], 1e-9),
        rate_rps=1e3 * rate,
        ttft_ms=targets.ttft_ms,
        tpot_ms=tpot[:, 0],
        residency_s=1e-3 * stay[:, 0],
    )
