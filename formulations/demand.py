"""Demand: a cap on what counts in a maximum, a floor in a minimum.

For every service s with a demand and every period t (unit: requests/s)::

    cDemand[s, t]:   sum_{k in K(s)} rate[k, t]  <=  demand[s]     maximise
                     sum_{k in K(s)} rate[k, t]  >=  demand[s]     minimise
"""

import numpy as np
from pyomo.core import Constraint

from formulations.assembly import Assembly, linear


def add(assembly: Assembly) -> None:
    """Add cDemand for every service with a demand."""
    model, problem = assembly.model, assembly.problem
    model.cDemand = Constraint(model.sServices, model.sPeriods)
    for service in np.flatnonzero(~np.isnan(problem.demand_rps)).tolist():
        demand = float(problem.demand_rps[service])
        bounds = (None, demand) if problem.sense == "maximize" else (demand, None)
        for period in model.sPeriods:
            paths = np.flatnonzero(assembly.paths.service == service).tolist()
            served = linear([(1.0, model.vRate[path, period]) for path in paths])
            model.cDemand.add((service, period), (bounds[0], served, bounds[1]))
