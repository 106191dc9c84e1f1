"""Level: TTFT is joint over prefill and decode, so a service serves at chosen levels.

A level of a mode says how the TTFT is shared between the phases; the table has, at each level, the options that keep
their share. Every path k = (s, m, h) then meets the objective whatever options it is made of. For every path::

    cLevelRate[k, t]:   rate[k, t]  <=  D[k] w[k]                                  [requests/s]
    cLevel[s, m]:       sum_h w[s, m, h]  =  y[s, m]      service in one piece     [levels]
                        sum_h w[s, m, h]  >=  y[s, m]     service that may split
    cLevelMode[k]:      w[s, m, h]  <=  y[s, m]           service that may split   [levels]

D[k] is the link bound of the path alone (`formulations.links`).
"""

from pyomo.core import Constraint

from formulations.assembly import Assembly, linear
from formulations.links import Links


def add(assembly: Assembly, links: Links) -> None:
    """Add cLevelRate, cLevel and cLevelMode."""
    model, problem, paths = assembly.model, assembly.problem, assembly.paths
    model.cLevelRate = Constraint(model.sPaths, model.sPeriods)
    model.cLevelMode = Constraint(model.sPaths)
    of_mode: dict[tuple[int, int], list[int]] = {}
    for path in model.sPaths:
        pair = (int(paths.service[path]), int(paths.mode[path]))
        of_mode.setdefault(pair, []).append(path)
        for period in model.sPeriods:
            terms = [(1.0, model.vRate[path, period]), (-links.path[path], model.vW[path])]
            model.cLevelRate.add((path, period), (None, linear(terms), 0.0))
        if problem.split[pair[0]]:
            model.cLevelMode.add(path, (None, linear([(1.0, model.vW[path]), (-1.0, model.vY[pair])]), 0.0))
    model.cLevel = Constraint(model.sModes)
    for service, mode in model.sModes:
        terms = [(1.0, model.vW[path]) for path in of_mode[service, mode]]
        terms.append((-1.0, model.vY[service, mode]))
        model.cLevel.add((service, mode), (0.0, linear(terms), None if problem.split[service] else 0.0))
