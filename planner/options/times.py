"""Latencies of a server at its SLO's statistic, from step times and random arrivals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from planner.costs.linear import FloatArray
from planner.costs.queueing import in_flight, occupancy_seen
from planner.options.server import Server
from planner.options.targets import SLOT_WAIT_PROBABILITY, Targets
from specs.service import Statistic


@dataclass(frozen=True, eq=False)
class DecodeTimes:
    """Latencies of a server that only decodes, by the slots of one (attention) replica, arrays of shape (n, g).

    Args:
        server: the family of servers.
        targets: the service's SLO and arrivals.
    """

    server: Server
    targets: Targets

    @property
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

    def tpot_ms(self, slots: FloatArray, mean: FloatArray | None = None) -> FloatArray:
        """TPOT with `mean` requests in flight on one replica, by default as many as the slots carry."""
        step = self._seen_step_ms(slots, mean)
        return np.asarray(step / self.server.site.tokens_per_step)

    def stay_ms(self, slots: FloatArray, mean: FloatArray | None = None) -> FloatArray:
        """Mean time that a request decodes."""
        step = self.server.decode_step_ms(self.in_flight(slots) if mean is None else mean, slots)
        return np.asarray(self.server.site.lengths.decode_tokens * step / self.server.site.tokens_per_step)

    def slot_wait_ms(self, slots: FloatArray, stay_ms: FloatArray) -> FloatArray:
        """Wait for a free slot.

        With three standard deviations of slots in reserve a request waits with probability 0.15% (Halfin-Whitt),
        then for stay / (free slots) on average (M/M/n). Percentiles up to p99 do not see it.
        """
        if self.targets.statistic is not Statistic.MEAN or self.targets.arrival_cv == 0.0:
            return np.zeros_like(stay_ms)
        free = (slots - self.in_flight(slots)) * self._copies
        return np.asarray(SLOT_WAIT_PROBABILITY * stay_ms / free)

    def first_ms(self, slots: FloatArray, mean: FloatArray | None = None) -> FloatArray:
        """Decode part of TTFT: the wait for a slot, for the running step's end, and the steps to the first token."""
        wait = self.slot_wait_ms(slots, self.stay_ms(slots, mean))
        steps = float(self.server.site.engine.first_token_steps)
        if steps > 0.0:
            steps += self.targets.residual_share
        return np.asarray(wait + steps * self._seen_step_ms(slots, mean))

    def _seen_step_ms(self, slots: FloatArray, mean: FloatArray | None) -> FloatArray:
        mean = self.in_flight(slots) if mean is None else mean
        return self.server.decode_step_ms(self.seen(slots, mean), slots)
