"""Inventory: the GPUs of a pool are counted once.

For every pool g and period t (unit: GPUs)::

    cInventory[g, t]:   sum_r gpus[r, g] n[r, t]  <=  pool_gpus[g]

Sets: R rows, P pools, T periods. gpus[r, g] is the sum of the sizes of the items one replica of r takes of pool g.
"""

import numpy as np
from pyomo.core import Constraint

from formulations.assembly import Assembly, linear


def add(assembly: Assembly) -> None:
    """Add cInventory for every pool that some row uses."""
    model, problem = assembly.model, assembly.problem
    model.cInventory = Constraint(range(len(problem.pools)), model.sPeriods)
    for pool in range(len(problem.pools)):
        rows = np.flatnonzero(assembly.gpus[:, pool]).tolist()
        if not rows:
            continue
        for period in model.sPeriods:
            terms = [(assembly.gpus[row, pool], model.vN[row, period]) for row in rows]
            model.cInventory.add((pool, period), (None, linear(terms), float(problem.pool_gpus[pool])))
