"""From the declared space to a proven solution.

TTFT is joint over prefill and decode, so P/D modes are solved over levels of the decode part (`planner.options`).
Levels are a grid, and its error is closed, not assumed: beside the exact problem, in which every path meets TTFT, an
optimistic one gives prefill at each level the budget of the level's lower end. No plan with finer levels is better
than its optimum. Levels whose optimistic value is beaten by the incumbent are done with; the others are split at the
decode parts that their options really have, until the proof is as tight as asked.

With one service on one pool the value of every level is a knapsack (`planner.levels`), and the program sees only the
levels that can win. Otherwise the optimistic problem is solved as a program of its own, and the levels that it uses
are split.

Where time runs out before the options of every mode are listed, those that are listed are solved, and `planner.ceiling`
bounds the others. Without a bound over all modes nothing is claimed: there is no incumbent then.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np

from formulations import columns
from formulations.solution import Solution
from formulations.table import Role
from planner.ceiling import ceiling
from planner.clock import Clock, OutOfTimeError
from planner.costs.linear import FloatArray
from planner.levels import best_rates, fewest_gpus
from planner.options.decode import Level
from planner.options.serve import Rival
from planner.space import Group, HandOver, ModeOptions, ServiceSpace, Space
from planner.table import Tables, fabric_limit, tables, unit_cost
from specs.service import Mode

Progress = Callable[[str, float | None, float | None], None]
"""Called with the stage, the incumbent and the bound."""

MOST_ROUNDS = 40
SOLVER_SHARE = 0.2
"""Share of the requested gap that the solver may leave open in one problem."""

LISTING_SHARE = 2 / 3
"""Share of the time limit in which options are listed; the rest is for a bound on those that are not, and to solve."""

LEVELS_SHOWN = 4
"""Best levels of a P/D mode that the program is given, where every level's value is known beforehand."""

Key = tuple[int, Mode]


@dataclass(frozen=True, eq=False)
class Solved:
    """A solved space.

    Args:
        tables: of the exact problem.
        solution: its solution.
        bound: valid for any finer levels.
        gap: total, inf without an incumbent.
        gap_solver: part of it that the solver left open in the exact problem.
        levels: number of TTFT levels that were looked at.
        seconds: wall seconds by stage.
        unlisted: services (by index) and modes whose options were not all listed in time; the bound covers them.
    """

    tables: Tables
    solution: Solution
    bound: float
    gap: float
    gap_solver: float
    levels: int
    seconds: dict[str, float]
    unlisted: tuple[Key, ...] = ()


def solve(
    space: Space,
    *,
    gap: float,
    time_limit_s: float,
    progress: Progress | None = None,
    refuse: Callable[[Tables], Tables] | None = None,
) -> Solved:
    """Solve a space to a relative gap.

    Args:
        space: the declared space.
        gap: total relative gap at which to stop.
        time_limit_s: wall clock for everything.
        progress: told of every stage.
        refuse: removes options from the tables before they are solved (used for alternatives).
    """
    return _Search(space, gap, time_limit_s, progress, refuse).run()


