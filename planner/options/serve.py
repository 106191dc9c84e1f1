"""Options that serve whole requests: chunked prefill mixed into decode steps, on workers or AFD units.

A server has `lanes` ranks that each compute one chunk of a prompt in a mixed step. With K chunks per prompt, request
rate r per lane, decode-only step t_d and mixed step t_m, the mean step is tau = t_d + phi (t_m - t_d), where the
share of mixed steps is phi = K r tau <= 1, so

    tau = t_d / (1 - K r (t_m - t_d)).

Prompts queue for their lane like customers of a server with service time K t_m. Little's law ties the rate to the
requests in flight m: rate x (K t_m + D tau / a) = m, with D decode tokens per request and a tokens per step; with
tau from above that is a quadratic in the rate.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.costs.linear import FloatArray
from planner.costs.queueing import largest_utilisation
from planner.options.block import Family, OptionBlock
from planner.options.search import best_batches
from planner.options.server import Server
from planner.options.targets import Targets
from planner.options.times import DecodeTimes

IntArray = NDArray[np.int64]

LARGEST_CHUNK_TOKENS = 16_384
SMALLEST_CHUNK_TOKENS = 128
BISECTIONS = 30


def chunk_counts(input_tokens: float) -> IntArray:
    """Equal chunks that a prompt may be cut into: 1, 2, 3, 4, 6, 8, 12, ... within the chunk sizes."""
    fewest = math.ceil(input_tokens / LARGEST_CHUNK_TOKENS)
    most = max(fewest, int(input_tokens // SMALLEST_CHUNK_TOKENS))
    counts, base = {fewest}, 1
    while base <= most:
        counts |= {count for count in (base, base * 3 // 2) if fewest <= count <= most}
        base *= 2
    return np.array(sorted(counts), dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Rates:
    """Rates of n servers that run with fixed chunk counts, by slots; arrays of shape (n, g), requests/ms.

    Args:
        server: the family of servers.
        targets: SLO and arrivals.
        chunks: chunks per prompt.
        prefix_load_ms: time to bring a prompt's prefix to the GPU, part of TTFT.
    """

    server: Server
    targets: Targets
    chunks: int
    prefix_load_ms: float

    @property
    def _times(self) -> DecodeTimes:
        return DecodeTimes(self.server, self.targets)

    @property
    def _copies(self) -> FloatArray:
        return np.asarray(self.server.copies[:, None], dtype=float)

    @property
    def _lanes(self) -> FloatArray:
        return np.asarray(self.server.lanes[:, None], dtype=float)

    def little(self, slots: FloatArray) -> FloatArray:
        """Rate at which the mean number in flight is what the slots can carry."""
        mean = self._times.in_flight(slots)
        decode = self.server.decode_step_ms(mean, slots)
        mixed = self.server.mixed_step_ms(mean, slots, self.chunks)
        site = self.server.site
        steps = site.lengths.decode_tokens / site.tokens_per_step
        prefill = self.chunks * mixed
        slope = self.chunks * np.maximum(mixed - decode, 0.0) / self._lanes
        flight = mean * self._copies
        linear = prefill + steps * decode + slope * flight
        root = np.sqrt(np.maximum(linear**2 - 4.0 * slope * prefill * flight, 0.0))
        return np.asarray(2.0 * flight / (linear + root))

    def cap(self, slots: FloatArray) -> FloatArray:
        """Largest rate at which TTFT and TPOT hold; 0 where they do not hold even without load."""
        times = self._times
        mean = times.in_flight(slots)
        seen = times.seen(slots, mean)
        decode = self.server.decode_step_ms(seen, slots)
        mixed = self.server.mixed_step_ms(seen, slots, self.chunks)
        prefill = self.chunks * mixed
        stay = self.server.site.lengths.decode_tokens * self._limit_step_ms(decode)
        wait = times.slot_wait_ms(slots, stay)
        room = self.targets.ttft_ms - prefill - wait - self.prefix_load_ms
        busy = largest_utilisation(
            np.clip(room, 0.0, 1e12), 1, np.maximum(prefill, 1e-9), self.targets.queue_cv, self.targets.statistic
        )
        by_ttft = busy * self._lanes / np.maximum(prefill, 1e-9)
        return np.minimum(by_ttft, self._tpot_cap(decode, mixed))

    def _limit_step_ms(self, decode: FloatArray) -> FloatArray:
        """Longest mean step that TPOT allows, or the decode step where nothing bounds it."""
        if math.isinf(self.targets.tpot_ms):
            return decode
        return np.full_like(decode, self.targets.tpot_ms * self.server.site.tokens_per_step)

    def _tpot_cap(self, decode: FloatArray, mixed: FloatArray) -> FloatArray:
        """Largest rate at which TPOT holds and mixed steps do not exceed all steps (phi <= 1)."""
        lanes = self._lanes
        everything = lanes / (self.chunks * mixed)
        if math.isinf(self.targets.tpot_ms) or self.server.site.lengths.decode_tokens == 0:
            return np.asarray(everything)
        longer = np.maximum(mixed - decode, 1e-12)
        limit = self.targets.tpot_ms * self.server.site.tokens_per_step
        by_mean = np.maximum(1.0 - decode / limit, 0.0) * lanes / (self.chunks * longer)
        upper = np.minimum(by_mean, everything)
        if self.targets.deviations == 0.0:
            return np.asarray(upper)
        low, high = np.zeros_like(upper), upper
        for _ in range(BISECTIONS):
            middle = 0.5 * (low + high)
            good = self.tpot_ms(middle, decode, mixed) <= self.targets.tpot_ms
            low, high = np.where(good, middle, low), np.where(good, high, middle)
        return low

    def tpot_ms(self, rate: FloatArray, decode: FloatArray, mixed: FloatArray) -> FloatArray:
        """TPOT at the SLO's statistic for a rate in requests/ms.

        A request sees a Poisson number of foreign prompts during its stay, each of which makes K of its steps mixed;
        its TPOT varies with their number.
        """
        site, lanes = self.server.site, self._lanes
        longer = np.maximum(mixed - decode, 0.0)
        share = self.chunks * rate / lanes * longer
        step = decode / np.maximum(1.0 - share, 1e-12)
        steps = max(site.lengths.decode_tokens / site.tokens_per_step, 1e-12)
        prompts = rate / lanes * steps * step
        spread = self.targets.deviations * self.chunks * longer * np.sqrt(prompts) / steps
        return np.asarray((step + max(self.targets.arrival_cv, 1.0) * spread) / site.tokens_per_step)


def serve_options(
    family: Family, server: Server, targets: Targets, prefix_load_ms: float, rejected: Counter[str]
) -> OptionBlock:
    """The options of a family that can be best, one per server and chunk count.

    With the slots the rate that fills them grows (Little) and the rate that the SLO allows shrinks, so the best batch
    is where they cross: the largest batch at which filling the slots stays within the SLO, or the next one.

    Args:
        family: what the servers are.
        server: the same, as the options see it.
        targets: SLO and arrivals.
        prefix_load_ms: time to bring one prompt's prefix to the GPU.
        rejected: counts of refused options, by reason.
    """
    blocks = []
    parts = server.parts
    for count in chunk_counts(server.site.lengths.input):
        rates = Rates(server, targets, int(count), prefix_load_ms)
        cap = server.slots_cap(server.site.lengths.input / count)
        rejected["memory cannot hold weights and one request"] += int(np.sum(cap == 0))
        if not cap.any():
            continue

        def within(slots: IntArray, rates: Rates = rates) -> NDArray[np.bool_]:
            wanted = np.asarray(np.maximum(slots, 1), dtype=float)
            return np.asarray(rates.little(wanted) <= rates.cap(wanted))

        best = best_batches(within, cap, parts)
        multiple = best[:, 0]
        above = np.maximum(best[:, 1] - multiple, 0)
        offsets = np.stack([np.zeros_like(above), above, above + 1, parts], axis=1)
        slots = np.minimum(multiple[:, None] + offsets, cap[:, None])
        wanted = np.asarray(np.maximum(slots, 1), dtype=float)
        rate = np.where(slots > 0, np.minimum(rates.little(wanted), rates.cap(wanted)), 0.0)
        chosen = np.argmax(rate, axis=1)
        rows = np.arange(cap.size)
        good = (cap > 0) & (rate[rows, chosen] > 0.0)
        rejected["TTFT or TPOT"] += int(np.sum((cap > 0) & ~good))
        if good.any():
            blocks.append(
                _options(family, rates, slots[rows, chosen][good], rate[rows, chosen][good], np.flatnonzero(good))
            )
    return OptionBlock.concat(blocks)


def _options(family: Family, rates: Rates, slots: IntArray, rate: FloatArray, rows: IntArray) -> OptionBlock:
    """The block of chosen batches, with the latencies at their rates."""
    server, targets = rates.server, rates.targets
    wanted = np.ones((server.copies.size, 1))
    wanted[rows, 0] = slots
    rate_all = np.zeros((server.copies.size, 1))
    rate_all[rows, 0] = rate
    times = DecodeTimes(server, targets)
    mean = times.in_flight(wanted)
    seen = times.seen(wanted, mean)
    decode = server.decode_step_ms(seen, wanted)
    mixed = server.mixed_step_ms(seen, wanted, rates.chunks)
    tpot = rates.tpot_ms(rate_all, decode, mixed)
    stay = rates.chunks * mixed + server.site.lengths.decode_tokens * tpot
    flight = np.minimum(rate_all * stay / np.asarray(server.copies[:, None], dtype=float), wanted)
    pick = (rows, np.zeros_like(rows))
    return OptionBlock.of(
        family,
        origin=rows,
        replicas=server.copies[rows],
        microbatches=server.microbatches[rows],
        slots=slots,
        in_flight=flight[pick],
        chunks=rates.chunks,
        utilisation=np.maximum((flight / wanted)[pick], 1e-9),
        rate_rps=1e3 * rate,
        ttft_ms=targets.ttft_ms,
        tpot_ms=tpot[pick],
        residency_s=1e-3 * stay[pick],
    )
