"""Fits the few parameters of the engines to measured points.

Per engine three: the CPU time of one sequence in a step, from TPOT; then the lag in steps and the delay in ms, from
TTFT. Grids are coarse, since the error is flat around its minimum, and at most `MOST_POINTS` points of an engine are
simulated.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from planner.accuracy.estimate import CostModel
from planner.accuracy.points import Point
from planner.configured import SiteCache
from planner.costs.engines import ENGINES, EngineTraits
from planner.costs.linear import FloatArray
from specs.service import Engine, Mode, Phase

MOST_POINTS = 100
MOST_CLIENTS = 256
SEQUENCE_US = np.arange(0.0, 61.0)
TRIED_US = (0.0, 40.0)
"""TPOT is nearly linear in the time of a sequence: two values are simulated, the others interpolated."""

LAG_STEPS = (0.0, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0)
DELAYS_MS = np.arange(0.0, 155.0, 5.0)
SOFT_ERROR = 0.03
"""Relative error below which an improvement hardly counts: the corpus's own noise."""


def fitted(points: Sequence[Point], sites: SiteCache | None = None, *, most: int = MOST_POINTS) -> CostModel:
    """The cost model with parameters fitted to points.

    Args:
        points: those that may be looked at; aggregated deployments count.
        sites: operators to share.
        most: points of one engine that are simulated.
    """
    sites = SiteCache() if sites is None else sites
    engines = {engine: _fit(engine, _chosen(engine, points)[:most], sites) for engine in Engine}
    return CostModel(sites.with_engines(engines))


def _chosen(engine: Engine, points: Sequence[Point]) -> list[Point]:
    """Points of one engine, in an order that depends on nothing but themselves."""

    def usable(point: Point) -> bool:
        full = point.mode is Mode.AGGREGATED and point.phase is Phase.FULL and point.engine is engine
        measured = point.measured.ttft_ms is not None and point.measured.tpot_ms is not None
        return full and measured and point.concurrency is not None and point.concurrency <= MOST_CLIENTS

    return sorted(filter(usable, points), key=lambda point: hashlib.sha256(str(point.line).encode()).digest())


def _fit(engine: Engine, points: list[Point], sites: SiteCache) -> EngineTraits:
    traits = ENGINES[engine]
    if not points:
        return traits
    tpot = np.array([point.measured.tpot_ms for point in points], dtype=float)
    ttft = np.array([point.measured.ttft_ms for point in points], dtype=float)
    ends = [_simulated(replace(traits, sequence_us=us), points, sites)[1] for us in TRIED_US]
    losses = []
    for us in SEQUENCE_US:
        share = (us - TRIED_US[0]) / (TRIED_US[1] - TRIED_US[0])
        logs = np.log(np.maximum(ends[0] + share * (ends[1] - ends[0]), 1e-3) / tpot)
        losses.append(float(np.mean(np.sqrt(logs**2 + SOFT_ERROR**2))))
    traits = replace(traits, sequence_us=float(SEQUENCE_US[int(np.argmin(losses))]), delay_ms=0.0)
    best = (np.inf, 0.0, 0.0)
    for lag in LAG_STEPS:
        seen = _simulated(replace(traits, lag_steps=lag), points, sites)[0]
        errors = np.median(np.abs((seen + DELAYS_MS[:, None]) / ttft - 1.0), axis=1)
        best = min(best, (float(errors.min()), lag, float(DELAYS_MS[int(np.argmin(errors))])))
    return replace(traits, lag_steps=best[1], delay_ms=best[2])


def _simulated(traits: EngineTraits, points: list[Point], sites: SiteCache) -> tuple[FloatArray, FloatArray]:
    """TTFT and TPOT of points with an engine's traits; the measured figures of those that cannot be predicted."""
    model = CostModel(sites.with_engines({**ENGINES, points[0].engine: traits}))
    rows = []
    for point in points:
        try:
            found = model(point)
            rows.append((found.ttft_ms or point.measured.ttft_ms, found.tpot_ms or point.measured.tpot_ms))
        except ValueError:
            rows.append((point.measured.ttft_ms, point.measured.tpot_ms))
    ttft, tpot = np.array(rows, dtype=float).T
    return ttft, tpot
