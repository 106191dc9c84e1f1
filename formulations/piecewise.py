"""Formulation `piecewise`: the batch of a curve is continuous, everything else is as in `columns`.

A curve is a layout whose step time over the batch b is piecewise linear. On one of its segments, where b runs from
b_low to b_high, the step time is the largest of its pieces, t(b) = max_q (alpha_q + beta_q b) seconds; one piece for an
ordinary linearised kernel, several for an AFD unit, whose step is the larger of two bounds. Segments need not join and
t need not be convex over the whole curve: every segment k has replicas of its own. With x[k] the steps/s of all of
them together and v[k] = batch x steps/s the tokens/s, for every segment k and period t::

    cStep[q, t]:       alpha_q x[k, t] + beta_q v[k, t]  <=  n[k, t]     for every piece q of k        [replicas]
    cBatchLow[k, t]:   b_low[k] x[k, t]  <=  v[k, t]                                                  [tokens/s]
    cBatchHigh[k, t]:  v[k, t]  <=  b_high[k] x[k, t]                                                 [tokens/s]
    capacity[k, t]   =  v[k, t] / steps_per_request                                                   [requests/s]

x, v >= 0, n integer. This is exact: n replicas at batch b run n / t(b) steps/s in all, and the product n b / t(b) is
the variable v. Nothing else depends on b, so for given n the largest capacity of a segment is n times that of its best
batch, the b at which b / t(b) is largest: an end of the segment or a point where two pieces cross. Hence a segment may
be pruned like an option of that rate (`formulations.dominance`), and the solution's rates have closed forms.

Where every option of `columns` lies on a curve, each plan of `columns` is one of `piecewise`, whose optimum is
therefore no worse; the difference is the value of fractional batches.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import numpy as np
from pyomo.core import Constraint, NonNegativeReals, Set, Var

from formulations.assembly import PERIODS, Assembly, linear, new_model, options_of
from formulations.dominance import prune as kept_rows
from formulations.formulation import Formulation, formulate, run
from formulations.seam import Progress
from formulations.solution import Segment, Solution
from formulations.table import FloatArray, IntArray, OptionTable, Problem, check, gpus_by_pool


@dataclass(frozen=True)
class CurveTable:
    """A struct of arrays: C curves, K segments of them, Q pieces of the segments.

    The items are of the types of the option table beside it (its `item_pool` and `item_gpus`).

    Attributes:
        service: (C,), as in `OptionTable`; likewise mode, role, level, items (C, I), cost, traffic_gbyte (C, P),
            residency_s and label.
        mode: (C,).
        role: (C,).
        level: (C,).
        items: (C, I).
        cost: (C,).
        traffic_gbyte: (C, P).
        residency_s: (C,).
        label: (C,).
        steps_per_request: tokens (steps x batch) that one request needs, (C,).
        segment_curve: curve of each segment, (K,).
        batch_low: smallest batch of the segment, (K,), cut at every limit by the caller.
        batch_high: largest batch, (K,).
        piece_segment: segment of each piece, (Q,).
        alpha_s: step time at batch zero of the piece, seconds, (Q,).
        beta_s: seconds per unit of batch, (Q,).
    """

    service: IntArray
    mode: IntArray
    role: IntArray
    level: IntArray
    items: IntArray
    cost: FloatArray
    traffic_gbyte: FloatArray
    residency_s: FloatArray
    label: IntArray
    steps_per_request: FloatArray
    segment_curve: IntArray
    batch_low: FloatArray
    batch_high: FloatArray
    piece_segment: IntArray
    alpha_s: FloatArray
    beta_s: FloatArray

    def __post_init__(self) -> None:
        """Refuse segments and pieces without meaning (ValueError)."""
        if not len(self.segment_curve) == len(self.batch_low) == len(self.batch_high):
            raise ValueError("segment_curve, batch_low and batch_high differ in length")
        if not len(self.piece_segment) == len(self.alpha_s) == len(self.beta_s):
            raise ValueError("piece_segment, alpha_s and beta_s differ in length")
        if np.any(self.batch_low < 0) or np.any(self.batch_high < self.batch_low) or np.any(self.batch_high <= 0):
            raise ValueError("a segment needs 0 <= batch_low <= batch_high and batch_high > 0")
        if np.any(self.steps_per_request <= 0):
            raise ValueError("steps_per_request must be > 0")
        segments = len(self.segment_curve)
        if len(np.intersect1d(self.piece_segment, np.arange(segments))) != segments:
            raise ValueError("every segment needs a piece")
        for batch in (self.batch_low, self.batch_high):
            if np.any(step_time_s(self, batch) <= 0):
                raise ValueError("the step time of a segment must be > 0 at both of its ends")


def step_time_s(curves: CurveTable, batch: FloatArray) -> FloatArray:
    """Return the step time of every segment at a batch of its own, seconds, (K,)."""
    time = np.full(len(curves.segment_curve), -np.inf)
    np.maximum.at(time, curves.piece_segment, curves.alpha_s + curves.beta_s * batch[curves.piece_segment])
    return time


def best_batch(curves: CurveTable) -> FloatArray:
    """Return the batch of every segment at which batch / step time is largest, (K,)."""
    best = curves.batch_high.copy()
    throughput = best / step_time_s(curves, best)
    candidates = [curves.batch_low, *_crossings(curves)]
    for batch in candidates:
        value = batch / step_time_s(curves, batch)
        better = value > throughput
        best = np.where(better, batch, best)
        throughput = np.where(better, value, throughput)
    return best


def _crossings(curves: CurveTable) -> list[FloatArray]:
    """Return points where two pieces of a segment cross, one array (K,) per pair of places; the low end elsewhere."""
    order = np.argsort(curves.piece_segment, kind="stable")
    segment = curves.piece_segment[order]
    place = np.arange(len(segment)) - np.searchsorted(segment, segment)
    most = int(place.max(initial=0)) + 1
    alpha = np.full((len(curves.segment_curve), most), np.nan)
    beta = np.full((len(curves.segment_curve), most), np.nan)
    alpha[segment, place], beta[segment, place] = curves.alpha_s[order], curves.beta_s[order]
    found = []
    for one in range(most):
        for other in range(one + 1, most):
            with np.errstate(divide="ignore", invalid="ignore"):
                batch = (alpha[:, other] - alpha[:, one]) / (beta[:, one] - beta[:, other])
            inside = (batch > curves.batch_low) & (batch < curves.batch_high)
            found.append(np.where(inside, batch, curves.batch_low))
    return found


def as_options(problem: Problem, table: OptionTable, curves: CurveTable) -> OptionTable:
    """Return the table followed by every segment as an option at its best batch."""
    owner = curves.segment_curve
    batch = best_batch(curves)
    rate = batch / step_time_s(curves, batch) / curves.steps_per_request[owner]
    return OptionTable(
        service=np.concatenate((table.service, curves.service[owner])),
        mode=np.concatenate((table.mode, curves.mode[owner])),
        role=np.concatenate((table.role, curves.role[owner])),
        level=np.concatenate((table.level, curves.level[owner])),
        rate_rps=np.concatenate((table.rate_rps, rate)),
        items=np.concatenate((table.items, curves.items[owner])),
        item_pool=table.item_pool,
        item_gpus=table.item_gpus,
        cost=np.concatenate((table.cost, curves.cost[owner])),
        traffic_gbyte=np.concatenate((table.traffic_gbyte, curves.traffic_gbyte[owner])),
        residency_s=np.concatenate((table.residency_s, curves.residency_s[owner])),
        label=np.concatenate((table.label, curves.label[owner])),
    )


def build(problem: Problem, table: OptionTable, curves: CurveTable, kept: IntArray | None = None) -> Formulation:
    """Return the Pyomo model of a problem over options and curves.

    Args:
        problem: the problem.
        table: options of the roles without curves, or beside them.
        curves: the curves.
        kept: rows of options followed by segments to build; None for all.

    Raises:
        ValueError: the tables do not belong to the problem, or a pool has too many packing patterns.
    """
    joined = as_options(problem, table, curves)
    check(problem, joined)
    chosen = np.arange(len(joined), dtype=np.int64) if kept is None else kept
    options, rows, paths, largest = options_of(problem, joined.take(chosen))
    rows = chosen[rows]
    segment = rows - len(table)
    on_curve = segment >= 0
    coefficient = options.rate_rps.copy()
    coefficient[on_curve] = 1 / curves.steps_per_request[curves.segment_curve[segment[on_curve]]]
    model = new_model(problem, paths, largest)
    assembly = Assembly(
        problem=problem,
        paths=paths,
        role=options.role,
        items=options.items,
        item_pool=options.item_pool,
        item_gpus=options.item_gpus,
        gpus=gpus_by_pool(options.items, options.item_pool, options.item_gpus, len(problem.pools)),
        largest=largest,
        cost=options.cost,
        traffic_gbyte=options.traffic_gbyte,
        residency_s=options.residency_s,
        capacity_rps=options.rate_rps,
        coefficient=coefficient,
        model=model,
        carriers=tuple("vTokens" if flag else "vN" for flag in on_curve.tolist()),
    )
    segments = {int(row): int(segment[row]) for row in np.flatnonzero(on_curve)}
    _add_segments(model, curves, segments)
    return formulate(assembly, rows, _carried(model, curves, segments))


def _add_segments(model: Any, curves: CurveTable, segments: dict[int, int]) -> None:
    """Add vSteps, vTokens, cStep, cBatchLow and cBatchHigh; `segments` gives the segment of each row that is one."""
    model.sSegments = Set(initialize=list(segments))
    model.vSteps = Var(model.sSegments, model.sPeriods, domain=NonNegativeReals)
    model.vTokens = Var(model.sSegments, model.sPeriods, domain=NonNegativeReals)
    model.cStep = Constraint(range(len(curves.piece_segment)), model.sPeriods)
    model.cBatchLow = Constraint(model.sSegments, model.sPeriods)
    model.cBatchHigh = Constraint(model.sSegments, model.sPeriods)
    order = np.argsort(curves.piece_segment, kind="stable")
    first, last = (
        np.searchsorted(curves.piece_segment[order], list(segments.values()), side) for side in ("left", "right")
    )
    for (row, segment), start, stop in zip(segments.items(), first.tolist(), last.tolist(), strict=True):
        for period in model.sPeriods:
            steps, tokens = model.vSteps[row, period], model.vTokens[row, period]
            for piece in order[start:stop].tolist():
                terms = [(curves.alpha_s[piece], steps), (curves.beta_s[piece], tokens), (-1.0, model.vN[row, period])]
                model.cStep.add((piece, period), (None, linear(terms), 0.0))
            low = linear([(curves.batch_low[segment], steps), (-1.0, tokens)])
            high = linear([(1.0, tokens), (-curves.batch_high[segment], steps)])
            model.cBatchLow.add((row, period), (None, low, 0.0))
            model.cBatchHigh.add((row, period), (None, high, 0.0))


def _carried(model: Any, curves: CurveTable, segments: dict[int, int]) -> Callable[[IntArray], list[tuple[Any, float]]]:
    """Return the function from replicas to the values of vSteps and vTokens at the best batch."""
    batch = best_batch(curves)
    time = step_time_s(curves, batch)

    def carried(replicas: IntArray) -> list[tuple[Any, float]]:
        known: list[tuple[Any, float]] = []
        for row, segment in segments.items():
            for period in PERIODS:
                steps = float(replicas[row] / time[segment])
                known.append((model.vSteps[row, period], steps))
                known.append((model.vTokens[row, period], steps * float(batch[segment])))
        return known

    return carried


def solve(
    problem: Problem,
    table: OptionTable,
    curves: CurveTable,
    *,
    gap: float = 1e-4,
    time_limit_s: float | None = None,
    threads: int = 1,
    prune: bool = True,
    progress: Progress | None = None,
) -> Solution:
    """Solve a problem over options and curves.

    Args:
        problem: the problem.
        table: options of the roles without curves, or beside them.
        curves: the curves.
        gap: relative gap at which to stop.
        time_limit_s: wall clock for the whole call; None for none.
        threads: of HiGHS.
        prune: whether to remove dominated options and segments first.
        progress: called with (incumbent, bound, seconds) while the search runs.

    Returns:
        The solution; `replicas` is keyed by row of `table`, `segments` by segment of `curves`.

    Raises:
        ValueError: the tables do not belong to the problem, or a pool has too many packing patterns.
    """
    began = perf_counter()
    kept = kept_rows(problem, as_options(problem, table, curves)) if prune else None
    built = build(problem, table, curves, kept)
    found = run(built, gap=gap, time_limit_s=time_limit_s, threads=threads, start=None, progress=progress, began=began)
    batch = best_batch(curves)
    time = step_time_s(curves, batch)
    segments = {}
    for row, count in found.replicas.items():
        segment = row - len(table)
        if segment >= 0:
            steps = count / float(time[segment])
            segments[segment] = Segment(count, float(batch[segment]), steps, steps * float(batch[segment]))
    options = {row: count for row, count in found.replicas.items() if row < len(table)}
    return replace(found, replicas=options, segments=segments)
