"""Mode: a service serves through the modes it has chosen.

For every service s and its modes m (unit in brackets)::

    cMode[s]:            sum_m y[s, m]  =  1          (>= 1 where the service may split)                [modes]
    cModeRate[s, m, t]:  sum_{k in K(s, m)} rate[k, t]  <=  D[s, m] y[s, m]                             [requests/s]
    cServed[k, r, t]:    sum_{o in R(k, r)} n[o, t]  >=  N[s] w[k]  for every role r of path k         [replicas]

D[s, m] is the link bound of `formulations.links`: the LP optimum of the mode alone on the whole cluster, or the
demand where that is less. N[s] is the fewest replicas of a role (1 unless the service asks for more). cServed gives
every role of a chosen path a replica, so that every service is served; replicas of paths that are not chosen carry
nothing and are left out of the solution. A service without any path has an empty row ``0 = 1``: infeasible, by name.
"""

from pyomo.core import Constraint

from formulations.assembly import Assembly, linear
from formulations.links import Links
from formulations.table import Role


def add(assembly: Assembly, links: Links) -> None:
    """Add cMode, cModeRate and cServed."""
    model, problem, paths = assembly.model, assembly.problem, assembly.paths
    model.cMode = Constraint(model.sServices)
    for service in model.sServices:
        chosen = linear([(1.0, model.vY[s, m]) for s, m in model.sModes if s == service])
        model.cMode.add(service, (1.0, chosen, None if problem.split[service] else 1.0))
    model.cModeRate = Constraint(model.sModes, model.sPeriods)
    of_mode: dict[tuple[int, int], list[int]] = {}
    for path in model.sPaths:
        of_mode.setdefault((int(paths.service[path]), int(paths.mode[path])), []).append(path)
    for service, mode in model.sModes:
        for period in model.sPeriods:
            terms = [(1.0, model.vRate[path, period]) for path in of_mode[service, mode]]
            terms.append((-links.mode[service, mode], model.vY[service, mode]))
            model.cModeRate.add((service, mode, period), (None, linear(terms), 0.0))
    model.cServed = Constraint(model.sPaths, [int(role) for role in Role], model.sPeriods)
    for path, role, rows in assembly.roles:
        for period in model.sPeriods:
            terms = [(1.0, model.vN[row, period]) for row in rows]
            terms.append((-float(problem.least_replicas[paths.service[path]]), model.vW[path]))
            model.cServed.add((path, int(role), period), (0.0, linear(terms), None))
