"""Rate matching: every role of a path keeps up with what the path serves.

For every path k, role r of k and period t (unit: requests/s)::

    cRate[k, r, t]:   sum_{o in R(k, r)} capacity[o, t]  >=  rate[k, t]

capacity[o, t] = rate[o] n[o, t] for an option and tokens/s over tokens per request for a curve segment. A path of whole
requests has the one role SERVE; the others have PREFILL and DECODE, and each is matched on its own.
"""

from pyomo.core import Constraint

from formulations.assembly import Assembly, linear
from formulations.table import Role


def add(assembly: Assembly) -> None:
    """Add cRate for every role of every path."""
    model = assembly.model
    model.cRate = Constraint(model.sPaths, [int(role) for role in Role], model.sPeriods)
    for path, role, rows in assembly.roles:
        for period in model.sPeriods:
            terms = [(assembly.coefficient[row], assembly.carrier(row, period)) for row in rows]
            terms.append((-1.0, model.vRate[path, period]))
            model.cRate.add((path, int(role), period), (0.0, linear(terms), None))
