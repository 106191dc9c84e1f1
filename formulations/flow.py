"""Flow: who serves what, where options of one role differ in what a served request costs them.

The fabric and the requests in flight are charged on the **served** rate, not on capacity. Within a (path, role) the
rows fall into classes of equal traffic on the finite fabrics and, where the service has a cap, equal residency. With
one class, all of the path's rate passes through it and no variable is needed. With several, for every class c::

    cFlowCapacity[c, t]:    flow[c, t]  <=  sum_{o in c} capacity[o, t]          [requests/s]
    cFlowBalance[k, r, t]:  sum_{c in C(k, r)} flow[c, t]  =  rate[k, t]         [requests/s]
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from pyomo.core import Constraint, NonNegativeReals, Set, Var

from formulations.assembly import Assembly, linear
from formulations.table import FloatArray, Problem


@dataclass(frozen=True)
class FlowClass:
    """Rows of one path and role with the same charge per served request.

    Attributes:
        path: the path.
        role: the role.
        rows: its rows.
        traffic_gbyte: per served request and pool, (P,); zero on fabrics that never bind.
        residency_s: per served request; zero where the service has no cap.
        flow: number of its flow variable, or -1 where the path's rate is the flow.
    """

    path: int
    role: int
    rows: tuple[int, ...]
    traffic_gbyte: FloatArray
    residency_s: float
    flow: int

    def variable(self, model: Any, period: int) -> Any:
        """Return the variable of the served rate of this class."""
        return model.vRate[self.path, period] if self.flow < 0 else model.vFlow[self.flow, period]


def charges(problem: Problem, service: Any, traffic_gbyte: FloatArray, residency_s: FloatArray) -> FloatArray:
    """Return what one served request is charged in rows that can bind, (R, P + 1): traffic by pool, then residency."""
    traffic = np.where(np.isfinite(problem.fabric_gbyte_per_s)[None, :], traffic_gbyte, 0.0)
    residency = np.where(np.isnan(problem.in_flight_cap[service]), 0.0, residency_s)
    return np.column_stack((traffic, residency))


def classes(assembly: Assembly) -> list[FlowClass]:
    """Return the flow classes of every (path, role)."""
    service = assembly.paths.service[assembly.paths.of_row]
    charge = charges(assembly.problem, service, assembly.traffic_gbyte, assembly.residency_s)
    found: list[FlowClass] = []
    flows = 0
    for path, role, rows in assembly.roles:
        unique, inverse = np.unique(charge[rows], axis=0, return_inverse=True)
        for number, values in enumerate(unique):
            members = tuple(np.array(rows)[inverse.reshape(-1) == number].tolist())
            flow = -1 if len(unique) == 1 else flows
            flows += len(unique) > 1
            found.append(FlowClass(path, int(role), members, values[:-1], float(values[-1]), flow))
    return found


def add(assembly: Assembly, found: list[FlowClass]) -> None:
    """Add vFlow, cFlowCapacity and cFlowBalance for the roles with several classes."""
    model = assembly.model
    split = [each for each in found if each.flow >= 0]
    model.sFlows = Set(initialize=range(len(split)))
    model.vFlow = Var(model.sFlows, model.sPeriods, domain=NonNegativeReals)
    model.cFlowCapacity = Constraint(model.sFlows, model.sPeriods)
    of_role: dict[tuple[int, int], list[int]] = {}
    for each in split:
        of_role.setdefault((each.path, each.role), []).append(each.flow)
        for period in model.sPeriods:
            terms = [(assembly.coefficient[row], assembly.carrier(row, period)) for row in each.rows]
            terms.append((-1.0, model.vFlow[each.flow, period]))
            model.cFlowCapacity.add((each.flow, period), (0.0, linear(terms), None))
    model.cFlowBalance = Constraint(list(of_role), model.sPeriods)
    for (path, role), flows in of_role.items():
        for period in model.sPeriods:
            terms = [(1.0, model.vFlow[flow, period]) for flow in flows]
            terms.append((-1.0, model.vRate[path, period]))
            model.cFlowBalance.add((path, role, period), (0.0, linear(terms), 0.0))
