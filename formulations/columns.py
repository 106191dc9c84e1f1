"""Formulation `columns`: every option is an integer column, its batch already chosen.

The families are those of `formulations.formulation`, on options alone. `docs/formulation.md` gathers the mathematics.
"""

from collections.abc import Mapping
from dataclasses import replace
from time import perf_counter

import numpy as np

from formulations.assembly import Assembly, new_model, options_of
from formulations.dominance import prune as kept_rows
from formulations.formulation import Formulation, formulate, run
from formulations.seam import Progress
from formulations.solution import Solution
from formulations.table import OptionTable, Problem, check, gpus_by_pool


def build(problem: Problem, table: OptionTable) -> Formulation:
    """Return the Pyomo model of a problem over a table of options.

    Options that cannot be placed on the empty cluster, serve nothing, or belong to a path that lacks a role are left
    out. No dominance pruning: the caller does that.

    Raises:
        ValueError: the table does not belong to the problem, or a pool has too many packing patterns.
    """
    check(problem, table)
    options, rows, paths, largest = options_of(problem, table)
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
        coefficient=options.rate_rps,
        model=new_model(problem, paths, largest),
        carriers=("vN",) * len(options),
    )
    return formulate(assembly, rows)


def solve(
    problem: Problem,
    table: OptionTable,
    *,
    gap: float = 1e-4,
    time_limit_s: float | None = None,
    threads: int = 1,
    start: Mapping[int, int] | None = None,
    prune: bool = True,
    progress: Progress | None = None,
) -> Solution:
    """Solve a problem over a table of options.

    Args:
        problem: the problem.
        table: its options.
        gap: relative gap at which to stop.
        time_limit_s: wall clock for the whole call; None for none.
        threads: of HiGHS.
        start: replicas by row of the table, of a plan to begin with; rows that pruning removes are ignored.
        prune: whether to remove dominated options first (same optimum, far fewer columns).
        progress: called with (incumbent, bound, seconds) while the search runs.

    Returns:
        The solution; replicas are keyed by row of `table`.

    Raises:
        ValueError: the table does not belong to the problem, or a pool has too many packing patterns.
    """
    began = perf_counter()
    kept = kept_rows(problem, table) if prune else np.arange(len(table), dtype=np.int64)
    built = build(problem, table.take(kept))
    return run(
        replace(built, rows=kept[built.rows]),
        gap=gap,
        time_limit_s=time_limit_s,
        threads=threads,
        start=start,
        progress=progress,
        began=began,
    )
