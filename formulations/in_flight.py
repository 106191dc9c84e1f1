"""In flight: a closed loop of N clients never has more than N requests in the system (Little's law).

For every service s with a cap and every period t (unit: requests)::

    cInFlight[s, t]:   sum_{c in C(s)} residency[c] flow[c, t]  <=  cap[s]

Sets: flow classes c of `formulations.flow`; residency[c] in seconds one request spends in the role. Both phases of a
split path count, one after the other.
"""

import numpy as np
from pyomo.core import Constraint

from formulations.assembly import Assembly, linear
from formulations.flow import FlowClass


def add(assembly: Assembly, found: list[FlowClass]) -> None:
    """Add cInFlight for every service with a cap."""
    model, problem, paths = assembly.model, assembly.problem, assembly.paths
    model.cInFlight = Constraint(model.sServices, model.sPeriods)
    for service in np.flatnonzero(~np.isnan(problem.in_flight_cap)).tolist():
        resident = [each for each in found if paths.service[each.path] == service and each.residency_s > 0]
        if not resident:
            continue
        for period in model.sPeriods:
            terms = [(each.residency_s, each.variable(model, period)) for each in resident]
            model.cInFlight.add((service, period), (None, linear(terms), float(problem.in_flight_cap[service])))
