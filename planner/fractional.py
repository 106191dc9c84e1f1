"""What fractional batches are worth: the formulation `piecewise` over the space that `columns` has searched.

In `columns` a decode server has an integer number B of slots and m(B) requests in flight on average. Here its batch
is any real number between that of one slot per replica and the largest that TPOT, memory, the NICs and the TTFT level
allow (`planner.curves`). Only servers that decode alone are continuous; prefill workers and mixed pools, whose rates
are roots of queueing equations, enter as the same columns, and so do services without decode steps or with a closed
loop (there the time that requests stay counts, which a curve does not carry).

The rate b / t(b) never decreases in b (`planner.options.search`), so a server's best batch is its largest, and servers
are pruned by bounds on their rates there just as the columns are. The TTFT levels are refined by `planner.solve` with
every server at that batch, which gives a bound for any finer levels; `formulations.piecewise` is then given the whole
curves of the levels that are left.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from formulations import dominance, piecewise
from formulations.piecewise import CurveTable
from formulations.solution import Solution
from formulations.table import OptionTable, Role
from planner.clock import UNLIMITED, Clock
from planner.costs.linear import FloatArray
from planner.curves import curve_table, even_server, steps_per_request
from planner.options.block import Family, OptionBlock
from planner.options.decode import DECODE_STEP_TOKENS, NO_LEVEL, DecodeSide
from planner.options.frontier import needed
from planner.options.places import join_places
from planner.options.prefill import PrefillSide
from planner.options.search import BOUND_POINTS, batch_of, class_grid
from planner.options.serve import Rival
from planner.options.server import Server
from planner.options.targets import Targets
from planner.options.times import DecodeTimes
from planner.solve import SOLVER_SHARE, Solved, solve
from planner.space import Group, HandOver, ModeOptions, ServiceSpace, Space
from planner.table import Tables, fabric_limit
from specs.plan import Plan, Status
from specs.service import Mode, Phase

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

SMALL_POINTS = 8
"""Batches tried between one slot per replica and one request per part."""

NARROWING_POINTS = 10
"""Stretches into which the bracket around the largest batch is cut, again and again."""

STAFFING_DEVIATIONS = 3.0
"""Standard deviations of slots that are kept free (`planner.costs.queueing`)."""

SPACE_WORDS = "decode alone: every real number that TPOT, TTFT and memory allow; other roles: every integer, as planned"

NARROWINGS = 13
"""Times that it is cut: to 1e-13 of its width."""

PRUNINGS = 4
"""Times that servers are pruned by what the brackets bound; narrower ones tell hardly more."""


@dataclass(frozen=True, eq=False)
class _Range:
    """Servers of one family with their latencies on a grid of batches; arrays of shape (n,) or (n, g).

    Args:
        family: what they are built from.
        origin: row of each in the family's server.
        times: their latencies, batches dealt out evenly.
        batch: grid of batches, ascending, from one slot per replica to what memory holds.
        within_tpot: whether each meets TPOT.
        first_ms: decode part of TTFT at each.
        nic_rps: largest rate at which KV caches can arrive, inf where none do.
    """

    family: Family
    origin: IntArray
    times: DecodeTimes
    batch: FloatArray
    within_tpot: BoolArray
    first_ms: FloatArray
    nic_rps: FloatArray

    @staticmethod
    def of(family: Family, server: Server, targets: Targets, transfer_bytes: float) -> _Range:
        """Evaluate the grid of every server whose memory holds a request."""
        cap = server.slots_cap(np.full(server.copies.size, DECODE_STEP_TOKENS))
        origin = np.flatnonzero(cap)
        cap, copies = cap[origin], server.copies[origin]
        times = DecodeTimes(even_server(family, copies, server.microbatches[origin]), targets)
        parts = times.server.parts
        full = batch_of(class_grid(cap, parts, BOUND_POINTS), cap, parts).astype(float)
        shares = np.arange(SMALL_POINTS) / SMALL_POINTS
        slots = np.concatenate([full[:, :1] ** shares[None, :], full], axis=1)
        batch = times.in_flight(slots) * copies[:, None]
        tpot, first = _latencies(times, batch)
        nics = np.full(copies.size, math.inf)
        if transfer_bytes > 0:
            rate = server.site.fabric.scale_out_bytes_per_ms
            nics = 1e3 * rate * times.server.attention_gpus / transfer_bytes
        return _Range(family, origin, times, batch, tpot <= targets.tpot_ms, first, nics)

    def bracket(self, decode_ms: float) -> tuple[FloatArray, FloatArray]:
        """Largest batch of the grid under a limit (0: none), and the next one (the same where there is none)."""
        good = self.within_tpot & (self.first_ms <= decode_ms)
        rows, columns = np.arange(good.shape[0]), good.shape[1]
        last = np.where(good.any(axis=1), columns - 1 - np.argmax(good[:, ::-1], axis=1), -1)
        low = np.where(last >= 0, self.batch[rows, np.maximum(last, 0)], 0.0)
        return low, self.batch[rows, np.minimum(last + 1, columns - 1)]

    @property
    def least_first_ms(self) -> float:
        """A lower bound on the decode part of TTFT: its steps with one request in flight, without a wait."""
        server = self.times.server
        one = np.ones((server.copies.size, 1))
        return float(server.site.engine.first_token_steps * server.decode_step_ms(one, one).min())

    def latencies(self, rows: IntArray) -> DecodeTimes:
        """Latencies of some servers."""
        return DecodeTimes(self.times.server.take(rows), self.times.targets)

    def rate_rps(self, rows: IntArray, batch: FloatArray) -> FloatArray:
        """Requests/s of some servers at a batch each, bounded by their NICs, shape (rows.size,)."""
        return np.minimum(_free_rate_rps(self.latencies(rows), batch[:, None])[:, 0], self.nic_rps[rows])

    def feasible(self, rows: IntArray, decode_ms: FloatArray) -> Callable[[FloatArray], BoolArray]:
        """Whether some servers meet TPOT and each its own limit at batches (rows.size, g)."""
        times = self.latencies(rows)

        def holds(batch: FloatArray) -> BoolArray:
            tpot, first = _latencies(times, batch)
            return np.asarray((tpot <= times.targets.tpot_ms) & (first <= decode_ms[:, None]))

        return holds

    def block(self, rows: IntArray, batch: FloatArray) -> OptionBlock:
        """Servers at their largest batches, as options."""
        times, copies = self.latencies(rows), self.times.server.copies[rows]
        tpot, first = _latencies(times, batch[:, None])
        # NICs that carry no more leave slots empty: the batch is smaller, the slots and so the wait for one remain.
        batch = batch.copy()
        over = np.flatnonzero(_free_rate_rps(times, batch[:, None])[:, 0] > self.nic_rps[rows])
        if over.size:
            batch[over] = self._cut(rows[over], batch[over])
        mean = batch / copies
        slots = slots_of(batch, times.targets.arrival_cv) / copies
        return OptionBlock.of(
            self.family,
            origin=self.origin[rows],
            replicas=copies,
            microbatches=self.times.server.microbatches[rows],
            slots=np.maximum(np.floor(slots), 1.0),
            in_flight=mean,
            utilisation=mean / slots,
            rate_rps=self.rate_rps(rows, batch),
            ttft_ms=first[:, 0],
            tpot_ms=tpot[:, 0],
            residency_s=1e-3 * _stay_ms(times, batch[:, None])[:, 0],
        )

    def _cut(self, rows: IntArray, batch: FloatArray) -> FloatArray:
        """Largest batches below `batch`, which is too large, whose rate the NICs carry."""
        times, nics = self.latencies(rows), self.nic_rps[rows]

        def carried(cut: FloatArray) -> BoolArray:
            return np.asarray(_free_rate_rps(times, cut) <= nics[:, None])

        low, high = np.zeros(rows.size), batch
        for _ in range(NARROWINGS):
            low, high = _narrowed(carried, low, high)
        return low


def slots_of(batch: FloatArray, arrival_cv: float) -> FloatArray:
    """Slots of a whole server that carry `batch` requests in flight on average, the inverse of `queueing.in_flight`."""
    return np.asarray(batch + STAFFING_DEVIATIONS * arrival_cv * np.sqrt(batch))


def _latencies(times: DecodeTimes, batch: FloatArray) -> tuple[FloatArray, FloatArray]:
    """TPOT and the decode part of TTFT at batches (n, g), ms."""
    copies = times.server.copies[:, None]
    slots, mean = slots_of(batch, times.targets.arrival_cv) / copies, batch / copies
    return times.tpot_ms(slots, mean), times.first_ms(slots, mean)


def _stay_ms(times: DecodeTimes, batch: FloatArray) -> FloatArray:
    mean = batch / times.server.copies[:, None]
    return times.stay_ms(mean, mean)


def _free_rate_rps(times: DecodeTimes, batch: FloatArray) -> FloatArray:
    """Requests/s at batches (n, g) if KV caches arrived at once."""
    return np.asarray(1e3 * batch / _stay_ms(times, batch))


def _narrowed(
    holds: Callable[[FloatArray], BoolArray], low: FloatArray, high: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """A tenth of each bracket around the largest point at which a condition holds; it holds at `low`, not at `high`."""
    inner = low[:, None] + (high - low)[:, None] * np.arange(1, NARROWING_POINTS)[None, :] / NARROWING_POINTS
    good, points = holds(inner), np.concatenate([low[:, None], inner, high[:, None]], axis=1)
    last = np.where(good.any(axis=1), good.shape[1] - np.argmax(good[:, ::-1], axis=1), 0)
    rows = np.arange(low.size)
    return points[rows, last], points[rows, last + 1]


class CurveSide(DecodeSide):
    """Decode servers at the largest batch that every TTFT level allows, a real number.

    Args:
        servers: families of servers.
        targets: SLO and arrivals.
        transfer_bytes: KV bytes that arrive for one request; 0 where requests are not handed over.
        prune: whether servers may be dropped by bounds (see `planner.options.frontier`).
        clock: looked at between families.
    """

    def __init__(
        self,
        servers: Sequence[tuple[Family, Server]],
        targets: Targets,
        transfer_bytes: float,
        *,
        prune: bool,
        clock: Clock = UNLIMITED,
    ) -> None:
        super().__init__([], targets, transfer_bytes, Counter(), prune=prune)
        ranges = []
        for family, server in servers:
            clock.check()
            ranges.append(_Range.of(family, server, targets, transfer_bytes))
        self._ranges = [each for each in ranges if each.origin.size]
        if self._ranges:
            self._places = join_places([(r.family, r.times.server) for r in self._ranges], links=transfer_bytes > 0)
        sizes = [each.origin.size for each in self._ranges]
        self._first = np.cumsum([0, *sizes])

    @property
    def links(self) -> list[float]:
        """Rates at which one request's cache can arrive at some server, bytes/ms, ascending."""
        servers = [each.times.server for each in self._ranges]
        return sorted({server.links * server.site.fabric.scale_out_bytes_per_ms for server in servers})

    def range_ms(self, clock: Clock = UNLIMITED) -> tuple[float, float] | None:
        """Smallest and largest decode part of TTFT that any needed server has; None without servers."""
        block = self.within(math.inf, clock)
        if not len(block):
            return None
        return min(each.least_first_ms for each in self._ranges), float(block.ttft_ms.max())

    def _find(self, limits_ms: Sequence[float], clock: Clock) -> None:
        """Search the largest batches for several limits at once."""
        open_ = [self._opened(limit) for limit in limits_ms]
        limit_of = np.repeat(np.arange(len(limits_ms)), [each[0].size for each in open_])
        server, low, high = (np.concatenate([each[i] for each in open_] or [np.zeros(0)]) for i in range(3))
        server = server.astype(np.int64)
        for number in range(NARROWINGS):
            if number < PRUNINGS:
                keep = self._needed(limit_of, server, low, high)
                limit_of, server, low, high = limit_of[keep], server[keep], low[keep], high[keep]
            for each, first, mine in self._by_range(server):
                mine = mine[high[mine] > low[mine]]
                if mine.size:
                    clock.check()
                    holds = each.feasible(server[mine] - first, np.asarray(limits_ms, dtype=float)[limit_of[mine]])
                    low[mine], high[mine] = _narrowed(holds, low[mine], high[mine])
        keep = self._needed(limit_of, server, low, low)
        limit_of, server, low = limit_of[keep], server[keep], low[keep]
        blocks: list[list[OptionBlock]] = [[] for _ in limits_ms]
        for each, first, mine in self._by_range(server):
            block = each.block(server[mine] - first, low[mine])
            for number in np.unique(limit_of[mine]).tolist():
                blocks[number].append(block.take(limit_of[mine] == number))
        for limit, parts in zip(limits_ms, blocks, strict=True):
            self._found[limit] = OptionBlock.concat(parts)

    def _opened(self, limit_ms: float) -> tuple[IntArray, FloatArray, FloatArray]:
        """Servers that a limit leaves, with the bracket around their largest batch."""
        pairs = [each.bracket(limit_ms) for each in self._ranges]
        low, high = (np.concatenate([pair[side] for pair in pairs] or [np.zeros(0)]) for side in (0, 1))
        server = np.flatnonzero(low > 0.0)
        return server, low[server], high[server]

    def _by_range(self, server: IntArray) -> list[tuple[_Range, int, IntArray]]:
        """Every range that holds some of the servers, the number of its first, and their places in `server`."""
        owner = np.searchsorted(self._first, server, side="right") - 1
        return [(self._ranges[i], int(self._first[i]), np.flatnonzero(owner == i)) for i in np.unique(owner).tolist()]

    def _needed(self, limit_of: IntArray, server: IntArray, low: FloatArray, high: FloatArray) -> BoolArray:
        """Whether each may be needed, given that its largest batch lies between `low` and `high`."""
        if not self._prune or not server.size:
            return np.ones(server.size, dtype=np.bool_)
        least, most = np.zeros(server.size), np.zeros(server.size)
        for each, first, mine in self._by_range(server):
            least[mine] = each.rate_rps(server[mine] - first, low[mine])
            most[mine] = each.rate_rps(server[mine] - first, high[mine]) * (1.0 + 1e-9)
        keep = np.zeros(server.size, dtype=np.bool_)
        for number in np.unique(limit_of).tolist():
            mine = np.flatnonzero(limit_of == number)
            bounds = np.zeros((2, int(self._first[-1])))
            bounds[:, server[mine]] = least[mine], most[mine]
            keep[mine] = needed(self._places, bounds[0], bounds[1])[server[mine]]
        return keep


