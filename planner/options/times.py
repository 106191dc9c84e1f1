"""Latencies of a server at its SLO's statistic, from step times and random arrivals."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from planner.costs.linear import FloatArray
from planner.costs.queueing import in_flight, occupancy_seen
from planner.options.server import Server
from planner.options.targets import SLOT_WAIT_PROBABILITY, Targets
from specs.service import Statistic


@dataclass(frozen=True, eq=False)
class Latencies:
    """Servers that carry what their slots can, arrays of shape (n, g).

    Args:
        in_flight: mean requests in flight on one replica.
        stay_ms: mean time that a request decodes.
        tpot_ms: TPOT.
        first_ms: decode part of TTFT.
    """

    in_flight: FloatArray
    stay_ms: FloatArray
    tpot_ms: FloatArray
    first_ms: FloatArray


@dataclass(frozen=True, eq=False)
class DecodeTimes:
    """Latencies of a server that only decodes, by the slots of one (attention) replica, arrays of shape (n, g).

    Args:
        server: the family of servers.
        targets: the service's SLO and arrivals.
    """

    server: Server
    targets: Targets

    @cached_property
    def _copies(self) -> FloatArray:
        return np.asarray(self.server.copies[:, None], dtype=float)

    def in_flight(self, slots: FloatArray) -> FloatArray:
        """Mean requests in flight on one replica; the replicas of a server share their slots."""
        return np.asarray(in_flight(slots * self._copies, self.targets.arrival_cv) / self._copies)

    def seen(self, slots: FloatArray, mean: FloatArray) -> FloatArray:
        """Requests in flight on one replica that a request sees, at the SLO's statistic."""
        seen = occupancy_seen(
            mean * self._copies, self.targets.arrival_cv, self.targets.statistic, slots * self._copies
        )
        return np.minimum(np.maximum(seen / self._copies, mean), slots)

    def at(self, slots: FloatArray) -> Latencies:
        """All latencies at once, which is far cheaper than one after the other."""
        mean = self.in_flight(slots)
        both = self.server.decode_step_ms(*twice(mean, self.seen(slots, mean), slots))
        step, seen_step = both[:, : slots.shape[1]], both[:, slots.shape[1] :]
        stay = self._stay_ms(step)
        wait = self._slot_wait_ms(slots, mean, stay)
        return Latencies(mean, stay, self._tpot_ms(seen_step), wait + self._first_steps * seen_step)

    def tpot_ms(self, slots: FloatArray, mean: FloatArray | None = None) -> FloatArray:
        """TPOT with `mean` requests in flight on one replica, by default as many as the slots carry."""
        return self._tpot_ms(self._seen_step_ms(slots, mean))

    def _tpot_ms(self, step_ms: FloatArray) -> FloatArray:
        return np.asarray(step_ms / self.server.site.tokens_per_step)

    def stay_ms(self, slots: FloatArray, mean: FloatArray | None = None) -> FloatArray:
        """Mean time that a request decodes."""
        return self._stay_ms(self.server.decode_step_ms(self.in_flight(slots) if mean is None else mean, slots))

    def _stay_ms(self, step_ms: FloatArray) -> FloatArray:
        return np.asarray(self.server.site.lengths.decode_tokens * step_ms / self.server.site.tokens_per_step)

    def slot_wait_ms(self, slots: FloatArray, stay_ms: FloatArray) -> FloatArray:
        """Wait for a free slot.

        With three standard deviations of slots in reserve a request waits with probability 0.15% (Halfin-Whitt),
        then for stay / (free slots) on average (M/M/n). Percentiles up to p99 do not see it.
        """
        return self._slot_wait_ms(slots, self.in_flight(slots), stay_ms)

    def _slot_wait_ms(self, slots: FloatArray, carried: FloatArray, stay_ms: FloatArray) -> FloatArray:
        if self.targets.statistic is not Statistic.MEAN or self.targets.arrival_cv == 0.0:
            return np.zeros_like(stay_ms)
        return np.asarray(SLOT_WAIT_PROBABILITY * stay_ms / ((slots - carried) * self._copies))

    def first_ms(self, slots: FloatArray, mean: FloatArray | None = None) -> FloatArray:
        """Decode part of TTFT: the wait for a slot, for the running step's end, and the steps to the first token."""
        wait = self.slot_wait_ms(slots, self.stay_ms(slots, mean))
        return np.asarray(wait + self._first_steps * self._seen_step_ms(slots, mean))

    @property
    def _first_steps(self) -> float:
        """Steps to the first token, with the rest of the running one."""
        steps = float(self.server.site.engine.first_token_steps)
        return steps + self.targets.residual_share if steps > 0.0 else steps

    def _seen_step_ms(self, slots: FloatArray, mean: FloatArray | None) -> FloatArray:
        mean = self.in_flight(slots) if mean is None else mean
        return self.server.decode_step_ms(self.seen(slots, mean), slots)


def twice(mean: FloatArray, seen: FloatArray, slots: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Requests in flight and slots for two questions at once: at `mean`, then at `seen`, side by side."""
    return np.concatenate([mean, seen], axis=1), np.concatenate([slots, slots], axis=1)
