"""What a service asks of every option: its SLO, and how its requests arrive."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

from planner.costs.lengths import Lengths
from specs.service import Service, Statistic
from specs.workload import ArrivalProcess, Workload

SLOT_WAIT_PROBABILITY = 0.00148
"""Halfin-Whitt probability of waiting for a slot when three standard deviations of slots are held in reserve."""


@dataclass(frozen=True)
class Targets:
    """SLO and arrivals of one service.

    Args:
        ttft_ms: bound on TTFT, inf for none.
        tpot_ms: bound on TPOT, inf for none.
        statistic: of both.
        arrival_cv: coefficient of variation of the gaps between arrivals; 0 for a closed loop, whose clients wait for
            their answer before they ask again.
        queue_cv: the same with the variation of prompt lengths added, for queues whose service time varies with them:
            their mean wait grows with the sum of both squared coefficients (Kingman).
    """

    ttft_ms: float
    tpot_ms: float
    statistic: Statistic
    arrival_cv: float
    queue_cv: float

    @staticmethod
    def of(service: Service, workload: Workload) -> Targets:
        """Targets of a service."""
        closed = workload.arrival.process is ArrivalProcess.CLOSED_LOOP
        cv = 0.0 if closed else workload.arrival.interarrival_cv
        queue_cv = math.sqrt((1.0 if closed else cv * cv) + Lengths.of(workload).input_cv2)
        return Targets(
            ttft_ms=service.slo.ttft_ms if service.slo.ttft_ms is not None else math.inf,
            tpot_ms=service.slo.tpot_ms if service.slo.tpot_ms is not None else math.inf,
            statistic=service.slo.statistic,
            arrival_cv=cv,
            queue_cv=queue_cv,
        )

    @property
    def deviations(self) -> float:
        """Standard deviations above the mean at which a normal variable has the SLO's percentile; 0 for the mean."""
        return 0.0 if self.statistic is Statistic.MEAN else NormalDist().inv_cdf(int(self.statistic.value[1:]) / 100.0)

    @property
    def residual_share(self) -> float:
        """Rest of a step of fixed length that an arrival at a random moment waits for, at the statistic, in steps."""
        return 0.5 if self.statistic is Statistic.MEAN else int(self.statistic.value[1:]) / 100.0