def continuous(part: ServiceSpace) -> bool:
    """Whether the decode servers of a service have curves."""
    return steps_per_request(part) > 0.0 and not part.closed_loop


@dataclass(frozen=True, eq=False)
class FractionalService(ServiceSpace):
    """What one service may run on, with fractional batches where it decodes alone."""

    @staticmethod
    def like(part: ServiceSpace) -> FractionalService:
        """The same layouts; refusals are counted apart."""
        rejected = {mode: Counter[str]() for mode in part.rejected}
        return FractionalService(
            part.index,
            part.service,
            part.sites,
            part.targets,
            part.workers,
            part.units,
            rejected,
            part.launch,
            part.unlaunchable_units,
        )

    def groups(
        self, mode: Mode, *, prune: bool = True, rival: Rival | None = None, clock: Clock = UNLIMITED
    ) -> ModeOptions | HandOver:
        """The options of a mode, decode servers at their largest batches; the arguments of `ServiceSpace.groups`."""
        prune = prune and not any(math.isfinite(fabric_limit(site.pool)) for site in self.sites)
        hands_over = mode in (Mode.PREFILL_DECODE, Mode.PREFILL_DECODE_AFD)
        if not continuous(self) or self.service.phase is Phase.PREFILL:
            return super().groups(mode, prune=prune, rival=rival, clock=clock)
        if self.service.phase is Phase.DECODE and not hands_over:
            block = CurveSide(self.servers(mode), self.targets, 0.0, prune=prune, clock=clock).at([NO_LEVEL], clock)
            alone = (Group(self.index, mode, Role.SERVE, block),)
            return ModeOptions(alone, alone, (NO_LEVEL,))
        if self.service.phase is Phase.FULL and hands_over:
            transfer, rejected = self.transfer(), self.rejected[mode]
            return HandOver(
                self.index,
                mode,
                self.targets.ttft_ms,
                PrefillSide(self.prefill_workers(mode), self.targets, transfer, rejected, prune=prune, clock=clock),
                CurveSide(self.servers(mode), self.targets, transfer.bytes_per_request, prune=prune, clock=clock),
            )
        return super().groups(mode, prune=prune, rival=rival, clock=clock)


