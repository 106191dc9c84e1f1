"""Objective: weighted output tokens per second, or the cost of the replicas.

maximise   eObjective = sum_t sum_k weight[s(k)] output_tokens[s(k)] rate[k, t]     (weighted tokens/s)
minimise   eObjective = sum_t sum_r cost[r] n[r, t]                                (the caller's unit)
"""

from pyomo.core import Objective, maximize, minimize

from formulations.assembly import Assembly, linear


def add(assembly: Assembly) -> None:
    """Add the objective of the problem's sense."""
    model, problem = assembly.model, assembly.problem
    if problem.sense == "maximize":
        value = problem.value_per_request[assembly.paths.service]
        terms = [(value[path], model.vRate[path, t]) for path in model.sPaths for t in model.sPeriods]
        model.eObjective = Objective(expr=linear(terms), sense=maximize)
    else:
        terms = [(assembly.cost[row], model.vN[row, t]) for row in model.sRows for t in model.sPeriods]
        model.eObjective = Objective(expr=linear(terms), sense=minimize)
