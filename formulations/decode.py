"""From the solver's numbers to a solution that holds exactly.

Integers are rounded, everything continuous is computed again from them, replicas that serve nothing are dropped, and
every row of the standard form is checked once more.
"""

from dataclasses import dataclass

import numpy as np

from formulations.assembly import PERIODS, Assembly
from formulations.flow import FlowClass
from formulations.seam import StandardForm
from formulations.table import FloatArray, IntArray, Role
from formulations.tolerances import ROUNDING, ROW_CHECK


@dataclass(frozen=True)
class Served:
    """What the cluster does.

    Attributes:
        objective: of the problem's sense.
        replicas: of each row, (R,); zero where it serves nothing.
        rate_rps: requests/s by path, for the paths in use.
        flow_rps: requests/s by flow class, in their order.
    """

    objective: float
    replicas: IntArray
    rate_rps: dict[int, float]
    flow_rps: FloatArray


def decode(
    assembly: Assembly, flows: list[FlowClass], form: StandardForm, values: FloatArray, unit_rps: FloatArray
) -> Served:
    """Return what a solver's solution serves, recomputed from its integers.

    Args:
        assembly: the rows.
        flows: their flow classes.
        form: the standard form that was solved.
        values: its solution by column.
        unit_rps: requests/s of one replica of each row, (R,).
    """
    model, problem, paths = assembly.model, assembly.problem, assembly.paths
    period = PERIODS[0]
    chosen = _values(form, values, [model.vW[path] for path in model.sPaths]) > 0.5
    counts = np.round(_values(form, values, [model.vN[row, period] for row in model.sRows])).astype(np.int64)
    counts[~chosen[paths.of_row]] = 0
    capacity = unit_rps * counts
    room = np.array([capacity[list(each.rows)].sum() for each in flows])
    coupled = len(model.cFabric) + len(model.cInFlight) > 0
    wanted = room
    if coupled:
        wanted = np.minimum(room, _values(form, values, [each.variable(model, period) for each in flows]))
    flow = _balanced(flows, len(paths), wanted)
    rate = _path_rates(flows, len(paths), flow)
    shrink = _shrink(assembly, flows, flow, rate)[paths.service]
    rate = rate * shrink
    flow = flow * shrink[[each.path for each in flows]] if flows else flow
    used = _used_paths(assembly, chosen, rate)
    counts[~np.isin(paths.of_row, used)] = 0
    role_rows = {(path, int(role)): np.array(rows) for path, role, rows in assembly.roles}
    for each, need in zip(flows, flow.tolist(), strict=True):
        if each.path in used:
            least = int(problem.least_replicas[paths.service[each.path]])
            _trim(assembly, np.array(each.rows), role_rows[each.path, each.role], counts, unit_rps, need, least)
    for (path, _), rows in role_rows.items():
        if path in used and not counts[rows].any():
            raise RuntimeError(f"path {paths.triple(path)} is chosen but a role of it has no replica")
    if problem.sense == "maximize":
        objective = float(problem.value_per_request[paths.service] @ rate)
    else:
        objective = float(assembly.cost @ counts)
    return Served(objective, counts, {path: float(rate[path]) for path in used}, flow)


def settle(
    assembly: Assembly, flows: list[FlowClass], form: StandardForm, values: FloatArray, served: Served
) -> FloatArray:
    """Return the solver's values with counts, rates, flows, modes and levels replaced by what is served."""
    model, paths = assembly.model, assembly.paths
    period = PERIODS[0]
    modes = {paths.triple(path)[:2] for path in served.rate_rps}
    known = [(model.vN[row, period], float(count)) for row, count in enumerate(served.replicas.tolist())]
    known += [(model.vRate[path, period], served.rate_rps.get(path, 0.0)) for path in model.sPaths]
    known += [(model.vW[path], float(path in served.rate_rps)) for path in model.sPaths]
    known += [(model.vY[pair], float(pair in modes)) for pair in model.sModes]
    known += [
        (each.variable(model, period), float(rate))
        for each, rate in zip(flows, served.flow_rps, strict=True)
        if each.flow >= 0
    ]
    settled = values.copy()
    settled[form.columns_of([variable for variable, _ in known])] = [value for _, value in known]
    return settled