class _Search:
    """The rounds of one solve."""

    def __init__(
        self,
        space: Space,
        gap: float,
        time_limit_s: float,
        progress: Progress | None,
        refuse: Callable[[Tables], Tables] | None,
    ) -> None:
        self._space, self._gap, self._progress, self._refuse = space, gap, progress, refuse
        start = perf_counter()
        self._clock = Clock.start(time_limit_s)
        self._maximizing = space.scenario.objective.maximizing
        split = any(part.service.split for part in space.services)
        # Rows that see residency or traffic tell apart servers that are otherwise alike.
        coupled = self._closed_loop() or bool(np.isfinite(self._fabric_limits()).any())
        single = len(space.services) == 1 and len(space.pools) == 1 and refuse is None
        self._by_knapsack = single and not split and not coupled
        self._beaten = -math.inf if self._maximizing else math.inf
        self._fixed: list[Group] = []
        self._handed: dict[Key, HandOver] = {}
        self._levels: dict[Key, tuple[Level, ...]] = {}
        self._rival: Rival | None = None
        self._unlisted: list[Key] = []
        modes = self._modes()
        # Where there is but one thing to list nothing is left to do without it.
        listing = self._clock.part(LISTING_SHARE) if len(modes) > 1 else self._clock
        for part, mode in modes:
            self._tell(f"options of {part.service.name}: {mode.value}", None, None)
            try:
                self._list(part, mode, listing, prune=not coupled)
            except OutOfTimeError:
                self._unlisted.append((part.index, mode))
        self._seen = sum(len(levels) for levels in self._levels.values())
        self._seconds = {"options": perf_counter() - start, "solve": 0.0}

    def _modes(self) -> list[tuple[ServiceSpace, Mode]]:
        """Services and modes; those with a hand-over first, since they can make others needless."""
        pairs = [(part, mode) for part in self._space.services for mode in part.service.modes]
        return sorted(pairs, key=lambda pair: pair[1] not in (Mode.PREFILL_DECODE, Mode.PREFILL_DECODE_AFD))

    def _list(self, part: ServiceSpace, mode: Mode, clock: Clock, *, prune: bool) -> None:
        """List the options of a service in a mode; of a P/D mode those of its first levels.

        Raises:
            OutOfTimeError: the clock ran out first; nothing of the mode is kept.
        """
        found = part.groups(mode, prune=prune, rival=self._rival, clock=clock)
        if isinstance(found, HandOver):
            levels = found.first_levels(clock)
            options = found.options(levels, clock)
            self._handed[part.index, mode] = found
            self._levels[part.index, mode] = levels
            if self._by_knapsack and self._maximizing and mode is Mode.PREFILL_DECODE:
                self._rival = self._better_rival(self._rival, options)
        else:
            self._fixed += found.exact
            if found.given_up_rps > 0.0:
                worth = part.service.weight * part.sites[0].lengths.output
                self._beaten = max(self._beaten, found.given_up_rps * worth)

    def _better_rival(self, known: Rival | None, options: ModeOptions) -> Rival | None:
        """The better of what is known and what the first levels of a P/D mode reach, where GPUs are all that counts."""
        (pool,) = self._space.pools
        if pool.count > pool.scale_up_domain > pool.gpus_per_node or not options.levels:
            return known
        rate = float(best_rates(options, pool.count, optimistic=False).max())
        demand = self._space.services[0].service.demand_rps
        rate = rate if demand is None else min(rate, demand)
        return known if known is not None and known.rate_rps >= rate else Rival(pool.count, rate)

    def run(self) -> Solved:
        """Solve, split, solve again."""
        if self._unlisted and not (self._fixed or self._levels):
            return self._nothing()
        beyond = self._beyond() if self._unlisted else None
        if beyond == self._unbounded:
            return self._nothing()
        best: tuple[Tables, Solution] | None = None
        bound = total = math.inf
        interrupted = False
        for number in range(MOST_ROUNDS):
            try:
                options = self._options()
            except OutOfTimeError:
                interrupted = True
                break
            if self._by_knapsack:
                exact, bound, alive = self._round_by_knapsack(options)
            else:
                exact, bound, alive = self._round_by_program(options)
            if best is None or self._better(exact[1], best[1]):
                best = exact
            solution = best[1]
            if solution.found and math.isfinite(bound):
                bound = max(bound, solution.incumbent) if self._maximizing else min(bound, solution.incumbent)
            total = _relative(solution, bound)
            self._tell(f"round {number + 1}", solution.incumbent if solution.found else None, bound)
            interrupted = bool(options) and self._clock.left_s <= 0.0
            if total <= self._gap or interrupted or not self._split(options, alive):
                break
        if best is None:
            return self._nothing()
        found = best[1].found
        if found and beyond is not None:
            # The listed modes are bounded by their own proof where modes exclude each other, else by the ceiling.
            bound = self._looser(bound, beyond) if self._modes_exclude_each_other else beyond
            bound = self._looser(bound, best[1].incumbent)
            total = _relative(best[1], bound)
        # An incumbent without a bound proves nothing, and what was not searched may hold a plan.
        if not math.isfinite(bound) if found else (self._unlisted or interrupted):
            return self._nothing()
        solver_gap = min(_relative(best[1], best[1].bound), total)
        return Solved(best[0], best[1], bound, total, solver_gap, self._seen, self._seconds, tuple(self._unlisted))

    def _options(self) -> dict[Key, ModeOptions]:
        """Options of the levels there are; those of the first ones are known."""
        levels_of = [(key, levels) for key, levels in self._levels.items() if levels]
        return {key: self._handed[key].options(levels, self._clock) for key, levels in levels_of}

    # -- out of time ---------------------------------------------------------------------------------------------

    @property
    def _modes_exclude_each_other(self) -> bool:
        """Whether a plan uses one mode only, so that the best of the modes is the best of all."""
        parts = self._space.services
        return len(parts) == 1 and not parts[0].service.split

    @property
    def _unbounded(self) -> float:
        """A bound that says nothing."""
        return math.inf if self._maximizing else -math.inf

    def _beyond(self) -> float:
        """What no plan of the unlisted modes exceeds; where services share GPUs or modes mix, no plan of any mode."""
        if self._modes_exclude_each_other:
            modes = {0: tuple(mode for _, mode in self._unlisted)}
        else:
            modes = {part.index: part.service.modes for part in self._space.services}
        return ceiling(self._space, modes, self._clock)

    def _nothing(self) -> Solved:
        """No incumbent in time."""
        solution = Solution("time_limit", math.nan, self._unbounded, math.inf, 0.0)
        built, unlisted = tables(self._space, []), tuple(self._unlisted)
        return Solved(built, solution, self._unbounded, math.inf, math.inf, self._seen, self._seconds, unlisted)

    # -- rounds --------------------------------------------------------------------------------------------------

    def _round_by_program(
        self, options: dict[Key, ModeOptions]
    ) -> tuple[tuple[Tables, Solution], float, dict[Key, set[int]]]:
        """Exact and optimistic programs; the levels to split are those that the optimistic solution uses."""
        exact = self._program([group for each in options.values() for group in each.exact])
        if not options:
            return exact, exact[1].bound, {}
        upper_tables, upper = self._program([group for each in options.values() for group in each.optimistic])
        modes = list(Mode)
        alive: dict[Key, set[int]] = {}
        for service, mode, level in upper.levels:
            key = (service, modes[mode])
            if key in options:
                alive.setdefault(key, set()).add(level)
        del upper_tables
        return exact, upper.bound, alive

    def _round_by_knapsack(
        self, options: dict[Key, ModeOptions]
    ) -> tuple[tuple[Tables, Solution], float, dict[Key, set[int]]]:
        """The exact program over the best levels; the levels to split are those whose bound beats its incumbent."""
        shown: list[Group] = []
        for each in options.values():
            values = self._values(each, optimistic=False)
            best = np.argsort(-values if self._maximizing else values, kind="stable")[:LEVELS_SHOWN]
            for group in each.exact:
                shown.append(replace(group, block=group.block.take(np.isin(group.block.level, best))))
        exact = self._program(shown)
        incumbent = exact[1].incumbent if exact[1].found else math.nan
        bound = exact[1].bound if self._fixed_bound_needed(exact[1]) else (-math.inf if self._maximizing else math.inf)
        alive: dict[Key, set[int]] = {}
        for key, each in options.items():
            values = self._values(each, optimistic=True)
            if not values.size:
                continue
            worst = values.max() if self._maximizing else values.min()
            bound = self._looser(bound, float(worst))
            slack = 1.0 + 0.5 * self._gap
            if math.isnan(incumbent):
                open_ = values > 0.0 if self._maximizing else np.isfinite(values)
            else:
                open_ = values > incumbent * slack if self._maximizing else values < incumbent / slack
            alive[key] = set(np.flatnonzero(open_).tolist())
            # Levels that are beaten need not be looked at again; what they could reach stays in the bound.
            if (~open_).any():
                beaten = values[~open_].max() if self._maximizing else values[~open_].min()
                self._beaten = self._looser(self._beaten, float(beaten))
            keep = [i for i in range(len(each.levels)) if open_[i]]
            self._levels[key] = tuple(each.levels[i] for i in keep)
            alive[key] = set(range(len(keep)))
        return exact, self._looser(bound, self._beaten), alive

    def _looser(self, a: float, b: float) -> float:
        """The weaker of two bounds."""
        return max(a, b) if self._maximizing else min(a, b)

    def _fixed_bound_needed(self, solution: Solution) -> bool:
        """The program's bound covers the modes without levels; its P/D levels are covered by their own values."""
        return bool(self._fixed) or not solution.found

    def _values(self, options: ModeOptions, *, optimistic: bool) -> FloatArray:
        """Objective that every level could reach on the one pool there is; for a minimum inf where nothing fits."""
        (part,), (pool,) = self._space.services, self._space.pools
        service, demand = part.service, part.service.demand_rps
        if self._maximizing:
            rate = best_rates(options, pool.count, optimistic=optimistic)
            if demand is not None:
                rate = np.minimum(rate, demand)
            return np.asarray(rate * service.weight * part.sites[0].lengths.output)
        gpus = fewest_gpus(options, pool.count, demand or 0.0, optimistic=optimistic)
        cost = unit_cost(self._space.scenario, pool)
        return np.where(gpus <= pool.count, gpus * cost, math.inf)

    def _program(self, groups: Sequence[Group]) -> tuple[Tables, Solution]:
        built = tables(self._space, [*self._fixed, *groups])
        if self._refuse is not None:
            built = self._refuse(built)
        mark = perf_counter()
        left = max(self._clock.left_s, 0.5)
        solution = columns.solve(built.problem, built.options, gap=self._gap * SOLVER_SHARE, time_limit_s=left)
        self._seconds["solve"] += perf_counter() - mark
        return built, solution

    # -- splitting -----------------------------------------------------------------------------------------------

    def _split(self, options: dict[Key, ModeOptions], alive: dict[Key, set[int]]) -> bool:
        """Split levels at the decode parts that their options have; False if none can be split."""
        changed = False
        for key, numbers in alive.items():
            taken = self._parts_taken(options[key])
            result: list[Level] = []
            for number, level in enumerate(self._levels[key]):
                ends = taken.get((level.link_bytes_per_ms, level.decode_ms), ()) if number in numbers else ()
                below = level.decode_ms_below
                above = [end for end in ends if end > below]
                middle = 0.5 * (below + (max(above) if above else level.decode_ms))
                new = [e for e in {*ends, middle} if below < e * (1 - 1e-12) and e < level.decode_ms * (1 - 1e-12)]
                if number not in numbers or not math.isfinite(level.decode_ms):
                    result.append(level)
                    continue
                changed |= bool(new)
                for end in [*sorted(new), level.decode_ms]:
                    # Above the largest decode part that is taken there is nothing new until the level's end.
                    result.append(replace(level, decode_ms=end, decode_ms_below=below))
                    below = end
            self._seen += len(result) - len(self._levels[key])
            self._levels[key] = tuple(result)
        return changed

    def _parts_taken(self, options: ModeOptions) -> dict[tuple[float, float], tuple[float, ...]]:
        """Largest decode part below each level's end that its best options have, by (link rate, end)."""
        decode = next(group.block for group in options.exact if group.role is Role.DECODE)
        result: dict[tuple[float, float], tuple[float, ...]] = {}
        for number, level in enumerate(options.levels):
            parts = decode.ttft_ms[decode.level == number]
            if parts.size:
                result[level.link_bytes_per_ms, level.decode_ms] = (float(parts.max()),)
        return result

    # -- helpers -------------------------------------------------------------------------------------------------

    def _better(self, new: Solution, old: Solution) -> bool:
        if not new.found or not old.found:
            return new.found and not old.found
        return new.incumbent > old.incumbent if self._maximizing else new.incumbent < old.incumbent

    def _fabric_limits(self) -> FloatArray:
        return np.array([fabric_limit(pool) for pool in self._space.pools])

    def _closed_loop(self) -> bool:
        return any(part.closed_loop for part in self._space.services)

    def _tell(self, stage: str, incumbent: float | None, bound: float | None) -> None:
        if self._progress is not None:
            self._progress(stage, incumbent, bound)


def _relative(solution: Solution, bound: float) -> float:
    if not solution.found or not math.isfinite(bound):
        return math.inf
    if solution.incumbent == 0.0:
        return 0.0 if bound == 0.0 else math.inf
    return abs(bound - solution.incumbent) / abs(solution.incumbent)
