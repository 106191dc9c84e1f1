"""Curves: the step time of one decoding server as an exact piecewise-linear function of a continuous batch.

The batch b is the mean number of requests in flight on the whole server (b = copies x m, with m on one replica), a real
number dealt out evenly: every part has max(b / (copies x parts), 1) sequences. Slots that are a full multiple of the
parts lie on the curve exactly; others leave some part fuller than the rest and lie on it or above.

Between the knots of the kernel functions, mapped to b, every operator's time is affine. A serial step is their sum,
hence affine too; an overlapped step and that of an AFD unit are maxima of sums of them (the max-plus recursion), hence
convex and piecewise linear. The kinks of a convex stretch are found exactly where tangents cross: the tangents at both
ends bound the function from below; if it touches them where they cross, that is the only kink, else each side is
looked at in turn.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from formulations.piecewise import CurveTable
from planner.costs.afd import AfdUnit
from planner.costs.linear import FloatArray, PiecewiseLinear
from planner.costs.queueing import in_flight
from planner.costs.sides import draft_group
from planner.costs.worker import Worker
from planner.options.block import Family
from planner.options.server import AfdServer, Server, WorkerServer
from planner.space import ServiceSpace, Space
from planner.table import Tables

IntArray = NDArray[np.int64]

CURVE_TOLERANCE = 1e-10
"""Relative error at which a stretch counts as straight."""

TANGENT_SHARE = 1e-4
"""Share of a stretch over which the slope at its end is measured. Rounding of 1e-16 then moves the far end of the
tangent by 1e-12; a kink so near the end is found when the stretch has shrunk around it."""

MOST_SPLITS = 60
"""Rounds of splitting; each leaves stretches that are straight or hold a kink, at most 1e-4 as long near an end."""


@dataclass(frozen=True, eq=False)
class EvenWorker(WorkerServer):
    """Workers whose batch is dealt out evenly over their parts, in fractions of a request where need be."""

    def take(self, rows: IntArray) -> EvenWorker:
        """As many rows as `rows` has."""
        return EvenWorker(self.worker, rows.size)

    def decode_step_ms(self, in_flight: FloatArray, slots: FloatArray) -> FloatArray:
        """Step with only decoding sequences, whatever the slots."""
        return self.worker.decode_step_ms(in_flight, np.full_like(in_flight, self.worker.layout.parts))


@dataclass(frozen=True, eq=False)
class EvenUnit(AfdServer):
    """AFD units whose batch is dealt out evenly over their micro-batches."""

    def take(self, rows: IntArray) -> EvenUnit:
        """The units of some rows."""
        return EvenUnit(self.unit, self.copies[rows], self.microbatches[rows])

    def decode_step_ms(self, in_flight: FloatArray, slots: FloatArray) -> FloatArray:
        """Step with only decoding sequences, whatever the slots."""
        count = self.microbatches[:, None]
        even = np.broadcast_to(count, in_flight.shape).astype(float)
        return self.unit.decode_step_ms(in_flight, self.copies[:, None], count, even)


def even_server(family: Family, copies: IntArray, microbatches: IntArray) -> EvenWorker | EvenUnit:
    """Servers of a family whose batch is dealt out evenly.

    Args:
        family: a worker, or what AFD units share.
        copies: attention replicas, shape (n,); 1 for a worker.
        microbatches: micro-batches in flight, shape (n,); 1 for a worker.
    """
    if isinstance(family, Worker):
        return EvenWorker(family, copies.size)
    return EvenUnit(family, copies, microbatches)


def step_ms(server: Server, batch: FloatArray) -> FloatArray:
    """Step time of one server (n = 1) whose batch is dealt out evenly, at batches of any shape, ms."""
    flat = np.asarray(batch, dtype=float).ravel()[None, :] / float(server.copies[0])
    return np.asarray(server.decode_step_ms(flat, flat)).reshape(np.shape(batch))


def smallest_batch(copies: int, arrival_cv: float) -> float:
    """Mean in flight on a server whose every replica has one slot."""
    return float(in_flight(float(copies), arrival_cv))


# -- knots -------------------------------------------------------------------------------------------------------------

Scaled = tuple[PiecewiseLinear, float]
"""A kernel function f and a factor c: the operator takes f(c b) at batch b."""


def operators(family: Family, copies: int, microbatches: int) -> Iterator[Scaled]:
    """Every kernel function of a decode step with the factor that maps the batch to its argument."""
    if isinstance(family, Worker):
        yield from _worker_operators(family)
    else:
        yield from _unit_operators(family, copies, microbatches)


def _worker_operators(worker: Worker) -> Iterator[Scaled]:
    site, layout = worker.site, worker.layout
    lengths, queries, batches = site.lengths, site.queries, 2 if layout.overlap else 1
    on_part = 1.0 / layout.parts
    for index in range(len(site.model.layers)):
        for part in (worker.attention.token_time(index), *worker.exchanges(index, low_latency=True)):
            yield part, on_part * queries
        yield worker.attention.decode_core(index, lengths.first_context, lengths.last_context), on_part
        yield worker.experts.expert_time(index), on_part * layout.dp * queries
    for part in worker.once_parts.values():
        yield part, on_part * queries * batches
    if queries > 1 and site.model.draft_params:
        index = draft_group(site.model)
        parts = [worker.attention.token_time(index), *worker.exchanges(index, low_latency=True)]
        parts.append(worker.attention.decode_core(index, lengths.first_context, lengths.last_context))
        for part in (*parts, *worker.attention.head_parts().values()):
            yield part, on_part * batches
        yield worker.experts.expert_time(index), on_part * layout.dp * batches


def _unit_operators(unit: AfdUnit, copies: int, microbatches: int) -> Iterator[Scaled]:
    site = unit.attention_site
    lengths, queries = site.lengths, site.queries
    on_part = 1.0 / (copies * microbatches)
    # Drafting passes one query per sequence through a layer, the step itself `queries` of them.
    passes = (queries, 1) if queries > 1 and site.model.draft_params else (queries,)
    for index in range(len(site.model.layers)):
        yield unit.attention.decode_core(index, lengths.first_context, lengths.last_context), on_part
        for each in passes:
            yield unit.attention.token_time(index), on_part * each
            yield unit.experts.expert_time(index), on_part * each * copies
    for part in unit.attention.head_parts().values():
        for each in passes:
            yield part, on_part * each * microbatches


def knots(family: Family, copies: int, microbatches: int) -> FloatArray:
    """Batches between which every operator's time is affine, ascending."""
    found = [part.x / factor for part, factor in operators(family, copies, microbatches)]
    # A part that runs, and a step over all DP ranks, has one sequence at least.
    if isinstance(family, Worker):
        found.append(np.array([family.layout.parts, family.layout.parts / family.layout.dp]))
    else:
        found.append(np.array([float(copies * microbatches)]))
    return np.unique(np.concatenate(found))