def fractional_space(space: Space) -> Space:
    """The same space, with every continuous server at its largest batch."""
    return replace(space, services=tuple(FractionalService.like(part) for part in space.services))


def with_curves(space: Space, tables: Tables) -> tuple[OptionTable, CurveTable]:
    """What `formulations.piecewise` is given: options of fixed batch, and curves.

    Args:
        space: the declared space.
        tables: of a fractional space. Rows that others replace at their largest batch are dropped first, which is
            what the formulation does with their curves.
    """
    kept = dominance.prune(tables.problem, tables.options)
    curved = [_decodes_alone(space.services[group.service], group) for group in tables.groups]
    on_curve = np.array(curved, dtype=np.bool_)[tables.group[kept]]
    return tables.options.take(kept[~on_curve]), curve_table(space, tables, kept[on_curve])


def _decodes_alone(part: ServiceSpace, group: Group) -> bool:
    alone = Role.SERVE if part.service.phase is Phase.DECODE else Role.DECODE
    return continuous(part) and group.role is alone


@dataclass(frozen=True, eq=False)
class Fractional:
    """The solved piecewise problem of a space.

    Args:
        levels: the space with every continuous server at its largest batch, solved over the TTFT levels.
        solution: `formulations.piecewise` over the levels that are left, on whole curves.
        bound: no plan is better, whatever its batches and TTFT levels.
    """

    levels: Solved
    solution: Solution
    bound: float