def recheck(form: StandardForm, values: FloatArray) -> None:
    """Check every row and bound of the standard form at a point.

    Raises:
        RuntimeError: one is violated by more than the tolerance, relative to the size of its terms.
    """
    owner = np.repeat(np.arange(form.shape[1]), np.diff(form.start))
    terms = form.value * values[owner]
    activity = np.bincount(form.index, weights=terms, minlength=form.shape[0])
    size = np.bincount(form.index, weights=np.abs(terms), minlength=form.shape[0])
    slack = ROW_CHECK * np.maximum(size, 1.0)
    broken = np.flatnonzero((activity < form.row_lower - slack) | (activity > form.row_upper + slack))
    if len(broken):
        row = int(broken[0])
        raise RuntimeError(
            f"row {form.constraints[row].name} is {activity[row]!r}, outside "
            f"[{form.row_lower[row]!r}, {form.row_upper[row]!r}]"
        )
    outside = (values < form.col_lower - ROW_CHECK) | (values > form.col_upper + ROW_CHECK)
    if np.any(outside):
        raise RuntimeError(f"{form.variables[int(np.flatnonzero(outside)[0])].name} is outside its bounds")


def _values(form: StandardForm, values: FloatArray, variables: list[object]) -> FloatArray:
    return values[form.columns_of(variables)]


def _balanced(flows: list[FlowClass], paths: int, wanted: FloatArray) -> FloatArray:
    """Scale each role's flows down to the least role of its path."""
    total = np.zeros((paths, len(Role)))
    present = np.zeros((paths, len(Role)), dtype=np.bool_)
    for each, value in zip(flows, wanted.tolist(), strict=True):
        total[each.path, each.role] += value
        present[each.path, each.role] = True
    least = np.where(present, total, np.inf).min(axis=1) if paths else np.zeros(0)
    scale = np.divide(least[:, None], total, out=np.zeros_like(total), where=total > 0)
    return np.array([value * scale[each.path, each.role] for each, value in zip(flows, wanted.tolist(), strict=True)])


def _path_rates(flows: list[FlowClass], paths: int, flow: FloatArray) -> FloatArray:
    total = np.zeros((paths, len(Role)))
    seen = np.full(paths, -1)
    for each, value in zip(flows, flow.tolist(), strict=True):
        total[each.path, each.role] += value
        seen[each.path] = each.role
    return total[np.arange(paths), seen] if paths else np.zeros(0)


def _shrink(assembly: Assembly, flows: list[FlowClass], flow: FloatArray, rate: FloatArray) -> FloatArray:
    """Return the factor by service that brings rates back to the demand and within fabric and in-flight caps, (S,)."""
    problem, service = assembly.problem, assembly.paths.service
    scale = np.ones(len(problem.services))
    total = np.bincount(service, weights=rate, minlength=len(scale))
    for each in np.flatnonzero(total > np.nan_to_num(problem.demand_rps, nan=np.inf)).tolist():
        scale[each] = problem.demand_rps[each] / total[each]
    resident = np.zeros(len(scale))
    load = np.zeros((len(scale), len(problem.pools)))
    for each_flow, value in zip(flows, flow.tolist(), strict=True):
        owner = service[each_flow.path]
        resident[owner] += each_flow.residency_s * value
        load[owner] += each_flow.traffic_gbyte * value
    over = resident * scale > np.nan_to_num(problem.in_flight_cap, nan=np.inf)
    scale[over] = problem.in_flight_cap[over] / resident[over]
    for pool in range(len(problem.pools)):
        carried = float(load[:, pool] @ scale)
        if carried > problem.fabric_gbyte_per_s[pool]:
            scale[load[:, pool] > 0] *= problem.fabric_gbyte_per_s[pool] / carried
    return scale


def _used_paths(assembly: Assembly, chosen: np.ndarray, rate: FloatArray) -> list[int]:
    """Return the chosen paths that serve, and one per service where none does."""
    used: list[int] = []
    for service in range(len(assembly.problem.services)):
        mine = np.flatnonzero(chosen & (assembly.paths.service == service))
        serving = mine[rate[mine] > 0]
        used += (serving if len(serving) else mine[:1]).tolist()
    return used


def _trim(
    assembly: Assembly,
    rows: IntArray,
    role_rows: IntArray,
    counts: IntArray,
    unit_rps: FloatArray,
    need: float,
    least: int,
) -> None:
    """Drop replicas that a class can do without, the largest first; the last `least` of the role stay."""
    order = rows[np.lexsort((unit_rps[rows], -assembly.gpus[rows].sum(axis=1)))]
    for row in order[counts[order] > 0].tolist():
        spare = float(unit_rps[rows] @ counts[rows]) - need
        droppable = min(int(counts[row]), int(counts[role_rows].sum()) - least)
        dropped = min(droppable, int((spare + ROUNDING * need) / unit_rps[row]))
        while dropped > 0 and float(unit_rps[rows] @ counts[rows]) - dropped * unit_rps[row] < need * (1 - ROUNDING):
            dropped -= 1
        counts[row] -= max(dropped, 0)
