"""Network: the scale-out fabric of a pool carries the traffic of what is served.

For every pool g whose fabric is finite and every period t (unit: GB/s)::

    cFabric[g, t]:   sum_c traffic[c, g] flow[c, t]  <=  fabric[g]

Sets: flow classes c of `formulations.flow`; traffic[c, g] in GB per served request. Pools whose traffic is zero for
every class have no row.
"""

import numpy as np
from pyomo.core import Constraint

from formulations.assembly import Assembly, linear
from formulations.flow import FlowClass


def add(assembly: Assembly, found: list[FlowClass]) -> None:
    """Add cFabric for every pool with a finite fabric and some traffic."""
    model, problem = assembly.model, assembly.problem
    model.cFabric = Constraint(range(len(problem.pools)), model.sPeriods)
    for pool in np.flatnonzero(np.isfinite(problem.fabric_gbyte_per_s)).tolist():
        loaded = [each for each in found if each.traffic_gbyte[pool] > 0]
        if not loaded:
            continue
        for period in model.sPeriods:
            terms = [(each.traffic_gbyte[pool], each.variable(model, period)) for each in loaded]
            model.cFabric.add((pool, period), (None, linear(terms), float(problem.fabric_gbyte_per_s[pool])))