def solve_fractional(space: Space, *, gap: float, time_limit_s: float) -> Fractional:
    """Solve a space with fractional batches.

    Args:
        space: the declared space.
        gap: relative gap at which to stop.
        time_limit_s: wall clock for everything.
    """
    end = perf_counter() + time_limit_s
    levels = solve(fractional_space(space), gap=gap, time_limit_s=time_limit_s)
    if levels.unlisted or levels.solution.status == "time_limit":
        # There is no bound over real batches: ceilings are made of whole ones.
        return Fractional(levels, levels.solution, math.inf)
    options, curves = with_curves(space, levels.tables)
    left = max(end - perf_counter(), 0.5)
    solution = piecewise.solve(levels.tables.problem, options, curves, gap=gap * SOLVER_SHARE, time_limit_s=left)
    return Fractional(levels, solution, levels.bound)


class FractionalBound(NamedTuple):
    """What fractional batches could add to a plan.

    Attributes:
        bound: no plan with any real batches is better.
        value: relative improvement of the best plan found with them over the plan without, 0 where none was found.
    """

    bound: float
    value: float


def fractional_bound(space: Space, solved: Solved, gap: float, time_limit_s: float) -> FractionalBound:
    """Solve the piecewise problem of a space that `columns` has solved.

    Args:
        space: the declared space.
        solved: its solution with integer batches.
        gap: relative gap at which to stop.
        time_limit_s: wall clock.

    Returns:
        The bound and the value of fractional batches; nan where `solved` has no incumbent to compare with.
    """
    found = solve_fractional(space, gap=gap, time_limit_s=time_limit_s)
    if not solved.solution.found:
        return FractionalBound(found.bound, math.nan)
    side = 1.0 if space.scenario.objective.maximizing else -1.0
    incumbent = solved.solution.incumbent
    # Every plan of integer batches is one of real ones.
    bound = side * max(side * found.bound, side * incumbent)
    best = found.solution.incumbent if found.solution.found else incumbent
    return FractionalBound(bound, max(0.0, side * (best - incumbent)) / abs(incumbent) if incumbent else 0.0)


