"""Every tolerance of the package, derived from the solver's own."""

SOLVER_FEASIBILITY = 1e-9
"""Absolute violation of a row, a bound or an integrality that HiGHS may leave (its default is 1e-6)."""

ROW_CHECK = 1e-7
"""Relative violation of a row that a finished solution may show when it is re-checked from rounded integers."""

LINK_SLACK = 1e-6
"""Relative inflation of a link bound D, so that an LP optimum known to the solver's tolerance still bounds."""

KNAPSACK_SLACK = 1e-11
"""Relative inflation of a link bound computed in closed form: rounding only."""

ROUNDING = 1e-12
"""Relative rounding error granted to a sum of a few hundred doubles when replicas are counted."""

GAP_SLACK = 1e-9
"""Granted on top of the requested gap, which HiGHS compares before rates are recomputed."""
