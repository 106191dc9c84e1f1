"""A formulation: an assembly of rows with every constraint family, and how it is solved.

Families, in order: inventory, packing, rate matching, mode, level, demand, flow, network, in flight, objective. The
mathematics of each is in its file. Redundancy, budget, power, reconfiguration and placement will be further files and
further lines of `formulate`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf, nan
from time import perf_counter
from typing import Any

import numpy as np

from formulations import (
    decode,
    demand,
    flow,
    in_flight,
    inventory,
    knapsack,
    level,
    links,
    mode,
    network,
    objective,
    packing,
    rate_matching,
    seam,
)
from formulations.assembly import PERIODS, Assembly
from formulations.flow import FlowClass
from formulations.solution import Solution
from formulations.table import FloatArray, IntArray
from formulations.tolerances import GAP_SLACK

Carried = Callable[[IntArray], list[tuple[Any, float]]]
"""replicas by row -> values of the variables that only one formulation has"""


def _nothing(replicas: IntArray) -> list[tuple[Any, float]]:
    return []


@dataclass(frozen=True)
class Formulation:
    """A built formulation.

    Attributes:
        assembly: its rows, paths and Pyomo model (`assembly.model`).
        rows: row of the caller's table of every row of the assembly, (R,).
        flows: the classes of served flow.
        bounds: its link bounds.
        carried: values of its own variables for given replicas.
    """

    assembly: Assembly
    rows: IntArray
    flows: list[FlowClass]
    bounds: links.Links
    carried: Carried = _nothing


def formulate(assembly: Assembly, rows: IntArray, carried: Carried = _nothing) -> Formulation:
    """Add every constraint family and the objective to an assembly's model.

    Raises:
        ValueError: a pool has too many packing patterns.
    """
    flows = flow.classes(assembly)
    bounds = links.bounds(assembly)
    inventory.add(assembly)
    packing.add(assembly)
    rate_matching.add(assembly)
    mode.add(assembly, bounds)
    level.add(assembly, bounds)
    demand.add(assembly)
    flow.add(assembly, flows)
    network.add(assembly, flows)
    in_flight.add(assembly, flows)
    objective.add(assembly)
    return Formulation(assembly, rows, flows, bounds, carried)


def run(
    built: Formulation,
    *,
    gap: float,
    time_limit_s: float | None,
    threads: int,
    start: Mapping[int, int] | None,
    progress: seam.Progress | None,
    began: float,
) -> Solution:
    """Solve a built formulation; the arguments are those of `columns.solve`, `began` the clock when the call started.

    Raises:
        RuntimeError: the solution recomputed from the solver's integers violates a row.
    """
    assembly = built.assembly
    form = seam.extract(assembly.model)
    if start is None:
        table = built.bounds.table if assembly.problem.sense == "maximize" else None
        plan = {} if table is None else knapsack.start(table)
        start = {int(built.rows[row]): count for row, count in plan.items()} or None
    result = seam.solve(
        form,
        gap=gap,
        time_limit_s=None if time_limit_s is None else max(time_limit_s - (perf_counter() - began), 0.0),
        threads=threads,
        start=None if start is None else start_values(built, form, start),
        progress=progress,
    )
    if not len(result.values) and result.status != "optimal":
        return Solution(result.status, nan, result.bound, inf, perf_counter() - began, columns=len(built.rows))
    served = decode.decode(assembly, built.flows, form, result.values, assembly.capacity_rps)
    settled = decode.settle(assembly, built.flows, form, result.values, served)
    own = built.carried(served.replicas)
    settled[form.columns_of([variable for variable, _ in own])] = [value for _, value in own]
    decode.recheck(form, settled)
    sense = assembly.problem.sense
    bound, relative = seam.safe_bound(sense, served.objective, result.bound)
    triples = sorted(assembly.paths.triple(path) for path in served.rate_rps)
    return Solution(
        status="optimal" if relative <= gap + GAP_SLACK else "feasible",
        incumbent=served.objective,
        bound=bound,
        gap=relative,
        seconds=perf_counter() - began,
        replicas={int(built.rows[row]): int(served.replicas[row]) for row in np.flatnonzero(served.replicas)},
        rate_rps={assembly.paths.triple(path): rate for path, rate in served.rate_rps.items()},
        modes=tuple(sorted({triple[:2] for triple in triples})),
        levels=tuple(triples),
        columns=len(built.rows),
    )


def start_values(built: Formulation, form: seam.StandardForm, replicas: Mapping[int, int]) -> FloatArray:
    """Return the integer values by column of a plan given as replicas by row of the caller's table.

    Modes and levels are those that the replicas lie on; rates and patterns are left to the solver (nan).
    """
    model, paths = built.assembly.model, built.assembly.paths
    counts = [int(replicas.get(row, 0)) for row in built.rows.tolist()]
    used = {int(paths.of_row[row]) for row, count in enumerate(counts) if count}
    modes = {paths.triple(path)[:2] for path in used}
    known = [(model.vN[row, period], count) for row, count in enumerate(counts) for period in PERIODS]
    known += [(model.vW[path], int(path in used)) for path in model.sPaths]
    known += [(model.vY[pair], int(pair in modes)) for pair in model.sModes]
    values = np.full(form.shape[1], nan)
    values[form.columns_of([variable for variable, _ in known])] = [value for _, value in known]
    return values