# -- segments ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Curve:
    """Step time of one server: K straight segments that join.

    Args:
        batch: their ends, ascending, shape (K + 1,).
        step_ms: step time there, shape (K + 1,).
    """

    batch: FloatArray
    step_ms: FloatArray

    def __call__(self, batch: FloatArray) -> FloatArray:
        """Step time at batches inside the curve, ms."""
        return np.interp(batch, self.batch, self.step_ms)

    def lines(self) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """Low end, high end, slope in ms and time at batch zero in ms of every segment; of one where it is a point."""
        if self.batch.size == 1:
            return self.batch, self.batch, np.zeros(1), self.step_ms
        slope = np.diff(self.step_ms) / np.diff(self.batch)
        return self.batch[:-1], self.batch[1:], slope, self.step_ms[:-1] - slope * self.batch[:-1]


def curve(family: Family, copies: int, microbatches: int, low: float, high: float) -> Curve:
    """The step time of one server over the batches from `low` to `high`.

    Args:
        family: a worker, or what AFD units share.
        copies: attention replicas of the unit; 1 for a worker.
        microbatches: micro-batches in flight; 1 for a worker.
        low: smallest batch, > 0.
        high: largest batch, >= low.

    Raises:
        ValueError: `low` is not positive or exceeds `high`.
    """
    if not 0.0 < low <= high:
        raise ValueError(f"a curve needs 0 < low <= high, got {low} and {high}")
    server = even_server(family, np.array([copies]), np.array([microbatches]))
    inner = knots(family, copies, microbatches)
    # Knots closer than rounding to an end would make stretches without length.
    inner = inner[(inner > low * (1.0 + 1e-12)) & (inner < high * (1.0 - 1e-12))]
    ends = np.concatenate(([low], inner, [high] if high > low else []))
    kinks = _kinks(server, ends[:-1], ends[1:])
    batch = np.unique(np.concatenate((ends, kinks)))
    time = step_ms(server, batch)
    return _joined(Curve(batch, time))


