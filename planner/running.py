"""Servers as they run: latencies, occupancy and rates of one server whose batch and chunks are given.

What re-evaluates plans and what predicts configurations share this path; it asks the classes that make the options
(`planner.options`) about one point.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from planner.costs.linear import FloatArray
from planner.costs.queueing import prefill_wait_ms
from planner.costs.worker import Worker
from planner.options.prefill import Transfer
from planner.options.serve import Rates
from planner.options.server import Server
from planner.options.targets import Targets
from planner.options.times import DecodeTimes

NARROWING_POINTS = 64
NARROWINGS = 9
"""Times that a bracket is cut into `NARROWING_POINTS + 1` parts: to 1e-16 of its width."""

LARGEST_BUSY = 1.0 - 1e-9
"""Utilisation of prefill at which the wait is still finite."""


def threshold(holds: Callable[[FloatArray], NDArray[np.bool_]], high: float) -> float:
    """End of the stretch [0, x) on which a condition holds, within [0, high]; `high` where it holds throughout.

    Args:
        holds: maps points of shape (1, g) to truth values of that shape.
        high: end of the range.
    """
    low, top = 0.0, high
    shares = np.arange(1, NARROWING_POINTS + 1) / (NARROWING_POINTS + 1.0)
    for _ in range(NARROWINGS):
        points = low + (top - low) * shares
        good = holds(points[None, :])[0]
        first = NARROWING_POINTS if good.all() else int(np.argmin(good))
        edges = np.concatenate([[low], points, [top]])
        low, top = float(edges[first]), float(edges[first + 1])
    return top


@dataclass(frozen=True, eq=False)
class PrefillRun:
    """A worker that computes prompts.

    Args:
        worker: the worker.
        targets: arrivals and statistic.
        prompts: most prompts of one step.
        chunks: equal chunks of each prompt.
    """

    worker: Worker
    targets: Targets
    prompts: int
    chunks: int

    @cached_property
    def time_ms(self) -> float:
        """All chunks of the prompts of one step."""
        return float(self.worker.prefill_ms(float(self.prompts), self.chunks))

    @property
    def on_rank(self) -> int:
        """Prompts of one step on the fullest DP rank."""
        return math.ceil(self.prompts / self.worker.layout.dp)

    @property
    def link_bytes_per_ms(self) -> float:
        """Rate at which the cache of one request can leave."""
        layout = self.worker.layout
        return layout.tp * layout.pp * self.worker.site.fabric.scale_out_bytes_per_ms

    def busy(self, rate_rps: FloatArray) -> FloatArray:
        """Share of time that it computes."""
        return np.asarray(rate_rps * self.time_ms * 1e-3 / self.prompts)

    def ttft_ms(self, rate_rps: FloatArray) -> FloatArray:
        """Wait and prefill, at the statistic."""
        busy = np.minimum(self.busy(rate_rps), LARGEST_BUSY)
        wait = prefill_wait_ms(busy, self.prompts, self.time_ms, self.targets.queue_cv, self.targets.statistic)
        return np.asarray(wait + self.time_ms)

    def largest_rps(self, transfer_bytes: float) -> float:
        """Rate at which it, or its NICs, which send `transfer_bytes` per request, are busy throughout."""
        rate = 1e3 * self.prompts / self.time_ms
        if transfer_bytes <= 0.0:
            return rate
        nics = self.worker.layout.gpus * self.worker.site.fabric.scale_out_bytes_per_ms
        return min(rate, 1e3 * nics / transfer_bytes)


@dataclass(frozen=True, eq=False)
class DecodeRun:
    """A server that only decodes. Occupancies are means of one (attention) replica.

    Args:
        server: one worker or AFD unit.
        targets: arrivals and statistic.
        slots: of one replica.
    """

    server: Server
    targets: Targets
    slots: int

    @property
    def copies(self) -> int:
        """Replicas that share one queue."""
        return int(self.server.copies[0])

    @property
    def link_bytes_per_ms(self) -> float:
        """Rate at which the cache of one request can arrive."""
        return self.server.links * self.server.site.fabric.scale_out_bytes_per_ms

    @cached_property
    def _times(self) -> DecodeTimes:
        return DecodeTimes(self.server, self.targets)

    def _slots(self, mean: FloatArray) -> FloatArray:
        return np.full_like(mean, float(self.slots))

    def mean(self, rate_rps: float) -> float:
        """Mean in flight m with m = rate x stay(m); the slots where the rate asks for more."""
        per_replica = rate_rps * 1e-3 / self.copies

        def carried_exceeds(mean: FloatArray) -> NDArray[np.bool_]:
            return np.asarray(per_replica * self._times.stay_ms(self._slots(mean), mean) > mean)

        return threshold(carried_exceeds, float(self.slots))

    def rate_rps(self, mean: FloatArray) -> FloatArray:
        """Rate that keeps `mean` requests in flight, shape (1, g)."""
        stay = np.maximum(self._times.stay_ms(self._slots(mean), mean), 1e-9)
        return np.asarray(1e3 * mean * self.copies / stay)

    def largest_rps(self, transfer_bytes: float) -> float:
        """Rate that fills every slot, or the NICs, which take in `transfer_bytes` per request."""
        filled = float(self.rate_rps(np.full((1, 1), float(self.slots)))[0, 0])
        if transfer_bytes <= 0.0:
            return filled
        nics = self.server.site.fabric.scale_out_bytes_per_ms * float(self.server.attention_gpus[0])
        return min(filled, 1e3 * nics / transfer_bytes)

    def first_ms(self, mean: FloatArray) -> FloatArray:
        """Decode part of TTFT, at the statistic."""
        return self._times.first_ms(self._slots(mean), mean)

    def tpot_ms(self, mean: FloatArray) -> FloatArray:
        """TPOT at the statistic."""
        return self._times.tpot_ms(self._slots(mean), mean)

    def step_ms(self, mean: float) -> float:
        """Step with the mean number in flight."""
        return float(self.server.decode_step_ms(np.full((1, 1), mean), np.full((1, 1), float(self.slots)))[0, 0])


@dataclass(frozen=True)
class ServePoint:
    """A server of whole requests at one rate.

    Args:
        ttft_ms: at the statistic.
        tpot_ms: at the statistic.
        decode_step_ms: step without a chunk at the mean number in flight.
        mixed_step_ms: step with a chunk on every lane at the mean number in flight.
        prefill_ms: all chunks of one prompt.
        share: share of steps in which a given lane computes a chunk.
    """

    ttft_ms: float
    tpot_ms: float
    decode_step_ms: float
    mixed_step_ms: float
    prefill_ms: float
    share: float


@dataclass(frozen=True, eq=False)
class ServeRun:
    """A server that serves whole requests. Occupancies are means of one (attention) replica.

    Args:
        server: one worker or AFD unit.
        targets: arrivals and statistic.
        slots: of one replica.
        chunks: equal chunks of a prompt.
        prefix_load_ms: time to bring one prompt's prefix.
    """

    server: Server
    targets: Targets
    slots: int
    chunks: int
    prefix_load_ms: float

    @property
    def copies(self) -> int:
        """Replicas that share one queue."""
        return int(self.server.copies[0])

    @cached_property
    def rates(self) -> Rates:
        """What the options ask."""
        return Rates(self.server, self.targets, np.array([self.chunks]), self.prefix_load_ms)

    def _slots(self, mean: FloatArray) -> FloatArray:
        return np.full_like(mean, float(self.slots))

    def mean(self, rate_rps: float) -> float:
        """Mean in flight m with m = rate x stay(m); the slots where the rate asks for more."""
        per_ms = rate_rps * 1e-3

        def carried_exceeds(mean: FloatArray) -> NDArray[np.bool_]:
            mix = self.rates.mix(mean, self._slots(mean))
            carried = mix.in_flight(np.full_like(mean, per_ms), self.rates.decode_steps)
            return np.asarray(carried / self.copies > mean)

        return threshold(carried_exceeds, float(self.slots))

    def rate_rps(self, mean: FloatArray) -> FloatArray:
        """Rate that keeps `mean` requests in flight, shape (1, g)."""
        mix = self.rates.mix(mean, self._slots(mean))
        return np.asarray(1e3 * mix.rate(mean * self.copies, self.rates.decode_steps))

    def share(self, mean: FloatArray) -> FloatArray:
        """Share of steps in which a given lane computes a chunk, at the rate that keeps `mean` in flight."""
        mix = self.rates.mix(mean, self._slots(mean))
        return mix.at(mix.rate(mean * self.copies, self.rates.decode_steps)).share

    @cached_property
    def fullest(self) -> float:
        """Most requests in flight: all slots, or those at which every step of every lane computes a chunk."""
        return threshold(lambda mean: np.asarray(self.share(mean) < 1.0), float(self.slots))

    @property
    def largest_rps(self) -> float:
        """Rate at `fullest`."""
        return float(self.rate_rps(np.full((1, 1), self.fullest))[0, 0])

    def latencies_ms(self, mean: FloatArray, rate_rps: FloatArray) -> tuple[FloatArray, FloatArray]:
        """TTFT and TPOT at the statistic."""
        slots = self._slots(mean)
        times = DecodeTimes(self.server, self.targets)
        mix = self.rates.mix(times.seen(slots, mean), slots)
        mixed = mix.at(rate_rps * 1e-3)
        return self.rates.ttft_ms(mixed, mix, slots), self.rates.tpot_ms(mixed, mix)

    def at(self, mean: float, rate_rps: float) -> ServePoint:
        """Everything at one rate and the mean number in flight that belongs to it."""
        flight, rate = np.full((1, 1), mean), np.full((1, 1), rate_rps)
        ttft, tpot = self.latencies_ms(flight, rate)
        mix = self.rates.mix(flight, self._slots(flight))
        mixed = mix.at(rate * 1e-3)
        return ServePoint(
            ttft_ms=float(ttft[0, 0]),
            tpot_ms=float(tpot[0, 0]),
            decode_step_ms=float(mix.decode[0, 0]),
            mixed_step_ms=float(mix.every[0, 0]),
            prefill_ms=float(self.chunks * mixed.prompt_step_ms[0, 0]),
            share=float(mixed.share[0, 0]),
        )


def exposed_ms(transfer: Transfer, prefill: PrefillRun, decode: DecodeRun) -> float:
    """Part of the KV transfer from one to the other that adds to TTFT."""
    if transfer.bytes_per_request <= 0:
        return 0.0
    link = min(prefill.link_bytes_per_ms, decode.link_bytes_per_ms)
    prompts, chunks, time = np.array(float(prefill.on_rank)), np.array(prefill.chunks), np.array(prefill.time_ms)
    return float(transfer.exposed_ms(prompts, link, chunks, time))