def with_fractional_batches(plan: Plan, space: Space, solved: Solved, *, gap: float, time_limit_s: float) -> Plan:
    """The plan of integer batches with a certificate over real ones.

    Without an incumbent, or where the time limit comes before a bound, the proof stays about integer batches and a
    note says so.

    Args:
        plan: built from `solved`.
        space: the declared space.
        solved: its solution with integer batches.
        gap: the relative gap that makes a plan optimal.
        time_limit_s: wall clock for the piecewise problem.
    """
    incumbent = plan.certificate.incumbent
    if incumbent is None:
        return _noted(plan, "Fractional batches were not tried: there is no plan of integer ones to set beside them.")
    began = perf_counter()
    bound, value = fractional_bound(space, solved, gap, time_limit_s)
    if not math.isfinite(bound):
        return _noted(
            plan, "The time limit came before a bound over fractional batches: the proof is about integer ones."
        )
    total = abs(bound - incumbent) / abs(incumbent) if incumbent else 0.0
    solver = min(plan.certificate.gap_solver or 0.0, total)
    certificate = plan.certificate.model_copy(
        update={
            "bound": bound,
            "gap": total,
            "gap_solver": solver,
            "gap_discretisation": total - solver,
            "space": {**plan.certificate.space, "batches": SPACE_WORDS},
        }
    )
    seconds = {**plan.provenance.seconds, "piecewise": round(perf_counter() - began, 3)}
    widened = plan.model_copy(
        update={
            "status": Status.OPTIMAL if total <= gap else Status.FEASIBLE,
            "certificate": certificate,
            "provenance": plan.provenance.model_copy(update={"formulation": "piecewise", "seconds": seconds}),
        }
    )
    return _noted(widened, f"Fractional batches would be worth {value:.3%} (found), no more than {total:.3%} (proven).")


def _noted(plan: Plan, note: str) -> Plan:
    explanation = plan.explanation.model_copy(update={"notes": (*plan.explanation.notes, note)})
    return plan.model_copy(update={"explanation": explanation})