def _kinks(server: Server, left: FloatArray, right: FloatArray) -> FloatArray:
    """Kinks of the step time inside stretches on each of which it is convex."""
    found: list[FloatArray] = [np.zeros(0)]
    for _ in range(MOST_SPLITS):
        if not left.size:
            break
        width = right - left
        near = TANGENT_SHARE * width
        time = step_ms(server, np.stack([left, left + near, 0.5 * (left + right), right - near, right]))
        # A convex function that touches its chord inside is straight; halfway it shows half of its largest bulge.
        bulge = 0.5 * (time[0] + time[4]) - time[2]
        bent = bulge > 0.5 * CURVE_TOLERANCE * time[2]
        left, right, width, near, time = left[bent], right[bent], width[bent], near[bent], time[:, bent]
        first, last = (time[1] - time[0]) / near, (time[4] - time[3]) / near
        offset = (last * width - (time[4] - time[0])) / (last - first)
        # A kink within `near` of an end spoils the tangent there; then they cross at `near`, which encloses the kink.
        split = left + np.clip(offset, near, width - near)
        found.append(split)
        left, right = np.concatenate([left, split]), np.concatenate([split, right])
    return np.concatenate(found)


def _joined(whole: Curve) -> Curve:
    """The curve without the points that lie on the line between their neighbours."""
    keep = np.ones(whole.batch.size, dtype=np.bool_)
    last = 0
    for point in range(1, whole.batch.size - 1):
        inside = slice(last + 1, point + 1)
        share = (whole.batch[inside] - whole.batch[last]) / (whole.batch[point + 1] - whole.batch[last])
        line = whole.step_ms[last] + share * (whole.step_ms[point + 1] - whole.step_ms[last])
        if np.all(np.abs(line - whole.step_ms[inside]) <= 0.1 * CURVE_TOLERANCE * line):
            keep[point] = False
        else:
            last = point
    return Curve(whole.batch[keep], whole.step_ms[keep])


# -- table -------------------------------------------------------------------------------------------------------------


def curve_table(space: Space, tables: Tables, rows: IntArray) -> CurveTable:
    """The curves behind some options: each from one slot per replica up to the option's own batch.

    Args:
        space: the declared space.
        tables: options whose decode servers are dealt even batches (`planner.fractional`).
        rows: options that decode alone, shape (C,).
    """
    found, steps = [], np.zeros(rows.size)
    for number, row in enumerate(rows.tolist()):
        group = tables.groups[int(tables.group[row])]
        block, at = group.block, int(tables.row[row])
        copies, part = int(block.replicas[at]), space.services[group.service]
        largest = float(block.in_flight[at]) * copies
        smallest = min(smallest_batch(copies, part.targets.arrival_cv), largest)
        family = block.families[int(block.family[at])]
        found.append(curve(family, copies, int(block.microbatches[at]), smallest, largest))
        steps[number] = steps_per_request(part)
    low, high, slope, intercept = (
        np.concatenate([each.lines()[side] for each in found] or [np.zeros(0)]) for side in range(4)
    )
    options = tables.options.take(rows)
    owner = np.repeat(np.arange(rows.size), [each.lines()[0].size for each in found])
    return CurveTable(
        service=options.service,
        mode=options.mode,
        role=options.role,
        level=options.level,
        items=options.items,
        cost=options.cost,
        traffic_gbyte=options.traffic_gbyte,
        residency_s=options.residency_s,
        label=options.label,
        steps_per_request=steps,
        segment_curve=owner,
        batch_low=low,
        batch_high=high,
        piece_segment=np.arange(owner.size),
        alpha_s=1e-3 * intercept,
        beta_s=1e-3 * slope,
    )


def steps_per_request(part: ServiceSpace) -> float:
    """Decode steps that one request of a service takes part in."""
    site = part.sites[0]
    return site.lengths.decode_tokens / site.tokens_per_step
